"""Rewards that run programs: awaited in the service's own loop, next to the sandbox that confines what they run.

Such a reward is an async function with the attribute ``runs_programs`` and a parameter ``sandbox``. It must not run
anything untrusted itself; the programs' deadlines are the sandbox's, and there is no second one around them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Callable, Sequence

from rewards.calling import judge_one
from rewards.conventions import fault
from rewards.service.request import Function, Request, Unit
from rewards.table import runs_programs
from rewards.types import Score

__all__ = ["SupervisedRunner", "runs_programs"]

REQUESTS_PER_SLOT = 4
"""Reading tests and comparing outputs take time too: more completions in progress than programs keep slots busy."""


class SupervisedRunner:
    """Judges with one such reward, several completions for each of the sandbox's slots at a time."""

    def __init__(self, function: Function, sandbox: Any) -> None:
        assignment = function.assignment
        provided = {"sandbox": sandbox, "timeout_seconds": assignment.timeout_seconds}
        accepted = function.convention.accepted
        own_args = {name: value for name, value in provided.items() if name in accepted}
        self._function = function
        self._args = {**own_args, **assignment.args}
        self._max_in_progress = REQUESTS_PER_SLOT * sandbox.slots
        self._queue: deque[Request] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.step = 0
        self.metrics: dict[str, list[float]] = {}

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units, oldest first."""
        for unit in units:
            self._queue.extend(unit)
        while self._queue and len(self._tasks) < self._max_in_progress:
            self._begin()

    def describe(self) -> list[str]:
        """The queue, and how many completions are being judged."""
        name = self._function.convention.name
        return [f"{name}: {len(self._queue)} in the queue, {len(self._tasks)} in progress"]

    def _begin(self) -> None:
        task = asyncio.ensure_future(self._judge(self._queue.popleft()))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue and not task.cancelled():
            self._begin()

    async def _judge(self, request: Request) -> None:
        began = time.monotonic()
        score = await self._score(request)
        if score.status == "fault":
            score = await self._score(request)
        request.deliver(score, time.monotonic() - began)

    async def _score(self, request: Request) -> Score:
        convention = self._function.convention
        function: Callable[..., Any] = self._function.inspected
        try:
            return await judge_one(convention, function, request.sample, self._args)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a reward can raise anything
            return fault(f"{convention.name} raised {type(error).__name__}: {error}")

    async def close(self) -> None:
        """Stop judging."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
