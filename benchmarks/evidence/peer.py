"""TRL's side of a comparison, in an environment of its own: ``python -m benchmarks.evidence.peer``.

TRL's settings are what it can best use here: the whole step in one micro-batch, no reference model (beta 0), no
activation checkpointing, float32, no files, rewards in its own process. Weights are kept at the steps asked for, their
time left out, and are measured elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
TRL = "1.16.0"
PACKAGES = ("trl==1.16.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0")
TORCH = "torch==2.13.0"
FOLDER = ROOT / ".venv-trl"
"""``GRPO_TRL_PYTHON`` names another environment's interpreter."""


# ---- the environment ------------------------------------------------------------------------------------------------


def python() -> str:
    """The interpreter of an environment with TRL; it is made where there is none, in minutes."""
    given = os.environ.get("GRPO_TRL_PYTHON")
    if given:
        return given
    interpreter = FOLDER / "bin" / "python"
    stamp = FOLDER / ".stamp"
    if not stamp.exists():
        _make(interpreter)
        stamp.touch()
    return str(interpreter)


def _make(interpreter: Path) -> None:
    print(f"making {FOLDER} with TRL {TRL}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for packages in ([TORCH], PACKAGES):
        subprocess.run([*pip, *packages], check=True)


def train(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run of TRL in a process of its own; what `main` prints of it."""
    command = [python(), "-m", "benchmarks.evidence.peer", json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"TRL ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- inside of it ---------------------------------------------------------------------------------------------------


def countdown_reward(
    completions: list[str], numbers: Sequence[Any], target: Sequence[Any], **other: Any
) -> list[float]:
    """The quickstart's reward with TRL's signature."""
    from rewards.tasks import countdown

    rows = zip(completions, numbers, target)
    return [float(countdown(text, given, goal).value or 0.0) for text, given, goal in rows]


def sums_reward(completions: list[str], answer: Sequence[Any], **other: Any) -> list[float]:
    """The reward of smollm2_arithmetic with TRL's signature."""
    from rewards.math_answer import math_answer

    rows = zip(completions, answer)
    return [float(math_answer(text, gold).value or 0.0) for text, gold in rows]


REWARDS: Mapping[str, Callable[..., list[float]]] = {
    "countdown": countdown_reward,
    "sums": sums_reward,
}


def grpo_config(settings: Mapping[str, Any], folder: Path) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=settings["prompts"] * settings["group"],
        num_generations=settings["group"],
        max_completion_length=settings["max_tokens"],
        temperature=1.0,
        beta=0.0,
        loss_type=settings["trl_loss"],
        epsilon=0.2,
        epsilon_high=0.2,
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        max_steps=settings["steps"],
        save_strategy="no",
        logging_steps=settings["steps"],
        shuffle_dataset=False,
        disable_tqdm=True,
        seed=settings["seed"],
    )


def run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train as the settings say, keep weights where they ask for it, and give the seconds of each step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    torch.set_num_threads(settings["threads"])
    folder = Path(settings["folder"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    for row in rows:
        assert tokenizer(row["prompt"])["input_ids"] == row.pop("token_ids"), "other tokens"
    steps: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **options: Any) -> None:
            self.began = time.perf_counter()
            self.spent = time.process_time()

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            seconds = time.perf_counter() - self.began
            steps.append({"seconds": seconds, "cpu_seconds": time.process_time() - self.spent})
            if len(steps) in settings["points"]:
                kept = folder / f"step-{len(steps)}"
                trainer.model.save_pretrained(kept)
                tokenizer.save_pretrained(kept)

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32),
        reward_funcs=REWARDS[settings["reward"]],
        args=grpo_config(settings, folder),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[Clock()],
    )
    trainer.train()
    return {"steps": steps, "versions": _versions()}


def _versions() -> dict[str, str]:
    from benchmarks.evidence.frame import versions

    return versions()


if __name__ == "__main__":
    print("\n" + json.dumps(run(json.loads(sys.argv[1]))))
