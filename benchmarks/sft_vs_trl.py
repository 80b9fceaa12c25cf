"""The same supervised updates by this library and by TRL's SFTTrainer, in turn: seconds, tokens, memory, losses.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0
    /tmp/trl/bin/pip install trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
    python -m benchmarks.sft_vs_trl --trl-python /tmp/trl/bin/python --case miniature
    make smollm2 && python -m benchmarks.sft_vs_trl --trl-python /tmp/trl/bin/python --case smollm2
    python -m benchmarks.sft_vs_trl --device cuda --case smollm2-long --model FOLDER     TRL from PYTHONPATH

Both train the same weights on the same rows in the same order: prompts and completions of the task countdown, the loss
on the completions and their end token, AdamW at a constant rate, float32 on a CPU (bfloat16 with float32 masters
against bfloat16 autocast on CUDA, where TRL also keeps its default of activation checkpointing). TRL pads each
micro-batch to its longest row; its own packing needs flash-attention to keep rows apart, which a CPU lacks. Each round
runs one after the other as a process of its own, and the first update of each is left out of the times. Ratios are
TRL's figure over ours, of each round; what is printed is their median with the lowest and highest. The losses of both
stand in the file: they are equal as long as both train on the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Mapping

from benchmarks.vs_trl import prepared, written

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CASES: dict[str, dict[str, Any]] = {
    "miniature": {
        "style": "symbols",
        "numbers": 3,
        "batch": 64,
        "lr": 1e-3,
        "steps": 12,
        "micro": 64,
    },
    "smollm2": {"style": "words", "numbers": 3, "batch": 16, "lr": 1e-5, "steps": 4, "micro": 16},
    "smollm2-long": {
        "style": "words",
        "numbers": 5,
        "batch": 128,
        "lr": 1e-5,
        "steps": 6,
        "micro": 16,
    },
}
FIGURES = ("seconds", "cpu_seconds", "tokens", "loss")


def rows(case: str, number: int) -> list[dict[str, str]]:
    """Prompts and completions in the order of training; a space begins each completion, so that no token spans both."""
    import random

    from rewards.tasks import load_task

    made = CASES[case]
    found = load_task("countdown").rows(
        style=made["style"], numbers=made["numbers"], traces="search", count=2000
    )
    random.Random(0).shuffle(found)
    return [
        {"prompt": row["prompt"], "completion": f" {row['completion']}"} for row in found[:number]
    ]


# ---- one process of each ----------------------------------------------------------------------------------------


class Clock:
    """Records of updates: wall and CPU seconds of each, and what is added to them."""

    def __init__(self, cuda: bool):
        self.cuda = cuda
        self.records: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        self._wait()
        self._begun = time.perf_counter()
        self._spent = time.process_time()

    def end(self, **values: Any) -> None:
        self._wait()
        seconds = time.perf_counter() - self._begun
        cpu_seconds = time.process_time() - self._spent
        self.records.append({"seconds": seconds, "cpu_seconds": cpu_seconds, **values})
        self.begin()

    def _wait(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()


def run_ours(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run of stage sft as records; its stream's order is replaced by that of the rows."""
    from grpo import Recipe, SftTrainer
    from grpo.data.stream import PromptStream

    made = CASES[case]
    cuda = settings["device"] == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.from_mapping(
            {
                "name": case,
                "stage": "sft",
                "steps": settings["steps"],
                "run_dir": f"{folder}/run",
                "threads": settings["threads"],
                "model": {"name": model, "dtype": "bfloat16" if cuda else "float32"},
                "data": {"template": "plain"},
                "sft": {"batch": made["batch"]},
                "optim": {"lr": made["lr"], "tokens_per_micro_batch": settings["ours_micro"]},
                "checkpoint": {"every": 0},
            }
        )
        data = rows(case, made["batch"] * settings["steps"])
        trainer = SftTrainer(recipe, data=data, quiet=True)
        trainer.open()
        stream = trainer.curriculum.stream
        assert isinstance(stream, PromptStream), "one source"
        stream._order.sort()
        clock = Clock(cuda)
        for record in trainer:
            clock.end(tokens=record["update/tokens"], loss=record["update/loss"])
            if record["step"] == settings["steps"]:
                break  # what follows a last step (the final folder) is not the step's
        trainer.close()
    return clock.records


