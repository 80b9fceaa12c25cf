"""Lines to where tools and environments run: a worker process, or threads for what exists in this process only.

Both take operations, give messages, and can be killed; of threads that means: left alone, and no more listened to.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable, Mapping, Protocol, Sequence

from rewards.clock import Clock
from rewards.environments.executor import Executor, Operation
from rewards.environments.hosted import Hosted
from rewards.service.process import WorkerProcess

__all__ = ["Line", "open_line"]


class Line(Protocol):
    """`rewards.service.process.WorkerProcess` is one."""

    clock: Clock

    @property
    def is_alive(self) -> bool: ...

    def post(self, message: Any) -> None: ...

    def call_back(self, listener: Callable[[], None]) -> None: ...

    def take(self) -> Sequence[Mapping[str, Any]]: ...

    def exit_reason(self) -> str: ...

    def kill(self) -> None: ...


async def open_line(hosted: Sequence[Hosted], is_local: bool) -> Line:
    """A new line; `OSError` if no process can be started."""
    if is_local:
        return ThreadLine(hosted)
    return await WorkerProcess.start(hosted, "rewards.environments.worker")


class ThreadLine:
    """An executor in a loop and a thread of its own, in this process."""

    def __init__(self, hosted: Sequence[Hosted]) -> None:
        self.clock = Clock()
        self.is_alive = True
        self._owner = asyncio.get_running_loop()
        self._messages: list[Mapping[str, Any]] = []
        self._listener: Callable[[], None] = lambda: None
        self._loop = asyncio.new_event_loop()
        self._hosted = hosted
        self._executor: Executor | None = None
        threading.Thread(target=self._run, name="tools of this process", daemon=True).start()

    def post(self, message: Operation) -> None:
        """Begin an operation."""
        self._loop.call_soon_threadsafe(self._begin, message)

    def call_back(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the loop whenever a message has come."""
        self._listener = listener

    def take(self) -> Sequence[Mapping[str, Any]]:
        """The messages that have come."""
        messages = self._messages
        self._messages = []
        return messages

    def exit_reason(self) -> str:
        """Threads end with the process, or when they are killed."""
        return "was left alone"

    def kill(self) -> None:
        """Listen no more. What runs on cannot be stopped; what does not run will not begin."""
        if self.is_alive:
            self.is_alive = False
            self._loop.call_soon_threadsafe(self._end)

    # ---- in the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _begin(self, operation: Operation) -> None:
        if self._executor is None:
            self._executor = Executor(self._hosted, self._emit)
        self._executor.begin(operation)

    def _end(self) -> None:
        if self._executor is not None:
            self._executor.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)  # behind the cancelled tasks

    def _emit(self, message: Mapping[str, Any]) -> None:
        try:
            self._owner.call_soon_threadsafe(self._take, message)
        except RuntimeError:
            pass  # the pool was closed meanwhile

    def _take(self, message: Mapping[str, Any]) -> None:
        self._messages.append(message)
        self._listener()
