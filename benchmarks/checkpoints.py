"""What checkpoints and the ledger cost a run: the same steps without and with them, as dated JSON.

    python -m benchmarks.checkpoints [--recipe recipes/smollm2_arithmetic.yaml] [--steps 4] [--rounds 3] [key=value ...]

The steps are the same to the bit, so each is compared with itself, made in runs before and after: in the runs between,
a checkpoint is saved after every step but the last and is written while the next step is made. ``blocked`` is the time
that the run waited for the copy in memory, ``written`` that the thread took, ``slower`` by how much a step took longer
during the writing. Shares are those of a checkpoint every five steps, one a round. Needs the machine to itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from grpo import Recipe, Trainer
from grpo.run.async_writer import Writer
from grpo.run.ledger import Ledger

EVERY = 5


def steps_of(recipe: Recipe, beside: bool) -> tuple[list[dict[str, Any]], Writer]:
    """A row for each step: its seconds, those of the ledger, and those that a checkpoint after it held the run up."""
    trainer, rows = Trainer(recipe), []
    for record in trainer:
        trainer.storage.writer.wait()  # of the one before, which in a run of five steps between two is long done
        began = time.perf_counter()
        if beside and record["step"] < recipe.steps:
            trainer.save_checkpoint()
        rows.append(
            {
                "step": record["seconds/step"],
                "blocked": time.perf_counter() - began,
                "ledger": seconds_of_the_ledger(trainer),
                "tokens": record["completion/tokens"],
            }
        )
    return rows, trainer.storage.writer


def seconds_of_the_ledger(trainer: Trainer, times: int = 20) -> float:
    """How long it takes to book the step just made, its rows as they were packed."""
    batch = trainer._make_batch(trainer.groups, {})
    num_completions = sum(len(group.completions) for group in trainer.groups)
    began = time.perf_counter()
    for _ in range(times):
        ledger = Ledger()
        ledger.begin(len(batch.rows))
        ledger.add(1, num_completions, batch, 0)
    return (time.perf_counter() - began) / times


def cost_of(before: list, beside: list, after: list, written: float) -> dict[str, float]:
    """What a checkpoint cost in one round, in seconds, and its share of five steps."""
    alone = [(a["step"] + b["step"]) / 2 for a, b in zip(before, after)]
    blocked = statistics.mean(row["blocked"] for row in beside[:-1])
    slower = statistics.mean(row["step"] - seconds for row, seconds in zip(beside[1:], alone[1:]))
    step = statistics.mean(alone)
    return {
        "seconds_a_step": step,
        "blocked": blocked,
        "slower": slower,
        "written": written,
        "share": (blocked + slower) / (EVERY * step),
        "share_of_the_ledger": statistics.mean(row["ledger"] for row in beside) / step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", default="recipes/smollm2_arithmetic.yaml")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    runs: list[list[dict[str, Any]]] = []
    written, size = [], 0
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk, not in memory
        for number in range(-1, 2 * options.rounds + 1):  # -1: a step that warms the machine
            steps, beside = 1 if number < 0 else options.steps, number % 2 == 1 and number > 0
            recipe = Recipe.load(
                options.recipe,
                f"steps={steps}",
                f"run_dir={folder}/{number}",
                "data.held_out=0",
                "evaluate.every=0",
                "checkpoint.every=0",
                "checkpoint.keep=1",
                *options.overrides,
            )
            rows, writer = steps_of(recipe, beside)
            if number >= 0:
                runs.append(rows)
            if beside:
                written.append(writer.written / writer.num_written)
                size = sum(
                    file.stat().st_size
                    for file in (Path(folder) / str(number) / "checkpoints").glob("*/*")
                )
            shutil.rmtree(Path(folder) / str(number))
    assert all(
        [row["tokens"] for row in rows] == [row["tokens"] for row in runs[0]] for rows in runs
    ), "the same steps"
    rounds = [
        cost_of(runs[2 * i], runs[2 * i + 1], runs[2 * i + 2], written[i])
        for i in range(options.rounds)
    ]
    result = {
        "date": datetime.date.today().isoformat(),
        "recipe": options.recipe,
        "overrides": options.overrides,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "checkpoint_gib": size / 2**30,
        "mean": {name: statistics.mean(found[name] for found in rounds) for name in rounds[0]},
        "rounds": rounds,
        "runs": runs,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    place = (
        options.output
        / f"checkpoints-{'gpu' if torch.cuda.is_available() else 'cpu'}-{result['date']}.json"
    )
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=1),
        place,
        sep="\n",
    )


if __name__ == "__main__":
    main()
