"""A submission in progress, and how the scores of several rewards combine into the verdict on a completion."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from types import MappingProxyType
from typing import Mapping, Sequence

from rewards.types import RewardSpec, Score

__all__ = ["Judged", "Ticket", "combine"]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one completion: ``score`` combines the rewards, ``parts`` holds each one's own score.

    ``seconds`` is the time spent judging it, summed over the rewards; time in a queue is not included.
    """

    score: Score
    parts: Mapping[str, Score]
    seconds: float


def combine(specs: Sequence[RewardSpec], parts: Mapping[str, Score]) -> Score:
    """The weighted sum of a completion's parts, by the rules of the status table.

    A fault in a part of nonzero weight makes the whole a fault: it must never act like a 0 in the sum. Parts
    without a value are left out; if none has one, the completion is ``not_applicable``. A ``timeout`` counts 0
    and shows in the status. Parts of weight 0 are reported and change nothing.
    """
    values = {spec.name: parts[spec.name].value for spec in specs}
    counted = [spec for spec in specs if spec.weight] or list(specs)
    statuses = {parts[spec.name].status for spec in counted}
    if "fault" in statuses:
        faulted = [spec for spec in counted if parts[spec.name].status == "fault"]
        why = "; ".join(f"{spec.name}: {parts[spec.name].detail}" for spec in faulted)
        return Score(None, parts=values, status="fault", detail=why)
    explained = [spec for spec in counted if parts[spec.name].detail]
    detail = "; ".join(f"{spec.name}: {parts[spec.name].detail}" for spec in explained)
    weighted = [
        spec.weight * value for spec in counted if (value := parts[spec.name].value) is not None
    ]
    if not weighted:
        return Score(None, parts=values, status="not_applicable", detail=detail)
    status = "scored"
    if "timeout" in statuses:
        status = "timeout"
    elif statuses <= {"no_answer", "not_applicable"}:
        status = "no_answer"
    return Score(math.fsum(weighted), parts=values, status=status, detail=detail)


class Ticket:
    """A submission in progress; made by `RewardService.submit`."""

    def __init__(self, specs: Sequence[RewardSpec], num_samples: int) -> None:
        self._specs = specs
        self._parts: list[dict[str, Score]] = [{} for _ in range(num_samples)]
        self._seconds = [0.0] * num_samples
        self._num_open = num_samples * len(specs)
        self.future: Future[list[Judged]] = Future()
        if not self._num_open:
            self.future.set_result([])

    def result(self, timeout: float | None = None) -> list[Judged]:
        """Wait for the verdicts, in the order of the samples; `TimeoutError` after ``timeout`` seconds."""
        try:
            return self.future.result(timeout)
        except FutureTimeoutError:
            raise TimeoutError(
                f"{self._num_open} verdicts are still missing after {timeout} s"
            ) from None

    def done(self) -> bool:
        """Whether every verdict is there."""
        return self.future.done()

    @property
    def num_open(self) -> int:
        """How many verdicts are still missing."""
        return self._num_open

    def describe(self) -> list[str]:
        """How many verdicts of which rewards are missing, in one line; empty if none are."""
        missing: Counter[str] = Counter()
        for parts in self._parts:
            missing.update(spec.name for spec in self._specs if spec.name not in parts)
        counts = [
            f"{missing[spec.name]} of {len(self._parts)} by rewards.{spec.name}"
            for spec in self._specs
            if missing[spec.name]
        ]
        return [f"verdicts still missing: {', '.join(counts)}"] if counts else []

    def deliver(self, index: int, name: str, score: Score, seconds: float) -> None:
        """In the service's thread: one part of one completion is known."""
        self._parts[index][name] = score
        self._seconds[index] += seconds
        self._num_open -= 1
        if self._num_open == 0 and not self.future.done():
            self.future.set_result([self._judged(index) for index in range(len(self._parts))])

    def _judged(self, index: int) -> Judged:
        parts = {spec.name: self._parts[index][spec.name] for spec in self._specs}
        return Judged(combine(self._specs, parts), MappingProxyType(parts), self._seconds[index])
