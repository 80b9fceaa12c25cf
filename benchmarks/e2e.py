"""Real runs on a GPU: SmolLM2-135M learns sums and GSM8K, in full and by adapters; held-out accuracy against time.

    python -m benchmarks.e2e --model FOLDER --gsm8k gsm8k/train.jsonl [--runs sums-full ...] [--seconds 120]
    python -m benchmarks.e2e --model recipes/quickstart_base --runs sums-full --seconds 5 --small     tries the code

A run trains until its seconds are over, or its accuracy is flat (three evaluations in a row within the interval of the
first of them, after it had risen above the base's). Evaluations come every so many steps and are not counted into the
seconds of training; those of the whole run stand beside. Held-out rows never train; intervals are 95 %, over prompts.
The learning rates are ours, tried on no GPU before. `--seconds` bounds each run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Sequence

import torch

from grpo import Recipe, Trainer
from grpo.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
SUMS = {
    "data": {"source": "arithmetic", "args": {"operations": "+", "low": 1, "high": 99}},
    "sample": {"prompts": 32, "group_size": 8, "max_tokens": 32},
    "loss": {"preset": "grpo"},
}
GSM8K = {
    "data": {"columns": {"prompt": "question", "answer": "answer"}},
    "sample": {"prompts": 64, "group_size": 8, "max_tokens": 256},
    "loss": {"preset": "dr_grpo"},
}
LORA = {"rank": 16, "alpha": 32, "targets": "all-linear"}
RUNS: dict[str, dict[str, Any]] = {
    "sums-full": {**SUMS, "lora": None, "lr": 1e-5},
    "sums-lora": {**SUMS, "lora": LORA, "lr": 2e-4},
    "gsm8k-full": {**GSM8K, "lora": None, "lr": 5e-6},
    "gsm8k-lora": {**GSM8K, "lora": LORA, "lr": 1e-4},
}
SMALL: dict[str, dict[str, Any]] = {
    "data": {"held_out": 8, "template": "{prompt} "},
    "sample": {"prompts": 4, "group_size": 4, "max_tokens": 8},
}


def recipe_of(name: str, options: argparse.Namespace, folder: Path) -> Recipe:
    """The run's recipe, with sections for the machine at hand; the loop itself evaluates and keeps nothing."""
    run = RUNS[name]
    data = {"template": "chat", "held_out": 256, **run["data"]}
    if name.startswith("gsm8k"):
        data["source"] = options.gsm8k
    small: dict[str, dict[str, Any]] = SMALL if options.small else {"data": {}, "sample": {}}
    return Recipe.from_mapping(
        {
            "name": name,
            "steps": 100_000,
            "run_dir": str(folder / name),
            "seed": options.seed,
            "model": {
                "name": options.model,
                "dtype": "bfloat16" if CUDA else "float32",
                "lora": run["lora"],
            },
            "data": {**data, **small["data"]},
            "sample": {**run["sample"], "max_rows": 512, "keep_graphs": True, **small["sample"]},
            "loss": run["loss"],
            "rewards": {"correct": {"use": "math_answer"}},
            "optim": {
                "lr": run["lr"],
                "warmup": 3,
                "tokens_per_micro_batch": 32768 if CUDA else 4096,
            },
            "evaluate": {"every": 0, "samples": options.samples},
            "checkpoint": {"every": 0},
        }
    )


def held_out(trainer: Trainer) -> dict[str, Any]:
    """Accuracy of the policy as it stands, as plain values."""
    found = evaluate(
        trainer.engine, trainer.scorer, trainer.inputs.sets[0], seed=trainer.recipe.seed
    )
    return {
        key: getattr(found, key)
        for key in ("accuracy", "low", "high", "samples", "length", "truncated")
    }


def flat(points: Sequence[dict[str, Any]]) -> bool:
    """Whether the last three evaluations lie within the interval of the first of them, above the base's."""
    if len(points) < 4 or points[-3]["low"] <= points[0]["high"]:
        return False
    return all(
        points[-3]["low"] <= point["accuracy"] <= points[-3]["high"] for point in points[-2:]
    )


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy with its interval at each evaluation, and what the steps between took."""
    begun, seconds = time.perf_counter(), 0.0
    steps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe_of(name, options, Path(folder)))
        points: list[dict[str, Any]] = []
        for record in trainer:
            before = trainer.before
            assert before is not None, "evaluate.before is on"
            points = points or [
                {
                    "step": 0,
                    "seconds": 0.0,
                    "wall": 0.0,
                    **{key: before[key] for key in ("accuracy", "low", "high", "samples")},
                }
            ]
            seconds += record["seconds/step"]
            steps.append(record)
            over = seconds > options.seconds
            if over or len(steps) % options.every == 0:
                points.append(
                    {
                        "step": len(steps),
                        "seconds": round(seconds, 3),
                        "wall": round(time.perf_counter() - begun, 3),
                        **held_out(trainer),
                    }
                )
                print(name, said(points[-1]), flush=True)
                if over or flat(points):
                    break
        trainer.close()
        settings = trainer.recipe.to_mapping()
    return {
        "settings": settings,
        "points": points,
        "flat": flat(points),
        "steps": len(steps),
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - begun,
        "steps_seconds": summary(steps),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if CUDA else None,
    }


def summary(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians over the steps but the first two: seconds of each phase, tokens a second end to end, drift."""
    later = steps[2:] or steps
    found = {
        phase: statistics.median(record[f"seconds/{phase}"] for record in later)
        for phase in ("sample", "judge", "update", "step")
    }
    found["tokens_per_second"] = statistics.median(
        r["completion/tokens"] / r["seconds/step"] for r in later
    )
    found["sampled_per_second"] = statistics.median(
        r["completion/tokens"] / r["seconds/sample"] for r in later
    )
    drifts = [record["policy/drift"] for record in later if record.get("policy/drift") is not None]
    found["drift"] = statistics.median(drifts) if drifts else None
    found["flat_groups"] = statistics.mean(record["group/flat"] for record in later)
    return found


def said(point: dict[str, Any]) -> str:
    return (
        f"step {point['step']}: {point['accuracy']:.1%} [{point['low']:.1%}, {point['high']:.1%}] after "
        f"{point['seconds']:.0f} s of training, {point['wall']:.0f} s in all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="folder of SmolLM2-135M-Instruct (or a .gguf file)"
    )
    parser.add_argument("--gsm8k", help="GSM8K's train.jsonl")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, of each run")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument(
        "--samples", type=int, default=2, help="completions of each held-out prompt"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few prompts, to try the code")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if not options.gsm8k and any(name.startswith("gsm8k") for name in options.runs):
        parser.error(
            "--gsm8k is missing; name the file, or leave its runs out with --runs sums-full sums-lora"
        )
    now, failed = datetime.now(timezone.utc), []
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"e2e-{'gpu' if CUDA else 'cpu'}-{now:%Y-%m-%d-%H%M%S}.json"
    report: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "runs": {},
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "small": options.small,
    }
    for name in options.runs:
        try:
            report["runs"][name] = run(name, options)
        except Exception as error:  # the other runs are made all the same
            report["runs"][name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            failed.append(name)
            print(name, report["runs"][name]["error"], flush=True)
        file.write_text(json.dumps(report, indent=1) + "\n")
    print(file)
    if failed:
        raise SystemExit(f"e2e: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
