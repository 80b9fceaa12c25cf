"""The same training steps by this library and by TRL, in turn, on CPU: seconds by phase, tokens, memory, rewards.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0
    /tmp/trl/bin/pip install trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
    python benchmarks/vs_trl_cpu.py --trl-python /tmp/trl/bin/python --case miniature
    make smollm2 && python benchmarks/vs_trl_cpu.py --trl-python /tmp/trl/bin/python --case smollm2

Both train the same weights on the same prompts with the same reward, objective, dtype, threads and learning rate. Each
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
SHOTS = "".join(f"What is {a} + {b}? The answer is {a + b}.\n" for a, b in
                ((3, 4), (12, 7), (9, 9), (15, 2), (6, 13), (8, 1), (11, 5), (2, 14), (10, 10), (7, 6), (4, 16)))
CASES: dict[str, dict[str, Any]] = {
    "miniature": {"prompts": 32, "group": 8, "tokens": 80, "lr": 3e-4, "steps": 12, "micro": 256},
    "smollm2": {"prompts": 4, "group": 8, "tokens": 64, "lr": 1e-5, "steps": 4, "micro": 32},
}


# ---- what both train ------------------------------------------------------------------------------------------


def rows(case: str) -> list[dict[str, Any]]:
    """The prompts, in the order of training, with the columns that the reward needs."""
    import random

    from rewards.tasks import load_task

    if case == "miniature":
        made = load_task("countdown").rows(style="symbols")
    else:
        made = [{**row, "prompt": SHOTS + row["prompt"]} for row in load_task("arithmetic").rows(operations="+")]
    random.Random(0).shuffle(made)
    return made


def miniature_reward(completions: list[str], numbers: list[Any], target: list[Any], **other: Any) -> list[float]:
    """1 for a right expression; TRL's signature, which both libraries take."""
    from rewards.tasks import countdown

    return [float(countdown(text, given, goal).value or 0.0)
            for text, given, goal in zip(completions, numbers, target)]


def smollm2_reward(completions: list[str], answer: list[str], **other: Any) -> list[float]:
    """1 where the sum stands in the text, and a part for its brevity, so that no group is flat."""
    return [float(str(gold) in text.split()) + len(set(text)) / 100 for text, gold in zip(completions, answer)]


# ---- one process of each ----------------------------------------------------------------------------------------


