"""What does each fault cost, and which gate names it?

Each fault is put into a run of `solvable` before its first step. With the gates as they are by default the run is
stopped or goes on; where it is stopped, the fault's cost is that of a run whose gates are off.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any, Mapping, Sequence

from benchmarks.evidence import estimates, small
from benchmarks.evidence.frame import Job, Part, Row, Scale
from benchmarks.evidence.injections import FAULTS, RIGHT
from rewards.spelling import many

EARLY = 30
"""Steps whose mean training accuracy tells how fast a run learns, where all come to the same end."""
WARN = ("warn", "skip", "stop")
"""Rungs that say something on the screen or act."""


def jobs(scale: Scale) -> list[Job]:
    """Seed by seed, so that a part that is cut off has every fault of the seeds that are done."""
    found: list[Job] = []
    for seed in scale.seeds:
        for name, fault in FAULTS.items():
            if name == RIGHT:
                continue  # they are the runs of `solvable`
            found.append({"fault": name, "gates": "on", "seed": seed})
            if fault.stops and not fault.alike:
                found.append({"fault": name, "gates": "off", "seed": seed})
    return found


def run(job: Job, is_try: bool) -> dict[str, Any]:
    size = small.TRY if is_try else small.WHOLE
    overrides = [] if job["gates"] == "on" else gates_off()
    return small.train(size, job["seed"], *overrides, fault=FAULTS[job["fault"]])


def gates_off() -> list[str]:
    """Overrides that leave no gate."""
    from grpo.monitor.gate_table import GATES

    return [f"gates.{name}=off" for name in GATES]


# ---- what was found -----------------------------------------------------------------------------------------------


def accuracies(rows: Sequence[Row], fault: str) -> dict[int, float]:
    """By seed, of the runs that came to their end."""
    found = {}
    for row in rows:
        evaluation = row["result"]["evaluation"]
        if row["job"].get("fault", RIGHT) == fault and evaluation is not None:
            found[row["job"]["seed"]] = evaluation["accuracy"]
    return found


def early(rows: Sequence[Row], fault: str) -> dict[int, float]:
    """By seed, the mean training accuracy of the first steps, of the runs that came to their end."""
    found = {}
    for row in rows:
        result = row["result"]
        if row["job"].get("fault", RIGHT) == fault and result["evaluation"] is not None:
            found[row["job"]["seed"]] = fmean(result["accuracy"][:EARLY])
    return found


def named(row: Row) -> dict[str, Any] | None:
    """The gate that stopped a run, or else the first that warned or acted; None where all kept silent."""
    stopped = row["result"]["stopped"]
    if stopped is not None:
        return {"gate": stopped["gate"], "step": stopped["step"], "level": "stop"}
    loud = [alarm for alarm in row["result"]["alarms"] if alarm["level"] in WARN]
    return dict(loud[0]) if loud else None


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    right = accuracies(rows, RIGHT)
    found: dict[str, dict[str, Any]] = {}
    for name, fault in FAULTS.items():
        guarded = [row for row in rows if _is(row, name, "on")]
        if not guarded:
            continue
        own = accuracies(rows, fault.alike or name)
        begun = early(rows, fault.alike or name)
        found[name] = {
            "says": fault.says,
            "named": {row["job"]["seed"]: named(row) for row in guarded},
            "accuracy": estimates.over_seeds(list(own.values())) if own else None,
            "early": estimates.over_seeds(list(begun.values())) if begun else None,
            "lost": estimates.paired(right, own) if name != RIGHT else None,
            "alike": fault.alike,
        }
    lost = {name: one["lost"]["p_value"] for name, one in found.items() if _compared(one)}
    return {"faults": found, "costly": sorted(estimates.holm(lost)), "sizes": _sizes(rows)}


def _is(row: Row, fault: str, gates: str) -> bool:
    job = row["job"]
    return job.get("fault", RIGHT) == fault and job.get("gates", "on") == gates


def _compared(one: Mapping[str, Any]) -> bool:
    return bool(one["lost"]) and one["lost"]["p_value"] is not None and not one["alike"]


def _sizes(rows: Sequence[Row]) -> dict[str, int]:
    """How many runs were made at each size."""
    found: dict[str, int] = {}
    for row in rows:
        size = row["result"]["size"]
        words = (
            f"{size['problems']} problems, {size['prompts']} × {size['group']} completions a step"
        )
        found[words] = found.get(words, 0) + 1
    return found


def gate_words(by_seed: Mapping[Any, Mapping[str, Any] | None]) -> str:
    """The gates by name with their steps; `none` where no seed had one.

    >>> gate_words({0: {"gate": "drift", "step": 1, "level": "stop"}, 1: None})
    '`drift`, stop, step 1 (1 of 2 seeds)'
    """
    steps: dict[tuple[str, str], list[int]] = {}
    for found in by_seed.values():
        if found is not None:
            steps.setdefault((found["gate"], found["level"]), []).append(found["step"])
    if not steps:
        return "none"
    return "; ".join(_one_gate(*key, at, len(by_seed)) for key, at in steps.items())


def _one_gate(gate: str, level: str, steps: Sequence[int], seeds: int) -> str:
    span = str(min(steps)) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
    of = "" if len(steps) == seeds else f" ({len(steps)} of {seeds} seeds)"
    return f"`{gate}`, {level}, step {span}{of}"


def answer(summary: Mapping[str, Any]) -> str:
    faults = {name: one for name, one in summary["faults"].items() if name != RIGHT}
    stopped = [name for name, one in faults.items() if _always_stopped(one)]
    return f"{len(stopped)} of {len(faults)} rows are stopped by a gate; {_costs(summary, faults)}"


def _costs(summary: Mapping[str, Any], faults: Mapping[str, Mapping[str, Any]]) -> str:
    """How many faults cost accuracy, as far as intervals say."""
    seeds = [one["accuracy"]["seeds"] for one in faults.values() if one["accuracy"] is not None]
    if max(seeds, default=0) < 2:
        return "what they cost was measured with one seed at most, so without an interval"
    return f"{len(summary['costly'])} cost accuracy that the intervals tell from chance"


def _always_stopped(one: Mapping[str, Any]) -> bool:
    return all(found is not None and found["level"] == "stop" for found in one["named"].values())


def table(summary: Mapping[str, Any]) -> str:
    lines = [
        f"| fault | named by | training accuracy, gates off where they stop it | mean of the first {EARLY} steps | "
        "points against the right run | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for one in summary["faults"].values():
        accuracy = one["accuracy"]
        after = "unmeasured" if accuracy is None else estimates.percent(accuracy)
        lost = "" if one["lost"] is None else estimates.points(one["lost"])
        begun = "" if one["early"] is None else estimates.percent(one["early"])
        if one["alike"]:
            after = "as the row before"
            lost = begun = ""
        cells = [one["says"], gate_words(one["named"]), after, begun, lost, _seeds(one)]
        lines.append(f"| {' | '.join(cells)} |")
    sizes = [f"{many(number, 'run')} with {words}" for words, number in summary["sizes"].items()]
    return "\n".join([*lines, "", f"Sizes: {'; '.join(sizes)}."])


def _seeds(one: Mapping[str, Any]) -> str:
    """How many seeds, of the gates and of the accuracy."""
    measured = 0 if one["accuracy"] is None else one["accuracy"]["seeds"]
    gates = len(one["named"])
    return str(gates) if one["alike"] or gates == measured else f"{gates}; accuracy {measured}"


PART = Part(
    name="faults",
    question="What does each usual fault cost, and which gate names it?",
    minutes="12",
    seeds=(0, 1, 2),
    jobs=jobs,
    run=run,
    summarise=summarise,
    answer=answer,
    table=table,
    uses=("solvable",),
)
