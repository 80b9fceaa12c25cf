"""What checkpoints and the ledger cost a run: the same steps without and with them, as dated JSON.

    python -m benchmarks.checkpoints [--recipe recipes/smollm2_arithmetic.yaml] [--steps 4] [key=value ...]

The steps are the same to the bit, so each is compared with itself, made before and after: in the run between, a
checkpoint is saved after every step but the last and is written while the next step is made. ``blocked`` is the time
that the run waited for the copy in memory, ``written`` that the thread took, ``slower`` by how much a step beside the
writing took longer; the seconds of the CPU count all threads of the process, and hang less on what else runs. Shares
are those of a checkpoint every five steps. Needs the machine to itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from grpo import Recipe, Trainer
from grpo.ledger import Ledger
from grpo.writer import Writer

EVERY = 5


def steps_of(recipe: Recipe, beside: bool) -> tuple[list[dict[str, Any]], Writer]:
    """A row for each step: its seconds, the CPU's of all threads, those of the ledger, and of a checkpoint after it."""
    trainer, rows, cpu = Trainer(recipe), [], 0.0
    for record in trainer:
        began, spent, cpu = time.perf_counter(), time.process_time() - cpu, time.process_time()
        if beside and record["step"] < recipe.steps:
            trainer.writer.wait()
            trainer.save_checkpoint()
        rows.append({"step": record["seconds/step"], "cpu": spent, "blocked": time.perf_counter() - began,
                     "ledger": seconds_of_the_ledger(trainer), "tokens": record["completion/tokens"]})
    return rows, trainer.writer


def seconds_of_the_ledger(trainer: Trainer, times: int = 20) -> float:
    """How long it takes to book the step just made, its rows as they were packed."""
    batch = trainer._make_batch(trainer.groups, {})
    began = time.perf_counter()
    for _ in range(times):
        ledger = Ledger()
        ledger.begin(len(batch.rows))
        ledger.add(1, trainer.groups, batch, 0)
    return (time.perf_counter() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", default="recipes/smollm2_arithmetic.yaml")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    runs = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk, not in memory
        for name, steps in (("warm", 1), ("before", options.steps), ("with", options.steps), ("after", options.steps)):
            recipe = Recipe.load(options.recipe, f"steps={steps}", f"run_dir={folder}/{name}", "data.held_out=0",
                                 "evaluate.every=0", "checkpoint.every=0", "checkpoint.keep=1", *options.overrides)
            runs[name], writer = steps_of(recipe, name == "with")
            if name == "with":
                written = writer.written / writer.num_written
        size = sum(file.stat().st_size for file in (Path(folder) / "with" / "checkpoints").glob("*/*"))
    tokens = [[row["tokens"] for row in runs[name]] for name in ("before", "with", "after")]
    assert tokens[0] == tokens[1] == tokens[2], "the same steps"
    alone = [(a["step"] + b["step"]) / 2 for a, b in zip(runs["before"], runs["after"])]
    step = statistics.mean(alone)
    blocked = statistics.mean(row["blocked"] for row in runs["with"][:-1])
    slower = [row["step"] - seconds for row, seconds in zip(runs["with"][1:], alone[1:])]
    cpu = statistics.mean((a["cpu"] + b["cpu"]) / 2 for a, b in zip(runs["before"][1:], runs["after"][1:]))
    more_cpu = statistics.mean(row["cpu"] for row in runs["with"][1:]) - cpu
    result = {"date": datetime.date.today().isoformat(), "recipe": options.recipe, "overrides": options.overrides,
              "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
              "threads": torch.get_num_threads(), "torch": torch.__version__, "steps": runs,
              "checkpoint_gib": size / 2**30, "seconds_a_step": step, "blocked": blocked,
              "written": written, "slower": slower,
              "share_blocked": blocked / (EVERY * step), "share": (blocked + statistics.mean(slower)) / (EVERY * step),
              "cpu_seconds_a_step": cpu, "cpu_seconds_a_checkpoint": more_cpu, "share_of_cpu": more_cpu / (EVERY * cpu),
              "share_of_the_ledger": statistics.mean(row["ledger"] for row in runs["with"]) / step}
    place = options.output / f"checkpoints-{'gpu' if torch.cuda.is_available() else 'cpu'}-{result['date']}.json"
    options.output.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "steps"}, indent=1), place, sep="\n")


if __name__ == "__main__":
    main()
