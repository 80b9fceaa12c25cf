"""Rewards that run programs: awaited in the service's own loop, beside the sandbox that holds what they run.

Such a reward is an async function with the attribute ``runs_programs`` and a parameter ``sandbox``. It must not run
anything untrusted itself; the programs' deadlines are the sandbox's, and there is no second one around them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Callable, Sequence

from rewards.conventions import fault, judge_one
from rewards.service.pool import Function, Unit
from rewards.types import Score

__all__ = ["SupervisedRunner", "runs_programs"]

Row = Any


def runs_programs(function: Any) -> bool:
    """Whether a reward hands programs to a sandbox."""
    return getattr(function, "runs_programs", False) is True


class SupervisedRunner:
    """Judges with one such reward; as many completions at a time as the sandbox has slots for."""

    def __init__(self, function: Function, sandbox: Any) -> None:
        seconds = function.assignment.timeout_seconds
        given = {"sandbox": sandbox, "timeout_seconds": seconds}
        own = {name: value for name, value in given.items() if name in function.convention.accepted}
        self._function, self._args = function, {**own, **function.assignment.args}
        self._most = 4 * sandbox.slots
        self._queue: deque[Row] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.step = 0
        self.metrics: dict[str, list[float]] = {}

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units, oldest first."""
        self._queue.extend(row for unit in units for row in unit)
        while self._queue and len(self._tasks) < self._most:
            self._begin()

    def describe(self) -> list[str]:
        """The queue, and how many completions are being judged."""
        return [
            f"{self._function.convention.name}: {len(self._queue)} in the queue, {len(self._tasks)} under way"
        ]

    def _begin(self) -> None:
        task = asyncio.ensure_future(self._judge(self._queue.popleft()))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue and not task.cancelled():
            self._begin()

    async def _judge(self, row: Row) -> None:
        began = time.monotonic()
        score = await self._score(row)
        if score.status == "fault":
            score = await self._score(row)
        row.deliver(score, time.monotonic() - began)

    async def _score(self, row: Row) -> Score:
        convention = self._function.convention
        function: Callable[..., Any] = self._function.inspected
        try:
            return await judge_one(convention, function, row.sample, self._args)
        except (Exception, SystemExit) as error:
            return fault(f"{convention.name} raised {type(error).__name__}: {error}")

    async def close(self) -> None:
        """Stop judging."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
