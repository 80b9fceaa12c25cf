"""The numbers of a run as lines over its steps, tokens or seconds; nothing is drawn here.

Which numbers there are to draw is `PANELS`, one table.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Callable, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.folder import EvaluationPoint, RunFolder, is_step, points_of

Record = Mapping[str, Any]
AXES = {
    "step": "step",
    "tokens": "completion tokens sampled",
    "seconds": "seconds in training steps",
}
"""What a line may run over, and how it is called under the axis."""
_COUNTED = {"tokens": "completion/tokens", "seconds": "seconds/step"}


@dataclass(frozen=True, slots=True)
class Line:
    """A number over the course of a run; NaN where it is not known.

    With `low` and `high` it is a few points with their intervals, otherwise one number a step, noisy as those are.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Course:
    """What a run folder holds of a run so far, to be read at a position of its axis.

    ``over`` is one of `AXES`. Tokens and seconds are summed up over the steps; evaluations cost none of them.
    """

    name: str
    folder: str
    num_steps: int
    planned: int | None
    over: str
    steps: Sequence[Record]
    points: Sequence[EvaluationPoint]
    _sums: Sequence[float] = field(default=(), repr=False)

    @staticmethod
    def of(folder: RunFolder, over: str = "step") -> Course:
        """The course of the run in `folder`; it may be under way, or not even begun."""
        records = folder.metrics()
        steps = [record for record in records if is_step(record)]
        others = [record for record in records if not is_step(record)]
        points = [point for record in others for point in points_of(record)]
        key = _COUNTED.get(over)
        spent = [float(record.get(key) or 0.0) for record in steps] if key else []
        planned = folder.recipe().get("steps")
        return Course(
            name=folder.name,
            folder=folder.path.absolute().name,
            num_steps=steps[-1]["step"] if steps else 0,
            planned=planned if isinstance(planned, int) else None,
            over=over,
            steps=steps,
            points=points,
            _sums=list(accumulate(spent)),
        )

    def at(self, step: int) -> float:
        """The position of a step on the axis."""
        if self.over == "step":
            return step
        number = bisect_right([record["step"] for record in self.steps], step)
        return self._sums[number - 1] if number else 0.0

    def line(self, key: str, label: str = "") -> Line | None:
        """A key of the steps' records; None if no step has it."""
        values = [_number(record.get(key)) for record in self.steps]
        if all(map(math.isnan, values)):
            return None
        return Line(label, x=[self.at(record["step"]) for record in self.steps], y=values)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def accuracy_lines(course: Course) -> list[Line]:
    """The accuracy of each set with its interval; of a mixture, the whole alone."""
    lines = []
    for name in dict.fromkeys(point.set for point in course.points):
        points = [point for point in course.points if point.set == name and not point.source]
        line = _of_points("held-out" if name == HELD_OUT else name, course, points)
        lines += [line] if line else []
    return lines


def held_out_loss_lines(course: Course) -> list[Line]:
    """The loss of held-out rows in supervised fine-tuning, with its interval."""
    points = [point for point in course.points if point.set == HELD_OUT and not point.source]
    line = _of_points("held-out", course, points, figure="loss", ends="loss_")
    return [line] if line else []


def _of_points(
    label: str,
    course: Course,
    points: Sequence[EvaluationPoint],
    *,
    figure: str = "accuracy",
    ends: str = "",
) -> Line | None:
    """A figure of evaluations with its interval; None if no point has it."""
    known = [point for point in points if point.figures.get(figure) is not None]
    if not known:
        return None
    figures = [point.figures for point in known]
    return Line(
        label,
        x=[course.at(point.step) for point in known],
        y=[_number(its.get(figure)) for its in figures],
        low=[_number(its.get(f"{ends}low")) for its in figures],
        high=[_number(its.get(f"{ends}high")) for its in figures],
    )


