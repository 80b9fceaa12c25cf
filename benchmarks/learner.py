"""One whole update by this library and by TRL, in turn: seconds, peak memory, tokens forwarded.

    python -m benchmarks.learner --trl-python /tmp/trl/bin/python       (CPU; vs_trl.py says how to make it)
    python -m benchmarks.learner --device cuda --cases 0.5B-g8-p200 ...      (GPU; TRL on PYTHONPATH, or --ours-only)

Both make the same update of the same weights from the same prompts, completions and advantages (nothing is sampled):
forward, backward, clipping, AdamW. Completions have log-normal lengths. Each side runs in a process of its own, in
turn; the first updates of each process are left out. Ratios are TRL's figure over ours in each round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent
QWEN_05 = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_15 = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40000,
    "tie_word_embeddings": True,
}
CASES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "model": "models/smollm2-dequantised",
        "prompts": 4,
        "group": 8,
        "prompt": 200,
        "longest": 128,
        "median": 64,
        "dtype": "float32",
        "micro": 1600,
        "trl_micro": 16,
    },
    **{
        f"{size}-g{group}-p{prompt}": {
            "config": config,
            "prompts": 64 // group,
            "group": group,
            "prompt": prompt,
            "longest": 2048,
            "median": 512,
            "dtype": "bfloat16",
            "micro": micro,
            "trl_micro": 4,
        }
        for size, config, micro in (("0.5B", QWEN_05, 24576), ("1.5B", QWEN_15, 8192))
        for group in (8, 16)
        for prompt in (200, 2000)
    },
    "tiny": {
        "config": TINY,
        "prompts": 2,
        "group": 2,
        "prompt": 9,
        "longest": 12,
        "median": 6,
        "dtype": "float32",
        "micro": 64,
        "trl_micro": 2,
    },
}


def made_rows(
    case: Mapping[str, Any], seed: int = 0
) -> list[tuple[list[int], list[list[int]], list[float]]]:
    """Groups as (prompt ids, completions' ids, advantages); lengths log-normal with sigma 0.6, cut at the longest."""
    rng = random.Random(seed)
    groups = []
    for _ in range(case["prompts"]):
        lengths = [
            max(4, min(case["longest"], round(math.exp(rng.gauss(math.log(case["median"]), 0.6)))))
            for _ in range(case["group"])
        ]
        scores = [rng.random() for _ in lengths]
        mean = statistics.mean(scores)
        groups.append(
            (
                rng.choices(range(100, 30000), k=case["prompt"]),
                [rng.choices(range(100, 30000), k=n) for n in lengths],
                [(score - mean) / (statistics.stdev(scores) + 1e-4) for score in scores],
            )
        )
    return groups


def made_model(case: Mapping[str, Any], device: str) -> Any:
    """The case's model: weights from a folder, or random ones of a configuration, made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    if "model" in case:
        return AutoModelForCausalLM.from_pretrained(
            ROOT / case["model"], dtype=getattr(torch, case["dtype"])
        )
    torch.manual_seed(0)
    config = Qwen2Config(**case["config"], max_position_embeddings=8192)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case["dtype"]))


# ---- one process of each ----------------------------------------------------------------------------------------


def run_ours(case: Mapping[str, Any], settings: Mapping[str, Any]) -> list[float]:
    """Seconds of each update by this library."""
    import torch

    from grpo.learner.batch import make_batch
    from grpo.learner.learner import Learner
    from grpo.learner.optimizer import Optimizer
    from grpo.model.policy import Policy
    from grpo.objective.advantage import advantages
    from grpo.recipe import AdvantageSection, LossSection, OptimSection
    from grpo.types import Completion, Prompt, ScoredGroup
    from rewards import Score

    policy = Policy(
        made_model(case, settings["device"]),
        _tokenizer(case),
        settings["device"],
        gradient_checkpointing=settings["recompute"],
    )
    groups = [
        ScoredGroup(
            Prompt(str(g), tuple(prompt), {}),
            tuple(
                Completion("", tuple(ids), torch.full((len(ids),), -8.0), "stop") for ids in texts
            ),
            tuple(Score(a) for a in advantages),
        )
        for g, (prompt, texts, advantages) in enumerate(made_rows(case))
    ]
    batch = make_batch(
        groups,
        advantages(groups, AdvantageSection()),
        num_updates=1,
        epochs=1,
        max_tokens=case["longest"],
        mask_truncated=False,
        forward_flat=False,
    )
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), OptimSection(lr=1e-6), 100),
        LossSection(aggregation="token_mean", correction="none"),
        temperature=1.0,
        tokens_per_micro_batch=settings["micro"] or case["micro"],
    )
    print(policy.describe_head(), file=sys.stderr)

    def update() -> None:
        learner.begin(batch)
        assert learner.update(batch.updates[0]).made

    return [_timed(update, settings["device"]) for _ in range(settings["updates"])]


def run_trl(case: Mapping[str, Any], settings: Mapping[str, Any]) -> list[float]:
    """Seconds of each update by TRL's trainer, its own sampling replaced by the given completions."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, seconds = _tokenizer(case), []
    given = _padded(made_rows(case))
    number = len(given["advantages"])

    class Given(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            return {name: part.to(self.accelerator.device) for name, part in given.items()}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            _wait(settings["device"])
            self.begun = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            _wait(settings["device"])
            seconds.append(time.perf_counter() - self.begun)

    micro = settings["trl_micro"] or case["trl_micro"]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=settings["device"] == "cpu",
            bf16=case["dtype"] == "bfloat16",
            gradient_checkpointing=settings["recompute"],
            report_to=[],
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=number // micro,
            num_generations=case["group"],
            temperature=1.0,
            beta=0.0,
            max_completion_length=case["longest"],
            loss_type="dapo",
            learning_rate=1e-6,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            max_steps=settings["updates"],
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            seed=0,
        )
        model, rows = (
            made_model(case, settings["device"]),
            Dataset.from_list([{"prompt": "a"}] * number),
        )
        trainer = Given(
            model,
            reward_funcs=lambda completions, **other: [0.0] * len(completions),
            args=config,
            processing_class=tokenizer,
            callbacks=[Clock()],
            train_dataset=rows,
        )
        trainer.train()
    return seconds


def _tokenizer(case: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / case.get("model", "recipes/quickstart_base"))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    size = case.get("config", {}).get("vocab_size", 0)
    if size > len(tokenizer):  # so that the whole vocabulary can be sampled
        tokenizer.add_tokens([f"<filler{i}>" for i in range(size - len(tokenizer))])
    return tokenizer


def _padded(groups: list[tuple[list[int], list[list[int]], list[float]]]) -> dict[str, Any]:
    """The batch as TRL lays it out: prompts padded on the left, completions on the right."""
    import torch

    rows = [
        (prompt, ids, a)
        for prompt, texts, advantages in groups
        for ids, a in zip(texts, advantages)
    ]
    longest = max(len(ids) for _, ids, _ in rows)
    ids = torch.tensor([text + [0] * (longest - len(text)) for _, text, _ in rows])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for _, text, _ in rows])
    prompts = torch.tensor([prompt for prompt, _, _ in rows])
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor([a for _, _, a in rows]),
        "num_items_in_batch": mask.sum(),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _timed(action: Callable[[], None], device: str) -> float:
    _wait(device)
    begun = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - begun


