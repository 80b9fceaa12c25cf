"""What a gate sees of a run: this step's numbers, those of earlier steps, and the held-out evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

EARLY_STEPS = 10
"""Steps kept from the beginning of a run."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """This step's numbers so far, the steps before it, the run's first steps, and the evaluations.

    ``usual_drift`` is how large abs(sampled_logp - old_logp) may be on average from rounding in the model's dtype,
    ``true`` the metric of the most lenient accuracy, ``formal`` those of rewards that can rise without it.
    """

    now: Record
    recent: Sequence[Record] = ()
    early: Sequence[Record] = ()
    evaluations: Sequence[Record] = ()
    usual_drift: float = 0.0
    true: str = ""
    formal: tuple[str, ...] = ()

    def get(self, key: str) -> float | None:
        """The number of this step; None if there is none."""
        return number(self.now.get(key))

    def last(self, key: str, steps: int) -> list[float]:
        """The numbers of the last `steps` steps that have one, including this one."""
        return numbers((*self.recent, self.now), key)[-steps:]

    def before(self, key: str, steps: int) -> list[float]:
        """The numbers of the last `steps` steps before this one that have one."""
        return numbers(self.recent, key)[-steps:]

    def first(self, key: str, steps: int = EARLY_STEPS) -> list[float]:
        """The numbers of the run's first steps, including this one while it is one of them."""
        is_early = len(self.early) < EARLY_STEPS
        records = [*self.early, self.now] if is_early else self.early
        return numbers(records, key)[:steps]


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def numbers(records: Sequence[Record], key: str) -> list[float]:
    """The finite numbers that `records` have under `key`."""
    values = [number(record.get(key)) for record in records]
    return [value for value in values if value is not None]
