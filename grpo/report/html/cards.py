"""The first cards of a page: each set with a line a run, and where its figures lie on a common scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Iterator, Sequence

from grpo.report.html.answer import BeforeAfter, Estimate

NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A stretch of the number line that is drawn from edge to edge."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Where `value` lies, in percent of the width."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


@dataclass(frozen=True, slots=True)
class Row:
    """One run's line of a card."""

    run: int
    result: BeforeAfter


@dataclass(frozen=True, slots=True)
class Card:
    """One set: a row for each run that was evaluated on it."""

    title: str
    unit: str
    rows: Sequence[Row]
    scale: Scale

    @property
    def is_share(self) -> bool:
        return self.unit == "accuracy"


def cards_of(results: Sequence[Sequence[BeforeAfter]]) -> list[Card]:
    """The cards for the `results` of each run, in the order of the first run that has them."""
    rows_of: dict[tuple[str, str], list[Row]] = {}
    for run, of_run in enumerate(results):
        for result in of_run:
            rows_of.setdefault((result.title, result.unit), []).append(Row(run, result))
    return [
        Card(title, unit, rows, scale_of(rows, is_share=unit == "accuracy"))
        for (title, unit), rows in rows_of.items()
    ]


def scale_of(rows: Iterable[Row], is_share: bool) -> Scale:
    """A scale with round ends that holds all intervals of `rows`; shares do not leave [0, 1]."""
    values = [value for row in rows for value in _values(row.result)]
    low = min(values)
    high = max(values)
    unit = _nice((high - low) / 4 or abs(high) / 4 or 0.1)
    low = math.floor(low / unit) * unit
    high = math.ceil(high / unit) * unit
    if high - low < unit:
        high = low + unit
    if is_share:
        low, high = max(0.0, low), min(1.0, high)  # density: one clamp of both ends
    return Scale(low, high)


def _nice(size: float) -> float:
    """The least round number that is no smaller than `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(nice * power for nice in NICE if nice * power >= size * 0.999)


def _values(result: BeforeAfter) -> Iterator[float]:
    for estimate in (result.before, result.after):
        if isinstance(estimate, Estimate):
            known = (estimate.value, estimate.low, estimate.high)
            yield from (value for value in known if value is not None)
