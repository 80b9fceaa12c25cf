"""What a check is: a question with a measurement, and what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Generic, TypeVar

S = TypeVar("S")


class Skipped(Exception):
    """Raised by a check that cannot be made here; its text says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found: a number and its bound, or a count of rights and how many there are.

    ``holds`` decides; ``found`` is the evidence in a few words, with the bound.
    """

    holds: bool
    found: str


def below(value: float, bound: float, what: str) -> Measured:
    """Holds if `value` is at most `bound`; a NaN never is."""
    return Measured(holds=value <= bound, found=f"{what} {value:.1e}, bound {bound:.0e}")


def all_of(num_right: int, number: int, what: str, wrong: str = "") -> Measured:
    """Holds if all of `number`, and at least one, are right; `wrong` names the first that is not."""
    first = f"; wrong: {wrong}" if wrong else ""
    return Measured(holds=0 < number == num_right, found=f"{num_right} of {number} {what}{first}")


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """``promise`` is what holds if the check does; ``measure`` raises `Skipped` where it cannot be made."""

    name: str
    promise: str
    measure: Callable[[S], Measured]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check: ``status`` is holds, fails or skipped; ``seconds`` is what it took."""

    name: str
    promise: str
    status: str
    found: str
    seconds: float

    def to_mapping(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def finding_of(check: Check[S], subject: S) -> Finding:
    """Make a check; an error inside it is a failure that names it, and stops no other check."""
    started = time.perf_counter()
    try:
        measured = check.measure(subject)
        status = "holds" if measured.holds else "fails"
        found = measured.found
    except Skipped as reason:
        status = "skipped"
        found = str(reason)
    except Exception as error:  # noqa: BLE001  whatever breaks is a finding
        status = "fails"
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Finding(
        name=check.name,
        promise=check.promise,
        status=status,
        found=found,
        seconds=time.perf_counter() - started,
    )
