"""Judges with callables that only this process has (closures, a notebook's functions), in daemon threads."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Sequence

from rewards.calling import judge
from rewards.conventions import fault
from rewards.service.request import (
    MAX_CONCURRENT,
    Function,
    Request,
    Retriable,
    Unit,
    units_to_retry,
)
from rewards.spelling import many
from rewards.types import Sample, Score

__all__ = ["ThreadRunner"]

MAX_STUCK_THREADS = 8


@dataclass(slots=True, eq=False)
class _Attempt:
    """A unit being judged in a thread; ``is_over`` once its verdicts no longer count."""

    pending: dict[int, Request]
    num_requests: int
    is_over: bool = False
    faulted: list[Retriable] = field(default_factory=list)


class ThreadRunner:
    """Judges with a callable of this process, one call at a time.

    A thread cannot be killed: at the deadline its requests become faults that say so, and the next are judged in
    another thread. All methods but `_work` and `_post` run in the loop's thread.
    """

    def __init__(self, function: Function) -> None:
        assert function.local is not None
        self._function = function
        self._callable = function.local
        self._name = function.convention.name
        self._queue: deque[Unit] = deque()
        self._current: _Attempt | None = None
        self._stuck: list[threading.Thread] = []
        self._loop = asyncio.get_running_loop()
        self.step = 0
        self.metrics: dict[str, list[float]] = {}

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units."""
        self._queue.extend(units)
        self._start_next()

    def describe(self) -> list[str]:
        """The queue, and whether a call is in progress."""
        current = "nothing in progress"
        if self._current is not None:
            current = f"{many(len(self._current.pending), 'row')} in progress"
        return [
            f"{self._name} (in this process): {len(self._queue)} calls in the queue, {current}, "
            f"{many(len(self._stuck), 'thread')} stuck"
        ]

    def _start_next(self) -> None:
        if self._current is not None or not self._queue:
            return
        unit = self._queue.popleft()
        while self._function.is_concurrent and self._queue and len(unit) < MAX_CONCURRENT:
            unit = unit + self._queue.popleft()
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= MAX_STUCK_THREADS:
            why = fault(f"{self._name}: {many(len(self._stuck), 'earlier call')} still stuck")
            for request in unit:
                request.deliver(why, 0.0)
            self._loop.call_soon(self._start_next)
            return
        self._begin(_Attempt(dict(enumerate(unit)), len(unit)))

    def _begin(self, attempt: _Attempt) -> None:
        self._current = attempt
        samples = [request.sample for request in attempt.pending.values()]
        thread = threading.Thread(
            target=self._work, args=(attempt, samples), name=f"reward {self._name}", daemon=True
        )
        limit_seconds = self._function.limit_seconds
        if math.isfinite(limit_seconds):
            self._loop.call_later(limit_seconds, self._expire, attempt, thread)
        thread.start()

    def _work(self, attempt: _Attempt, samples: list[Sample]) -> None:
        """In the thread: judge, and pass each verdict to the loop."""

        def emit(index: int, score: Score, seconds: float) -> None:
            self._post(self._settle, attempt, index, (score, seconds))

        def log(name: str, value: float) -> None:
            self._post(self._log, name, value)

        assignment = self._function.assignment
        judge(
            self._function.convention,
            self._callable,
            samples,
            args=assignment.args,
            emit=emit,
            step=self.step,
            timeout_seconds=assignment.timeout_seconds,
            log=log,
        )
        self._post(self._end, attempt)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the service was closed while this thread was stuck

    def _settle(self, attempt: _Attempt, index: int, verdict: tuple[Score, float]) -> None:
        if attempt.is_over:
            return
        score, seconds = verdict
        request = attempt.pending.pop(index)
        if score.status == "timeout" and self._function.is_concurrent:
            score = fault(score.detail)
        if score.status == "fault" and not request.is_retry:
            attempt.faulted.append((request, score, seconds))
        else:
            request.deliver(score, seconds)

    def _log(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(value)

    def _end(self, attempt: _Attempt) -> None:
        if attempt.is_over:
            return
        convention = self._function.convention
        units = units_to_retry(convention, attempt.faulted, attempt.num_requests)
        self._queue.extendleft(reversed(units))
        self._finish(attempt)

    def _expire(self, attempt: _Attempt, thread: threading.Thread) -> None:
        if attempt.is_over:
            return
        self._stuck.append(thread)
        limit = self._function.assignment.timeout_seconds
        why = fault(
            f"{self._name} took longer than {limit:g} s; it exists only in this process and cannot be killed: "
            "put it into a file and name it as path/file.py:function"
        )
        attempt.is_over = True
        faulted = [request for request, _, _ in attempt.faulted]
        for request in [*attempt.pending.values(), *faulted]:
            request.deliver(why, limit)
        self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> None:
        attempt.is_over = True
        self._current = None
        self._start_next()
