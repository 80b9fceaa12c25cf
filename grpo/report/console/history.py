"""What a run has shown so far: its figures step by step, its evaluations, and how long the rest may take."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Mapping

from grpo.report.console.numbers import is_number
from grpo.report.folder import points_of

Record = Mapping[str, Any]
STEPS_OF_ESTIMATE = 10
CURVES = {"reward": "reward/mean", "length": "completion/length"}
CURVES_OF_DISTILLATION = {"teacher KL": "policy/teacher_kl", "length": "completion/length"}
CURVES_WITHOUT_REWARD = {"loss": "update/loss"}
"""The curves of the live area beside those of the evaluation sets, and the keys of their records."""


@dataclass(slots=True)
class History:
    """The course of a run; `steps` is how many it is to make, `every` after how many it is evaluated (0: never).

    ``since`` is when the last step was taken in, by the monotonic clock; ``version`` changes with every new figure.
    """

    steps: int = 0
    every: int = 0
    step: int = 0
    curves: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    accuracy: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    evaluations: dict[str, Record] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)
    version: int = 0

    def add_step(self, record: Record) -> None:
        """Take in the record of a step."""
        self.step = int(record["step"])
        self.since = time.monotonic()
        self.version += 1
        for name, key in _curves_of(record).items():
            if is_number(record.get(key)):
                self.curves[name].append(record[key])
        if is_number(record.get("seconds/step")):
            self.step_seconds.append(record["seconds/step"])

    def add_evaluations(self, results: Mapping[str, Record], seconds: float = 0.0) -> None:
        """Take in the evaluations of all sets at one step, by name; they took `seconds` together."""
        self.version += 1
        for name, result in results.items():
            self.evaluations[name] = result
            if is_number(result.get("accuracy")):
                self.accuracy[name].append(result["accuracy"])
        if seconds:
            self.evaluation_seconds = seconds

    def seconds_of_a_step(self) -> float | None:
        """The median of the last steps; None before the first."""
        recent = self.step_seconds[-STEPS_OF_ESTIMATE:]
        return median(recent) if recent else None

    def seconds_left(self) -> float | None:
        """About how long the rest of the run takes; None before a step was made."""
        usual = self.seconds_of_a_step()
        if usual is None:
            return None
        into_step = min(time.monotonic() - self.since, usual)
        steps = max(0.0, (self.steps - self.step) * usual - into_step)
        return steps + self._evaluations_left() * self.evaluation_seconds

    def _evaluations_left(self) -> int:
        """Those between two steps, and the one at the end."""
        if not self.evaluations:
            return 0
        if not self.every or self.step >= self.steps:
            return 1
        return (self.steps - 1) // self.every - self.step // self.every + 1


def evaluations_of(record: Record) -> dict[str, dict[str, Any]]:
    """The evaluations in a record of ``metrics.jsonl``, by set, without those of single sources.

    >>> evaluations_of({"step": 3, "heldout/accuracy": 0.5, "eval/gsm8k/accuracy": 0.25, "heldout/a/accuracy": 1})
    {'heldout': {'step': 3, 'accuracy': 0.5}, 'gsm8k': {'step': 3, 'accuracy': 0.25}}
    """
    points = [point for point in points_of(record) if not point.source]
    return {
        point.set: {"step": point.step, **point.figures}
        for point in points
        if "accuracy" in point.figures
    }


def _curves_of(record: Record) -> Mapping[str, str]:
    """The curves that a step's record has: by its reward, else by its teacher, else by its loss."""
    for curves in (CURVES, CURVES_OF_DISTILLATION):
        if next(iter(curves.values())) in record:
            return curves
    return CURVES_WITHOUT_REWARD
