"""Do the eleven presets differ on the quickstart, and which of the differences do the seeds allow one to state?"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Mapping, Sequence

from benchmarks import presets as benchmark
from benchmarks.evidence import estimates, frame
from benchmarks.evidence.frame import Job, Part, Row, Scale

STEPS, EVERY, HELD_OUT, SAMPLES = 60, 60, 256, 4


def jobs(scale: Scale) -> list[Job]:
    """Seed by seed, so that all presets have the seeds that are done."""
    names = list(benchmark.PRESETS)[: 2 if scale.is_try else None]
    found: list[Job] = []
    for seed in scale.seeds:
        found += [{"preset": name, "seed": seed} for name in names]
    return found


def run(job: Job, is_try: bool) -> dict[str, Any]:
    sizes = (2, 2, 4, 1) if is_try else (STEPS, EVERY, HELD_OUT, SAMPLES)
    steps, every, held_out, samples = sizes
    found = benchmark.train_one(
        job["preset"],
        job["seed"],
        steps=steps,
        every=every,
        held_out=held_out,
        samples=samples,
    )
    return {**found, "train_cpu_seconds": round(frame.cpu_seconds(), 2)}


def accuracies(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """The last accuracy by preset and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        of_preset = found.setdefault(row["job"]["preset"], {})
        of_preset[row["job"]["seed"]] = row["result"]["points"][-1]["accuracy"]
    return found


def told_apart(by_preset: Mapping[str, Mapping[int, float]]) -> list[list[str]]:
    """Pairs (better, worse) whose paired difference counts at 5 % among all pairs (Holm)."""
    differences = {}
    for first, second in combinations(by_preset, 2):
        found = estimates.paired(by_preset[first], by_preset[second])
        if found["p_value"] is not None:
            differences[f"{first} {second}"] = found
    counted = estimates.holm({name: one["p_value"] for name, one in differences.items()})
    pairs = []
    for name in sorted(counted):
        first, second = name.split()
        pairs.append([second, first] if differences[name]["value"] > 0 else [first, second])
    return pairs


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    by_preset = accuracies(rows)
    spent = {name: _spent(rows, name) for name in by_preset}
    before = [row["result"]["points"][0]["accuracy"] for row in rows]
    return {
        "before": sum(before) / len(before),
        "steps": max(row["result"]["points"][-1]["step"] for row in rows),
        "presets": {
            name: {
                "after": estimates.over_seeds(list(values.values())),
                "cpu_seconds": estimates.over_seeds(spent[name]),
            }
            for name, values in by_preset.items()
        },
        "told_apart": told_apart(by_preset),
        "pairs": len(by_preset) * (len(by_preset) - 1) // 2,
    }


def _spent(rows: Sequence[Row], preset: str) -> list[float]:
    return [row["result"]["train_cpu_seconds"] for row in rows if row["job"]["preset"] == preset]


def answer(summary: Mapping[str, Any]) -> str:
    number = len(summary["told_apart"])
    values = [one["after"]["value"] for one in summary["presets"].values()]
    return (
        f"{number} of {summary['pairs']} pairs are told apart; after {summary['steps']} steps all lie between "
        f"{100 * min(values):.1f} and {100 * max(values):.1f} %"
    )


def table(summary: Mapping[str, Any]) -> str:
    """In alphabetical order: the place of a row says nothing, the last column does."""
    lines = [
        "| preset | seeds | held-out accuracy | CPU s of a run | better than |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(summary["presets"]):
        one = summary["presets"][name]
        worse = [f"`{pair[1]}`" for pair in summary["told_apart"] if pair[0] == name]
        after = estimates.percent(one["after"])
        spent = estimates.seconds(one["cpu_seconds"])
        above = ", ".join(worse) or "none that can be told"
        lines.append(f"| `{name}` | {one['after']['seeds']} | {after} | {spent} | {above} |")
    return "\n".join(lines)


PART = Part(
    name="presets",
    question="Do the eleven presets differ on the quickstart after 60 steps?",
    minutes="50",
    seeds=(0, 1, 2, 3, 4),
    jobs=jobs,
    run=run,
    summarise=summarise,
    answer=answer,
    table=table,
)
