"""What the service's runners judge: a reward function, a request for one verdict, and what is judged in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

from rewards.conventions import Convention
from rewards.service.worker import Assignment
from rewards.types import Sample, Score

__all__ = [
    "MAX_CONCURRENT",
    "Deliver",
    "Function",
    "Request",
    "Retriable",
    "Unit",
    "units_to_retry",
]

MAX_CONCURRENT = 64
"""How many completions one call of an async reward judges concurrently."""

Deliver = Callable[[Score, float], None]
"""Receives a verdict and the seconds that judging it took."""


@dataclass(frozen=True, slots=True)
class Function:
    """A reward as the parent knows it: how to call it, and either where workers find it or the callable itself.

    ``inspected`` is the callable whose signature was read; workers have a copy of it, the parent never calls it.
    """

    convention: Convention
    assignment: Assignment
    inspected: Callable[..., Any]
    local: Callable[..., Any] | None = None

    @property
    def is_concurrent(self) -> bool:
        """Whether one worker judges several completions at once."""
        return self.convention.is_async and not self.convention.whole_list

    def limit_of(self, patience: float) -> float:
        """The parent's deadline; async rewards enforce their own first, so that neighbours are not killed."""
        return patience * self.assignment.timeout_seconds + (1.0 if self.is_concurrent else 0.0)

    @property
    def limit_seconds(self) -> float:
        """The parent's deadline of a first try."""
        return self.limit_of(patience=1.0)


@dataclass(slots=True, eq=False)
class Request:
    """One completion for one function, and where its verdict goes.

    ``is_retry`` is set once its first try has failed; ``arrival`` orders the queues; ``key`` is what its verdict is
    cached by, None for a verdict that is not cached.
    """

    function: int
    sample: Sample
    payload: bytes
    deliver: Deliver
    is_retry: bool = False
    arrival: int = 0
    key: bytes | None = None


Unit = list[Request]
"""What must be judged in one call: a single request, or a whole submission for functions that take lists."""

Retriable = tuple[Request, Score, float]
"""A request whose judge failed for the first time: the fault, and the seconds it took."""


def units_to_retry(
    convention: Convention, faulted: Sequence[Retriable], num_requests: int
) -> list[Unit]:
    """The units in which requests whose judge failed are tried once more.

    Functions that need the whole list get all ``num_requests`` of it or nothing: where only a few failed, their
    faults are delivered.
    """
    if not convention.rows_are_independent and len(faulted) < num_requests:
        for request, score, seconds in faulted:
            request.deliver(score, seconds)
        return []
    requests = [request for request, _, _ in faulted]
    for request in requests:
        request.is_retry = True
    if convention.whole_list:
        return [requests] if requests else []
    return [[request] for request in requests]