def child(side: str, case: str, settings: Mapping[str, Any]) -> None:
    """Run one side and print its seconds and peak memory as JSON on the last line."""
    import torch

    if settings["device"] == "cpu":
        torch.set_num_threads(settings["threads"])
    seconds = (run_ours if side == "ours" else run_trl)(CASES[case], settings)
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if settings["device"] == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    print("\n" + json.dumps({"seconds": seconds, "peak_gib": round(peak, 3)}))


# ---- in turn ----------------------------------------------------------------------------------------------------


def start(python: str, side: str, case: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One process of one side; its seconds are the median of its updates but the first ones."""
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(settings["threads"]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    command = [
        python,
        "-m",
        "benchmarks.learner",
        "--child",
        side,
        "--cases",
        case,
        "--settings",
        json.dumps(settings),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": statistics.median(result["seconds"][settings["warmup"] :]),
        "each": result["seconds"],
        "peak_gib": result["peak_gib"],
    }


def counts(case: Mapping[str, Any]) -> dict[str, int]:
    """Tokens each side forwards through the layers: packed with shared prompts, or padded rows."""
    groups = made_rows(case)
    longest = max(len(ids) for _, texts, _ in groups for ids in texts)
    completions = sum(len(ids) for _, texts, _ in groups for ids in texts)
    rows = case["prompts"] * case["group"]
    return {
        "completion_tokens": completions,
        "ours_forwarded": completions + case["prompts"] * case["prompt"],
        "trl_forwarded": rows * (case["prompt"] + longest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["smollm2"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--trl-python", help="interpreter of an environment with TRL; default: this one"
    )
    parser.add_argument(
        "--ours-python",
        default=sys.executable,
        help="interpreter for this library; default: this one",
    )
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--micro", type=int, default=0, help="our optim.tokens_per_micro_batch; 0: the case's own"
    )
    parser.add_argument(
        "--trl-micro", type=int, default=0, help="TRL's rows in a micro-batch; 0: the case's own"
    )
    parser.add_argument(
        "--recompute", action="store_true", help="activation checkpointing on both sides"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.cases[0], options.settings)
    settings = {
        name: getattr(options, name)
        for name in ("device", "updates", "warmup", "threads", "micro", "trl_micro", "recompute")
    }
    sides = {"ours": options.ours_python}
    if not options.ours_only:
        sides["trl"] = options.trl_python or sys.executable
    report = [measured(case, options.rounds, sides, settings) for case in options.cases]
    now = datetime.now(timezone.utc)
    file = options.out / f"learner-{options.device}-{now:%Y-%m-%d-%H%M%S}.json"
    options.out.mkdir(exist_ok=True)
    file.write_text(
        json.dumps(
            {
                "date": now.isoformat(timespec="seconds"),
                "machine": machine(options.device),
                "settings": settings,
                "cases": report,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"written to {file}")


def measured(
    name: str, rounds: int, sides: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Rounds of one case with their ratios, printed as they come."""
    taken: list[dict[str, Any]] = []
    for number in range(rounds):
        order = list(sides.items())[:: 1 if number % 2 == 0 else -1]
        taken.append({side: start(python, side, name, settings) for side, python in order})
        print(name, json.dumps(taken[-1]), flush=True)
    found = {"case": name, **CASES[name], **counts(CASES[name]), "rounds": taken}
    for figure in ("seconds", "peak_gib"):
        ratios = [
            pair["trl"][figure] / pair["ours"][figure]
            for pair in taken
            if all("error" not in part for part in pair.values()) and "trl" in pair
        ]
        if ratios:
            found[f"trl_over_ours_{figure}"] = {"median": statistics.median(ratios), "each": ratios}
            print(f"{name}: TRL / ours {figure} {statistics.median(ratios):.2f}", flush=True)
    return found


def machine(device: str) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    return {"device": name, "torch": torch.__version__}


if __name__ == "__main__":
    main()
