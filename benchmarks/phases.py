"""Where a step's time goes: the quickstart's phases on this machine, as dated JSON.

    python -m benchmarks.phases [--steps 12] [--output benchmarks/results] [key=value ...]

Prints the median of each phase and the sampled tokens a second of the sampling phase; nothing is compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
from pathlib import Path

import torch

from grpo import Recipe, Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.load(
            options.recipe,
            f"steps={options.steps}",
            f"run_dir={folder}/run",
            "data.held_out=0",
            "checkpoint.every=0",
            *options.overrides,
        )
        records = list(Trainer(recipe))[2:]  # the first steps warm caches up
    phases = {
        phase: statistics.median(record[f"seconds/{phase}"] for record in records)
        for phase in ("sample", "judge", "update", "step")
    }
    rate = statistics.median(
        record["completion/tokens"] / record["seconds/sample"] for record in records
    )
    result = {
        "date": datetime.date.today().isoformat(),
        "recipe": options.recipe,
        "overrides": options.overrides,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": len(records),
        "median_seconds": phases,
        "sampled_tokens_per_second": rate,
    }
    place = (
        options.output
        / f"{result['date']}-phases-{'gpu' if torch.cuda.is_available() else 'cpu'}.json"
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1), place, sep="\n")


if __name__ == "__main__":
    main()