def run_ours(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps of this library as records."""
    from grpo import Recipe, Trainer

    made = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(case)))
        recipe = Recipe.from_mapping({
            "name": case, "steps": settings["steps"], "run_dir": f"{folder}/run", "threads": settings["threads"],
            "model": {"name": model}, "data": {"source": str(data), "template": "plain"},
            "sample": {"prompts": made["prompts"], "group_size": made["group"], "max_tokens": made["tokens"]},
            "rewards": {"correct": {"use": f"{Path(__file__).resolve()}:{case}_reward"}},
            "loss": {"preset": "grpo", "aggregation": "token_mean"},
            "optim": {"lr": made["lr"], "tokens_per_micro_batch": settings["ours_micro"]},
            "checkpoint": {"every": 0}})
        trainer, records, spent = Trainer(recipe), [], time.process_time()
        for record in trainer:
            now = time.process_time()
            records.append({"seconds": record["seconds/step"], "cpu_seconds": now - spent,
                            "sample": record["seconds/sample"] + record["seconds/judge"],
                            "update": record["seconds/update"], "tokens": record["completion/tokens"],
                            "reward": record["reward/mean"],
                            "prompt_tokens": statistics.mean(len(g.prompt.token_ids) for g in trainer.groups)})
            spent = now
            if record["step"] == settings["steps"]:
                break  # what follows a last step (the final folder) is not the step's
        trainer.close()
    return records


def run_trl(case: str, model: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps of TRL's trainer as records; its phases are timed around its own methods."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

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
            self.sampling = time.perf_counter() - begun
            self.counted = int(result["completion_mask"].sum())
            self.prompted = float(result["prompt_mask"].sum(1).float().mean())
            return result

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._calculate_rewards(*args, **kwargs)
            self.rewarded = float(result.mean())
            return result

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun, self.spent = time.perf_counter(), time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds = time.perf_counter() - self.begun
            records.append({"seconds": seconds, "cpu_seconds": time.process_time() - self.spent,
                            "sample": trainer.sampling, "update": seconds - trainer.sampling,
                            "tokens": trainer.counted, "reward": trainer.rewarded,
                            "prompt_tokens": trainer.prompted})

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
            per_device_train_batch_size=settings["trl_micro"], gradient_accumulation_steps=pieces,
            num_generations=made["group"], max_completion_length=made["tokens"], temperature=1.0, beta=0.0,
            loss_type="dapo", epsilon_high=0.2, learning_rate=made["lr"], lr_scheduler_type="constant",
            max_steps=settings["steps"], save_strategy="no", logging_steps=1, shuffle_dataset=False,
            disable_tqdm=True, max_grad_norm=1.0, seed=0)
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        trainer = Timed(policy, reward_funcs=globals()[f"{case}_reward"], args=config, processing_class=tokenizer,
                        train_dataset=Dataset.from_list(rows_made), callbacks=[Clock()])
        trainer.train()
    return records


def child(side: str, case: str, model: str, settings: Mapping[str, Any]) -> None:
    """Run one side and print its records and its peak memory as JSON on the last line."""
    records = (run_ours if side == "ours" else run_trl)(case, model, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("\n" + json.dumps({"records": records, "peak_gib": round(peak, 3)}))


# ---- in turn ----------------------------------------------------------------------------------------------------


def start(python: str, side: str, case: str, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One process of one side, waited for; its figures as means over its steps but the first."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(settings["threads"]),
                   "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, str(Path(__file__).resolve()), "--child", side, "--case", case, "--model", model,
                           "--settings", json.dumps(settings)], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    later = result["records"][1:]
    figures = {key: statistics.mean(record[key] for record in later)
               for key in ("seconds", "cpu_seconds", "sample", "update", "tokens", "prompt_tokens")}
    figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
    figures["tokens_per_cpu_second"] = figures["tokens"] / figures["cpu_seconds"]
    return {**figures, "peak_gib": result["peak_gib"], "rewards": [record["reward"] for record in result["records"]]}


def ratios(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """TRL's figure over ours, of each round: median, lowest, highest."""
    found = {}
    for name in ("seconds", "cpu_seconds", "sample", "update", "tokens_per_second", "tokens_per_cpu_second",
                 "peak_gib"):
        values = [pair["trl"][name] / pair["ours"][name] for pair in rounds]
        found[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return found


def prepared(case: str) -> str:
    """A folder with the case's model that both libraries load."""
    if case == "miniature":
        return str(ROOT / "recipes" / "quickstart_base")
    folder = ROOT / "models" / "smollm2-dequantised"
    if not (folder / "config.json").exists():
        from grpo.policy import Policy
        from grpo.recipe import ModelSection

        Policy.load(ModelSection(name=str(ROOT / "models" / "smollm2"))).save(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="interpreter of an environment with TRL")
    parser.add_argument("--case", choices=CASES, default="miniature")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of each process; default 12 (miniature), 4 (smollm2)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-micro", type=int, help="TRL's per_device_train_batch_size; default: the whole step")
    parser.add_argument("--ours-micro", type=int, default=16384, help="our optim.tokens_per_micro_batch")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.case, options.model, options.settings)
    if not options.trl_python:
        parser.error("--trl-python is missing; this file's first lines say how to make that environment")
    made = CASES[options.case]
    settings = {"steps": options.steps or made["steps"], "threads": options.threads,
                "trl_micro": options.trl_micro or made["micro"], "ours_micro": options.ours_micro}
    model, taken = prepared(options.case), []
    for number in range(options.rounds):
        order = [("ours", sys.executable), ("trl", options.trl_python)]
        pair = {side: start(python, side, options.case, model, settings)
                for side, python in (order if number % 2 == 0 else order[::-1])}
        taken.append(pair)
        print(f"round {number + 1}: " + "; ".join(
            f"{side} {pair[side]['seconds']:.2f} s a step ({pair[side]['sample']:.2f} sampling, "
            f"{pair[side]['update']:.2f} update), {pair[side]['tokens_per_second']:.0f} tokens/s, "
            f"{pair[side]['peak_gib']:.2f} GiB" for side in ("ours", "trl")), flush=True)
    report = {"case": options.case, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
              "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                          "load_average": os.getloadavg()},
              "settings": {**made, **settings}, "rounds": taken, "trl_over_ours": ratios(taken)}
    for name, ratio in report["trl_over_ours"].items():
        print(f"TRL / ours  {name:22} {ratio['median']:.2f}  [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    options.out.mkdir(exist_ok=True)
    file = options.out / f"vs-trl-cpu-{options.case}-{datetime.now(timezone.utc):%Y-%m-%d}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