def run_trl(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run of TRL's SFTTrainer as records."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    cuda = settings["device"] == "cuda"
    if not cuda:
        torch.set_num_threads(settings["threads"])
    made = CASES[case]
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    clock = Clock(cuda)
    learnt: list[int] = []

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            learnt.append(int((inputs["labels"] != -100).sum()))
            return super().compute_loss(model, inputs, *args, **kwargs)

        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class OnSteps(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            learnt.clear()
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.end(tokens=sum(learnt))

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            logs: Mapping[str, Any] = kwargs["logs"]
            if "loss" in logs:
                clock.records[-1]["loss"] = float(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            use_cpu=not cuda,
            bf16=cuda,
            report_to=[],
            gradient_checkpointing=settings["checkpointing"],
            per_device_train_batch_size=settings["trl_micro"],
            gradient_accumulation_steps=made["batch"] // settings["trl_micro"],
            learning_rate=made["lr"],
            lr_scheduler_type="constant",
            max_steps=settings["steps"],
            completion_only_loss=True,
            max_length=None,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            max_grad_norm=1.0,
            weight_decay=0.0,
            seed=0,
        )
        trainer = Counting(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows(case, made["batch"] * settings["steps"])),
            callbacks=[OnSteps()],
        )
        trainer.train()
    return clock.records


def child(side: str, case: str, model: str, settings: Mapping[str, Any]) -> None:
    """Run one side and print its records and its peak memory as JSON on the last line."""
    records = (run_ours if side == "ours" else run_trl)(case, model, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if settings["device"] == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated() / 2**30
    print("\n" + json.dumps({"records": records, "peak_gib": round(peak, 3)}))


# ---- in turn ----------------------------------------------------------------------------------------------------


def start(
    python: str, side: str, case: str, model: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One process of one side, waited for; its figures as means over its updates but the first."""
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(settings["threads"]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    words = ["--child", side, "--case", case, "--model", model, "--settings", json.dumps(settings)]
    command = [python, "-m", "benchmarks.sft_vs_trl", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        return {"error": done.stderr[-3000:]}
    result = json.loads(done.stdout.splitlines()[-1])
    later = result["records"][1:]
    figures = {key: statistics.mean(record[key] for record in later) for key in FIGURES}
    figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
    figures["tokens_per_cpu_second"] = figures["tokens"] / figures["cpu_seconds"]
    losses = [record["loss"] for record in result["records"]]
    return {**figures, "peak_gib": result["peak_gib"], "losses": losses}


def ratios(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """TRL's figure over ours, of each round that both sides made: median, lowest, highest."""
    found: dict[str, dict[str, float]] = {}
    made = [pair for pair in rounds if not any("error" in part for part in pair.values())]
    if not made:
        return found
    for name in (
        "seconds",
        "cpu_seconds",
        "tokens_per_second",
        "tokens_per_cpu_second",
        "peak_gib",
    ):
        values = [pair["trl"][name] / pair["ours"][name] for pair in made]
        found[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return found


def said(part: Mapping[str, Any]) -> str:
    if "error" in part:
        return f"failed: {part['error'].strip().splitlines()[-1]}"
    return (
        f"{part['seconds']:.2f} s an update ({part['cpu_seconds']:.2f} CPU), {part['tokens_per_second']:.0f} learnt "
        f"tokens/s, {part['peak_gib']:.2f} GiB, losses {part['losses'][0]:.4f} to {part['losses'][-1]:.4f}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trl-python", help="interpreter of an environment with TRL; default on CUDA: this one"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", choices=CASES, default="miniature")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates of each process; default: the case's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-micro", type=int, help="TRL's per_device_train_batch_size")
    parser.add_argument(
        "--ours-micro", type=int, default=16384, help="our optim.tokens_per_micro_batch"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help="folder with the model; default: the case's own")
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda":
        options.trl_python = options.trl_python or sys.executable
    if not options.trl_python and not options.child:
        parser.error(
            "--trl-python is missing; this file's first lines say how to make that environment"
        )
    return options


def main() -> None:
    options = parsed()
    if options.child:
        child(options.child, options.case, options.model, options.settings)
        return
    made = CASES[options.case]
    settings = {
        "steps": options.steps or made["steps"],
        "threads": options.threads,
        "trl_micro": options.trl_micro or made["micro"],
        "ours_micro": options.ours_micro,
        "device": options.device,
        "checkpointing": options.device == "cuda",
    }
    model = prepared(options.case, options.model)
    taken: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        order = [("ours", sys.executable), ("trl", options.trl_python)]
        pair = {
            side: start(python, side, options.case, model, settings)
            for side, python in (order if number % 2 == 0 else order[::-1])
        }
        taken.append(pair)
        for side in ("ours", "trl"):
            print(f"round {number + 1}, {side}: {said(pair[side])}", flush=True)
        case = f"sft-{options.case}"
        file = written(options.out, case, {**made, **settings}, taken, ratios(taken))
    if not ratios(taken):
        sys.exit(f"no round was made by both; see {file}")
    for name, ratio in ratios(taken).items():
        spread = f"[{ratio['low']:.2f}, {ratio['high']:.2f}]"
        print(f"TRL / ours  {name:22} {ratio['median']:.2f}  {spread}")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
