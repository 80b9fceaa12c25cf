"""The same training steps by this library and by TRL, in turn: seconds by phase, tokens, memory, rewards.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0
    /tmp/trl/bin/pip install trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
    python -m benchmarks.vs_trl --trl-python /tmp/trl/bin/python --case miniature
    make smollm2 && python -m benchmarks.vs_trl --trl-python /tmp/trl/bin/python --case smollm2
    python -m benchmarks.vs_trl --device cuda --case smollm2-long --model FOLDER       TRL from PYTHONPATH

Both train the same weights on the same prompts with the same reward, objective, threads and learning rate; on CPU in
float32 without checkpointing. On CUDA ours trains in bfloat16 with float32 masters and keeps its graphs, TRL as its
defaults say: float32 weights under bfloat16 autocast, activation checkpointing, 8 rows a micro-batch;
``--trl-checkpointing off --trl-micro 64`` gives it what it can use of the memory. Each
round runs one after the other as a process of its own; the first step of each process is left out of the times. Ratios
are TRL's figure over ours, of each round; what is printed is their median with the lowest and highest. Sampled tokens
differ (each has its own random numbers), so tokens per second stand beside seconds a step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Mapping

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHOTS = "".join(
    f"What is {a} + {b}? The answer is {a + b}.\n"
    for a, b in (
        (3, 4),
        (12, 7),
        (9, 9),
        (15, 2),
        (6, 13),
        (8, 1),
        (11, 5),
        (2, 14),
        (10, 10),
        (7, 6),
        (4, 16),
    )
)
CASES: dict[str, dict[str, Any]] = {
    "miniature": {"prompts": 32, "group": 8, "tokens": 80, "lr": 3e-4, "steps": 12, "micro": 256},
    "smollm2": {"prompts": 4, "group": 8, "tokens": 64, "lr": 1e-5, "steps": 4, "micro": 32},
    "smollm2-long": {"prompts": 32, "group": 8, "tokens": 256, "lr": 1e-6, "steps": 5, "micro": 8},
}


# ---- what both train ------------------------------------------------------------------------------------------


def rows(case: str) -> list[dict[str, Any]]:
    """The prompts, in the order of training, with the columns that the reward needs."""
    import random

    from rewards.tasks import load_task

    if case == "miniature":
        made = load_task("countdown").rows(style="symbols")
    else:
        made = [
            {**row, "prompt": SHOTS + row["prompt"]}
            for row in load_task("arithmetic").rows(operations="+")
        ]
    random.Random(0).shuffle(made)
    return made


def miniature_reward(
    completions: list[str], numbers: list[Any], target: list[Any], **other: Any
) -> list[float]:
    """1 for a right expression; TRL's signature, which both libraries take."""
    from rewards.tasks import countdown

    return [
        float(countdown(text, given, goal).value or 0.0)
        for text, given, goal in zip(completions, numbers, target)
    ]


def smollm2_reward(completions: list[str], answer: list[str], **other: Any) -> list[float]:
    """1 where the sum stands in the text, and a part for its brevity, so that no group is flat."""
    return [
        float(str(gold) in text.split()) + len(set(text)) / 100
        for text, gold in zip(completions, answer)
    ]


# ---- one process of each ----------------------------------------------------------------------------------------


def reward_of(case: str) -> str:
    """The name of the case's reward in this file."""
    return f"{case.split('-')[0]}_reward"


