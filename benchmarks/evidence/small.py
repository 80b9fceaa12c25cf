"""A short run on the solvable problems, which a right trainer nearly masters: for `solvable` and `faults`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping

from benchmarks.evidence import frame, runs
from benchmarks.evidence.injections import FAULTS, RIGHT, Fault, Patches
from benchmarks.evidence.solvable_problems import problems


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained: problems, steps of so many prompts and completions each, learning rate, final samples."""

    problems: int = 8
    prompts: int = 8
    group: int = 8
    steps: int = 70
    lr: float = 1e-3
    samples: int = 32
    micro_batch: int = 512


WHOLE = Size()
TRY = Size(problems=4, prompts=2, group=4, steps=2, samples=2, micro_batch=128)


def recipe_of(size: Size, seed: int, place: Path, *overrides: str) -> Any:
    """The quickstart's recipe for those problems, none held out: what is measured is training accuracy."""
    return runs.quickstart(
        place,
        f"seed={seed}",
        f"steps={size.steps}",
        f"optim.lr={size.lr}",
        f"optim.tokens_per_micro_batch={size.micro_batch}",
        f"sample.prompts={size.prompts}",
        f"sample.group_size={size.group}",
        "data.held_out=0",
        "evaluate.every=0",
        *overrides,
    )


def train(size: Size, seed: int, *overrides: str, fault: Fault = FAULTS[RIGHT]) -> dict[str, Any]:
    """A run's course, its final training accuracy, what the gates said, and where one stopped it.

    Accuracy is that of the trainer's weights, sampled anew by an engine without the fault.
    """
    from grpo import Trainer

    with runs.folder() as place:
        recipe = recipe_of(size, seed, place, *overrides)
        trainer = Trainer(recipe, data=problems(size.problems), quiet=True)
        patches = Patches()
        started = time.perf_counter()
        records, stopped = _course(trainer, fault, patches)
        seconds = time.perf_counter() - started
        cpu_seconds = frame.cpu_seconds()
        patches.undo()
        evaluation = None if stopped else _accuracy(trainer, size, seed, place)
    window = max(1, size.problems // size.prompts)
    accuracy = [record["rewards/correct/correct"] for record in records]
    return {
        "size": asdict(size),
        "evaluation": evaluation,
        "stopped": stopped,
        "alarms": [_brief(alarm) for alarm in trainer.gates.alarms],
        "first_above_95": runs.first_above(accuracy, 0.95, window),
        "accuracy": [runs.short(float(value)) for value in accuracy],
        "length": [runs.short(float(record["completion/length"])) for record in records],
        "ledger": dict(trainer.ledger),
        "train_seconds": round(seconds, 2),
        "train_cpu_seconds": round(cpu_seconds, 2),
    }


def _course(
    trainer: Any, fault: Fault, patches: Patches
) -> tuple[list[Any], dict[str, Any] | None]:
    """The records up to the last step or to the gate that stops the run, and what that one said."""
    from grpo.monitor.gates import GateStop

    records: list[Any] = []
    try:
        trainer.open()
        after_step = fault.put(trainer, patches) or _nothing
        for record in trainer:
            records.append(record)
            after_step()
    except GateStop as stop:
        return records, {"gate": stop.gate, "step": stop.alarm.step, "says": str(stop)}
    return records, None


def _nothing() -> None:
    """What is done after a step of most runs."""


def _accuracy(trainer: Any, size: Size, seed: int, place: Path) -> dict[str, float]:
    """That of the trained weights on the problems that trained."""
    from grpo.evaluate import evaluate_recipe

    weights = place / "weights"
    trainer.policy.save(weights)
    rows = runs.write_rows(place / "rows.jsonl", problems(size.problems))
    recipe = runs.quickstart(
        place / "evaluation",
        f"seed={seed}",
        f"model.name={weights}",
        f"evaluate.samples={size.samples}",
        data={"source": str(rows), "template": "plain"},
    )
    report = evaluate_recipe(recipe, every_row=True)
    strict = report["strict"]
    found = {name: strict[name] for name in ("accuracy", "low", "high", "samples", "faults")}
    found |= {name: report[name] for name in ("prompts", "length", "truncated")}
    return {name: runs.short(value) for name, value in found.items()}


def _brief(alarm: Mapping[str, Any]) -> dict[str, Any]:
    return {name: alarm[name] for name in ("step", "gate", "level")}
