"""What the gates cost: their share of each step's seconds in a real run, and what they said, as dated JSON.

    python -m benchmarks.gates [--recipe quickstart] [--steps 12] [--output benchmarks/results] [key=value ...]

Every function that exists for the gates is timed where it is called: the sums of the drift and of the rows (with what
of them was there before the gates, so the share is an upper bound), the fingerprints of sampler's and trainer's
weights, the comparison of versions, the sampler's entropy, and judging. On a CPU calls are synchronous, so the times
are whole. Exits with 1 where a gate rose above a note.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import grpo.run.metrics
import grpo.train
from grpo import Recipe, Trainer
from grpo.learner.learner import Learner
from grpo.learner.sums import UpdateSums
from grpo.model.policy import Policy
from grpo.monitor.gates import Gates

TIMED = (
    (UpdateSums, "_add_drift"),
    (UpdateSums, "_add_rows"),
    (Learner, "_distant_rows"),
    (Learner, "_gates_asking"),
    (Policy, "fingerprint"),
    (Gates, "sampled"),
    (Gates, "step"),
    (grpo.train, "stale_completions"),
    (grpo.run.metrics, "_surprisal"),
)


def timed(seconds: dict[str, float]) -> None:
    """Let every function of `TIMED` add what it takes to `seconds`."""
    for place, name in TIMED:
        function = getattr(place, name)

        @functools.wraps(function)
        def call(
            *arguments: Any, _function: Any = function, _name: str = name, **options: Any
        ) -> Any:
            begun = time.perf_counter()
            try:
                return _function(*arguments, **options)
            finally:
                seconds[_name] += time.perf_counter() - begun

        setattr(place, name, call)


def measure(recipe: Recipe) -> dict[str, Any]:
    """The median step of a run of `recipe` and the shares of the gates' functions in it."""
    seconds: dict[str, float] = defaultdict(float)
    timed(seconds)
    steps, spent = [], []
    trainer = Trainer(recipe)
    for record in trainer:
        steps.append(record["seconds/step"])
        spent.append(dict(seconds))
        seconds.clear()
    first = min(2, len(steps) - 1)  # the first steps warm caches up
    steps, spent = steps[first:], spent[first:]
    parts = {name: statistics.median(part.get(name, 0.0) for part in spent) for _, name in TIMED}
    return {
        "steps": len(steps),
        "median_step_seconds": statistics.median(steps),
        "median_seconds": parts,
        "share": statistics.median(sum(part.values()) / step for part, step in zip(spent, steps)),
        "counts": trainer.gates.counts,
        "alarms": trainer.gates.alarms,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            Recipe.load(
                options.recipe,
                f"steps={options.steps}",
                f"run_dir={folder}/run",
                "data.held_out=0",
                "checkpoint.every=0",
                *options.overrides,
            )
        )
    result = {
        "date": datetime.date.today().isoformat(),
        "recipe": Path(options.recipe).stem,
        "overrides": options.overrides,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **found,
    }
    place = options.output / f"gates-{result['recipe']}-{result['date']}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1), place, sep="\n")
    return int(any(set(levels) - {"note"} for levels in found["counts"].values()))


if __name__ == "__main__":
    sys.exit(main())