def run_ours(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """GraphRunner of this library as records."""
    from grpo import Recipe, Trainer

    made, cuda = CASES[case], settings["device"] == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(case)))
        recipe = Recipe.from_mapping(
            {
                "name": case,
                "steps": settings["steps"],
                "run_dir": f"{folder}/run",
                "threads": settings["threads"],
                "model": {"name": model, "dtype": "bfloat16" if cuda else "float32"},
                "data": {"source": str(data), "template": "plain"},
                "sample": {
                    "prompts": made["prompts"],
                    "group_size": made["group"],
                    "max_tokens": made["tokens"],
                    "keep_graphs": cuda,
                },
                "rewards": {"correct": {"use": f"{Path(__file__).resolve()}:{reward_of(case)}"}},
                "loss": {"preset": "grpo", "aggregation": "token_mean"},
                "optim": {"lr": made["lr"], "tokens_per_micro_batch": settings["ours_micro"]},
                "checkpoint": {"every": 0},
            }
        )
        trainer, records, spent = Trainer(recipe), [], time.process_time()
        for record in trainer:
            now = time.process_time()
            records.append(
                {
                    "seconds": record["seconds/step"],
                    "cpu_seconds": now - spent,
                    "sample": record["seconds/sample"] + record["seconds/judge"],
                    "update": record["seconds/update"],
                    "tokens": record["completion/tokens"],
                    "reward": record["reward/mean"],
                    "prompt_tokens": statistics.mean(
                        len(g.prompt.token_ids) for g in trainer.groups
                    ),
                }
            )
            spent = now
            if record["step"] == settings["steps"]:
                break  # what follows a last step (the final folder) is not the step's
        trainer.close()
    return records


