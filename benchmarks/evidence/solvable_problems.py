"""Which problems the quickstart's base solves 20 to 80 % of the time: writes ``solvable.json`` beside this file.

    python -m benchmarks.evidence.solvable_problems

The file is committed, so that every run has the same problems: 128 drawn by a fixed rule among those of the task's
first 400 training rows whose share of right completions, of 32 sampled, lies in the range.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping, Sequence

from benchmarks.evidence.frame import ROOT

FILE = Path(__file__).with_name("solvable.json")
LOW, HIGH = 0.2, 0.8
COUNT, SAMPLES, KEPT = 400, 32, 128


def shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each problem with the share of its completions that were right."""
    right: dict[str, list[float]] = defaultdict(list)
    columns: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        right[row["prompt_id"]].append(float(row["parts"]["correct"] >= 1))
        columns[row["prompt_id"]] = row["columns"]
    return [
        {**columns[name], "base": round(sum(values) / len(values), 4)}
        for name, values in right.items()
    ]


def chosen(problems: Sequence[Mapping[str, Any]], number: int = KEPT) -> list[Mapping[str, Any]]:
    """`number` of the problems in the range, in an order that depends on nothing else."""
    fit = [problem for problem in problems if LOW <= problem["base"] <= HIGH]
    random.Random(0).shuffle(fit)
    return fit[:number]


def sampled(count: int = COUNT, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """The first `count` training rows with the base's share of right completions."""
    from grpo import Recipe
    from grpo.evaluate import evaluate_recipe

    recipe = Recipe.load(
        ROOT / "recipes" / "quickstart.yaml",
        "data.held_out=0",
        f"data.args.count={count}",
        f"evaluate.samples={samples}",
    )
    return shares(evaluate_recipe(recipe, every_row=True)["completions"])


def problems(number: int = KEPT) -> list[dict[str, Any]]:
    """The first `number` of the committed problems, with the columns that the reward needs."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["problems"][:number]
    return [{name: row[name] for name in ("prompt", "numbers", "target")} for row in rows]


def main() -> None:
    found = sampled()
    fit = chosen(found)
    content = {
        "asked": len(found),
        "samples": SAMPLES,
        "range": [LOW, HIGH],
        "in_range": sum(LOW <= problem["base"] <= HIGH for problem in found),
        "problems": fit,
    }
    lines = json.dumps(content).replace('{"prompt"', '\n{"prompt"')
    FILE.write_text(lines + "\n", encoding="utf-8")
    print(f"{len(fit)} of {content['in_range']} in the range, of {len(found)}: {FILE}")


if __name__ == "__main__":
    main()
