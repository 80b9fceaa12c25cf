"""Does training come to the end of what can be learnt, where everything can be?

A problem that the base solves now and then can be learnt, so on such problems alone a trainer without a fault passes
95 % training accuracy (Qi et al., arXiv 2510.26788, who ask this of problems that are solved 20 to 80 % of the time).
A run that levels off below has a fault, whatever its reward curve looks like. Here on a miniature: the quickstart's
base model and eight of its problems.
"""

from __future__ import annotations

import json
from typing import Any, Mapping, Sequence

from benchmarks.evidence import estimates, small
from benchmarks.evidence.frame import Job, Part, Row, Scale
from benchmarks.evidence.solvable_problems import FILE

TARGET = 0.95


def jobs(scale: Scale) -> list[Job]:
    return [{"seed": seed} for seed in scale.seeds]


def run(job: Job, is_try: bool) -> dict[str, Any]:
    size = small.TRY if is_try else small.WHOLE
    return small.train(size, job["seed"])


def base_accuracy(number: int) -> float:
    """That of the base on the first problems, from the samples by which they were chosen."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["problems"][:number]
    return sum(row["base"] for row in rows) / len(rows)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    results = {row["job"]["seed"]: row["result"] for row in rows}
    after = {seed: found["evaluation"]["accuracy"] for seed, found in results.items()}
    size = next(iter(results.values()))["size"]
    spent = [found["train_cpu_seconds"] for found in results.values()]
    return {
        "size": size,
        "before": base_accuracy(size["problems"]),
        "after": estimates.over_seeds(list(after.values())),
        "lowest": min(after.values()),
        "first_above_95": {seed: found["first_above_95"] for seed, found in results.items()},
        "cpu_seconds": estimates.over_seeds(spent),
        "passes": min(after.values()) > TARGET,
    }


def answer(summary: Mapping[str, Any]) -> str:
    verdict = "Yes" if summary["passes"] else "No"
    return (
        f"{verdict}: {100 * summary['before']:.0f} % before, {estimates.percent(summary['after'])} after "
        f"{summary['size']['steps']} steps"
    )


def table(summary: Mapping[str, Any]) -> str:
    steps = summary["first_above_95"].values()
    reached = ", ".join("never" if step is None else str(step) for step in steps)
    size = summary["size"]
    lines = [
        "| | |",
        "|---|---|",
        f"| problems, steps, completions a step | {size['problems']}, {size['steps']}, "
        f"{size['prompts']} × {size['group']} |",
        f"| training accuracy before | {100 * summary['before']:.1f} % |",
        f"| after, {size['samples']} samples a problem, {summary['after']['seeds']} seeds | "
        f"{estimates.percent(summary['after'])}; lowest seed {100 * summary['lowest']:.1f} % |",
        f"| first step whose last pass over the problems is above 95 %, by seed | {reached} |",
        f"| CPU seconds of a run | {estimates.seconds(summary['cpu_seconds'])} |",
    ]
    return "\n".join(lines)


PART = Part(
    name="solvable",
    question="Does training reach what can be reached, on problems that the base solves 20 to 80 % of the time?",
    minutes="1",
    seeds=(0, 1, 2),
    jobs=jobs,
    run=run,
    summarise=summarise,
    answer=answer,
    table=table,
)