def run_trl(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """GraphRunner of TRL's trainer as records; its phases are timed around its own methods."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    cuda = settings["device"] == "cuda"
    if not cuda:
        torch.set_num_threads(settings["threads"])
    made, records = CASES[case], []
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows_made = rows(case)
    pieces = made["prompts"] * made["group"] // settings["trl_micro"]

    class Timed(GRPOTrainer):
        sampling, counted, rewarded, prompted = 0.0, 0, 0.0, 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            begun = time.perf_counter()
            result = super()._generate_and_score_completions(inputs)
            wait()
            self.sampling = time.perf_counter() - begun
            self.counted = int(result["completion_mask"].sum())
            self.prompted = float(result["prompt_mask"].sum(1).float().mean())
            return result

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._calculate_rewards(*args, **kwargs)
            self.rewarded = float(result.mean())
            return result

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            wait()
            self.begun, self.spent = time.perf_counter(), time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            wait()
            seconds = time.perf_counter() - self.begun
            records.append(
                {
                    "seconds": seconds,
                    "cpu_seconds": time.process_time() - self.spent,
                    "sample": trainer.sampling,
                    "update": seconds - trainer.sampling,
                    "tokens": trainer.counted,
                    "reward": trainer.rewarded,
                    "prompt_tokens": trainer.prompted,
                }
            )

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=not cuda,
            bf16=cuda,
            report_to=[],
            gradient_checkpointing=settings["checkpointing"],
            per_device_train_batch_size=settings["trl_micro"],
            gradient_accumulation_steps=pieces,
            num_generations=made["group"],
            max_completion_length=made["tokens"],
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",
            epsilon_high=0.2,
            learning_rate=made["lr"],
            lr_scheduler_type="constant",
            max_steps=settings["steps"],
            save_strategy="no",
            logging_steps=1,
            shuffle_dataset=False,
            disable_tqdm=True,
            max_grad_norm=1.0,
            seed=0,
        )
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        trainer = Timed(
            policy,
            reward_funcs=globals()[reward_of(case)],
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows_made),
            callbacks=[Clock()],
        )
        trainer.train()
    return records


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
    """One process of one side, waited for; its figures as means over its steps but the first."""
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(settings["threads"]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [
            python,
            "-m",
            "benchmarks.vs_trl",
            "--child",
            side,
            "--case",
            case,
            "--model",
            model,
            "--settings",
            json.dumps(settings),
        ],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        return {"error": done.stderr[-3000:]}
    result = json.loads(done.stdout.splitlines()[-1])
    later = result["records"][1:]
    figures = {
        key: statistics.mean(record[key] for record in later)
        for key in ("seconds", "cpu_seconds", "sample", "update", "tokens", "prompt_tokens")
    }
    figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
    figures["tokens_per_cpu_second"] = figures["tokens"] / figures["cpu_seconds"]
    return {
        **figures,
        "peak_gib": result["peak_gib"],
        "rewards": [record["reward"] for record in result["records"]],
    }


def ratios(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """TRL's figure over ours, of each round that both sides made: median, lowest, highest."""
    found = {}
    rounds = [pair for pair in rounds if not any("error" in part for part in pair.values())]
    if not rounds:
        return {}
    for name in (
        "seconds",
        "cpu_seconds",
        "sample",
        "update",
        "tokens_per_second",
        "tokens_per_cpu_second",
        "peak_gib",
    ):
        values = [pair["trl"][name] / pair["ours"][name] for pair in rounds]
        found[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return found


def prepared(case: str, given: str | None) -> str:
    """A folder with the case's model that both libraries load."""
    if given:
        return given
    if case == "miniature":
        return str(ROOT / "recipes" / "quickstart_base")
    folder = ROOT / "models" / "smollm2-dequantised"
    if not (folder / "config.json").exists():
        from grpo.model.policy import Policy
        from grpo.recipe import ModelSection

        Policy.load(ModelSection(name=str(ROOT / "models" / "smollm2"))).save(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trl-python", help="interpreter of an environment with TRL; default on CUDA: this one"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--trl-checkpointing", choices=("on", "off"), help="default: on with CUDA, as TRL's is"
    )
    parser.add_argument("--case", choices=CASES, default="miniature")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, help="steps of each process; default 12 (miniature), 4 (smollm2)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--trl-micro", type=int, help="TRL's per_device_train_batch_size; default: the whole step"
    )
    parser.add_argument(
        "--ours-micro", type=int, default=16384, help="our optim.tokens_per_micro_batch"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help="folder with the model; default: the case's own")
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.case, options.model, options.settings)
    if options.device == "cuda":
        options.trl_python = options.trl_python or sys.executable
    if not options.trl_python:
        parser.error(
            "--trl-python is missing; this file's first lines say how to make that environment"
        )
    made = CASES[options.case]
    settings = {
        "steps": options.steps or made["steps"],
        "threads": options.threads,
        "trl_micro": options.trl_micro or made["micro"],
        "ours_micro": options.ours_micro,
        "device": options.device,
        "checkpointing": (options.trl_checkpointing or ("off", "on")[options.device == "cuda"])
        == "on",
    }
    model, taken = prepared(options.case, options.model), []
    for number in range(options.rounds):
        order = [("ours", sys.executable), ("trl", options.trl_python)]
        pair = {
            side: start(python, side, options.case, model, settings)
            for side, python in (order if number % 2 == 0 else order[::-1])
        }
        taken.append(pair)
        print(
            f"round {number + 1}: "
            + "; ".join(f"{side} {said(pair[side])}" for side in ("ours", "trl")),
            flush=True,
        )
        file = written(options.out, options.case, {**made, **settings}, taken)
    if not ratios(taken):
        sys.exit(f"no round was made by both; see {file}")
    for name, ratio in ratios(taken).items():
        print(
            f"TRL / ours  {name:22} {ratio['median']:.2f}  [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        )
    print(f"written to {file}")


def said(part: Mapping[str, Any]) -> str:
    if "error" in part:
        return f"failed: {part['error'].strip().splitlines()[-1]}"
    return (
        f"{part['seconds']:.2f} s a step ({part['sample']:.2f} sampling, {part['update']:.2f} update), "
        f"{part['tokens_per_second']:.0f} tokens/s, {part['peak_gib']:.2f} GiB"
    )


def device_name(device: str) -> dict[str, str]:
    if device == "cpu":
        return {}
    import torch

    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__}


def written(
    folder: Path,
    case: str,
    settings: Mapping[str, Any],
    taken: list[dict[str, dict[str, Any]]],
    found: Mapping[str, Any] | None = None,
) -> Path:
    """The rounds so far, with the ratios `found` in them (default: `ratios`), as a dated file of results."""
    now = datetime.now(timezone.utc)
    report = {
        "case": case,
        "date": now.isoformat(timespec="seconds"),
        "machine": {
            **device_name(settings["device"]),
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
        },
        "settings": settings,
        "rounds": taken,
        "trl_over_ours": ratios(taken) if found is None else found,
    }
    folder.mkdir(exist_ok=True)
    kind = "" if settings["device"] == "cpu" else f"-micro{settings['trl_micro']}"
    file = folder / f"vs-trl-{settings['device']}-{case}{kind}-{now:%Y-%m-%d}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    return file


if __name__ == "__main__":
    main()