def loss_lines(course: Course) -> list[Line]:
    """The loss of supervised fine-tuning; that of a policy gradient, which says nothing, is not drawn."""
    if any("reward/mean" in record for record in course.steps):
        return []
    return key_lines(course, mean="update/loss")


def reward_lines(course: Course) -> list[Line]:
    """The mean weighted reward of a step's completions; with several rewards, each of them too."""
    whole = course.line("reward/mean", "weighted sum")
    names = [key for key in keys_of([course]) if key.startswith("rewards/") and key.count("/") == 1]
    parts = [course.line(key, key.removeprefix("rewards/")) for key in names]
    lines = [whole, *parts] if len(names) > 1 else [whole]
    return [line for line in lines if line is not None]


def key_lines(course: Course, **keys: str) -> list[Line]:
    """The keys of the steps' records that are known; `keys` are label=key, a label's _ a space."""
    lines = [course.line(key, label.replace("_", " ")) for label, key in keys.items()]
    return [line for line in lines if line is not None]


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the lines of a run, and whether they are shares or spread over orders of magnitude."""

    title: str
    lines: Callable[[Course], list[Line]]
    is_share: bool = False
    is_log: bool = False


PANELS: dict[str, Panel] = {
    "accuracy": Panel("held-out accuracy, 95 % interval", accuracy_lines, is_share=True),
    "reward": Panel("training reward", reward_lines),
    "length": Panel("completion length, tokens", partial(key_lines, mean="completion/length")),
    "zero_variance": Panel(
        "zero-variance groups", partial(key_lines, share="group/flat"), is_share=True
    ),
    "mismatch": Panel(
        "sampler–trainer mismatch, nats", partial(key_lines, mean="policy/drift"), is_log=True
    ),
    "entropy": Panel("entropy, nats a token", partial(key_lines, mean="policy/entropy")),
    "loss": Panel("training loss, nats a token", loss_lines),
    "held_out_loss": Panel("held-out loss, 95 % interval", held_out_loss_lines),
    "truncated": Panel(
        "truncated completions", partial(key_lines, share="completion/truncated"), is_share=True
    ),
    "calls": Panel(
        "completions that call a tool", partial(key_lines, share="tool/share"), is_share=True
    ),
    "kl": Panel("KL to the reference, nats", partial(key_lines, mean="policy/kl")),
    "clipped": Panel("clipped tokens", partial(key_lines, share="policy/clipped"), is_share=True),
    "grad_norm": Panel("gradient norm", partial(key_lines, mean="update/grad_norm")),
    "seconds": Panel(
        "seconds a step",
        partial(
            key_lines,
            step="seconds/step",
            sampling="seconds/sample",
            judging="seconds/judge",
            update="seconds/update",
        ),
    ),
}
SHOWN = (
    "accuracy",
    "held_out_loss",
    "loss",
    "reward",
    "length",
    "calls",
    "zero_variance",
    "mismatch",
    "entropy",
)
"""The panels that are drawn where none is asked for, as far as a run has them."""


def keys_of(courses: Sequence[Course]) -> list[str]:
    """The keys of the steps' records of all runs, in their order."""
    records = [record for course in courses for record in course.steps]
    return list(dict.fromkeys(key for record in records for key in record))


def panel_of(key: str) -> Panel:
    """A panel of one key of the steps' records."""
    return Panel(key, partial(key_lines, mean=key))


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """The mean of the `width` values around each, of those that are there and known.

    >>> smoothed([1.0, 2.0, 6.0], 3)
    [1.5, 3.0, 4.0]
    """
    half = width // 2
    means = []
    for index in range(len(values)):
        around = values[max(0, index - half) : index + half + 1]
        known = [value for value in around if not math.isnan(value)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means


def smoothing_width(number: int) -> int:
    """Over how many of `number` steps a noisy line is averaged: odd, a tenth of them, at most 51.

    >>> [smoothing_width(number) for number in (5, 20, 60, 1000)]
    [1, 3, 7, 51]
    """
    return min(51, 2 * (number // 20) + 1)
