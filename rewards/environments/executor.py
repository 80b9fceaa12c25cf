"""Runs tools and environments next to each other, in a worker process or in a thread: async ones await, others block.

What blocks has a thread for each call, so that many may sleep at once. A call is told when it begins, and how it ended;
who waits too long is for the other side to decide (``rewards.environments.hosts``), but for an async call, which is
cancelled here when it is late.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict, dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Callable, Coroutine, Mapping, Sequence

from rewards.environments.hosted import Hosted, maker_of
from rewards.environments.talks import Talk, outcome
from rewards.environments.tools import TOOL_ERRORS
from rewards.environments.types import Observation

__all__ = ["Executor", "Operation"]

CLOSE_SECONDS = 10.0
KEPT_THREADS = 64
"""Threads that are kept where nothing runs."""
Emit = Callable[[Mapping[str, Any]], None]
"""Receives messages, each one JSON can hold, in any thread."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to do: ``method`` of the talk with the number ``talk``, which ``reset`` opens.

    ``hosted`` says which tool or environment. Of a plain tool's calls each is a talk of its own, ``talk`` is None.
    """

    number: int
    hosted: int
    talk: int | None
    method: str
    arguments: Sequence[Any] = ()
    limit_seconds: float = 10.0
    max_bytes: int = 16_384


class Executor:
    """All methods belong to one running loop."""

    def __init__(self, hosted: Sequence[Hosted], emit: Emit) -> None:
        self._hosted = hosted
        self._emit = emit
        self._makers: dict[int, Callable[[], Talk]] = {}
        self._talks: dict[int, Talk] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = _Threads()
        self._loop = asyncio.get_running_loop()

    def begin(self, operation: Operation) -> None:
        """Start on it; returns at once."""
        if operation.method == "forget":
            assert operation.talk is not None
            talk = self._talks.pop(operation.talk, None)
            if talk is not None:
                self._close(talk)
            return
        number = operation.number
        try:
            talk = self._talk_of(operation)
        except TOOL_ERRORS as error:  # importing a tool can raise anything
            self._emit({"failed": number, "why": f"{type(error).__name__}: {error}"[:2000]})
            return
        is_async = talk.is_async(operation.method, operation.arguments)
        self._emit({"began": number, "async": is_async})
        given = outcome(talk, operation.method, operation.arguments, operation.max_bytes)
        if is_async:
            told_of = partial(self._tell, number)
            self._await(given, operation.limit_seconds, told_of)
        else:
            self._threads.run(lambda: self._emit(_ended(number, _run_to_end(given))))

    def _await(
        self,
        given: Coroutine[Any, Any, Any],
        limit_seconds: float,
        ended: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        """Run it in the loop and call `ended`, unless nobody waits any more; it is cancelled when it is late."""
        task = asyncio.ensure_future(given)
        self._tasks.add(task)
        leave = partial(self._leave, ended)
        alarm = self._loop.call_later(limit_seconds, leave, task)
        task.add_done_callback(leave)
        task.add_done_callback(lambda _: alarm.cancel())

    def _leave(self, ended: Callable[[asyncio.Task[Any]], None], task: asyncio.Task[Any]) -> None:
        """It has ended, or is late; whichever comes first."""
        if task in self._tasks:
            self._tasks.remove(task)
            ended(task)
            task.cancel()

    def _tell(self, number: int, task: asyncio.Task[Any]) -> None:
        is_late = not task.done() or task.cancelled()
        self._emit({"late": number} if is_late else _ended(number, task.result()))

    def cancel(self) -> None:
        """Wait for nothing any more."""
        tasks = list(self._tasks)
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        self._threads.close()

    def _close(self, talk: Talk) -> None:
        closing = outcome(talk, "close", (), 0)
        if talk.is_async("close", ()):
            self._await(closing, CLOSE_SECONDS, lambda task: None)
        else:
            self._threads.run(lambda: _run_to_end(closing))

    def _talk_of(self, operation: Operation) -> Talk:
        """The open talk, or a new one."""
        opened = self._talks.get(operation.talk) if operation.talk is not None else None
        if opened is not None and operation.method != "reset":
            return opened
        if operation.hosted not in self._makers:
            self._emit({"loading": True})
            self._makers[operation.hosted] = maker_of(self._hosted[operation.hosted])
            self._emit({"loading": False})
        talk = self._makers[operation.hosted]()
        if operation.talk is not None:
            self._talks[operation.talk] = talk
        return talk


class _Threads:
    """Daemon threads: one that never ends must not hold up the interpreter's exit. Some are kept for the next work."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._is_closed = False

    def run(self, work: Callable[[], None]) -> None:
        """Begin at once, whatever the other threads do."""
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            arguments = (inbox,)
            threading.Thread(target=self._serve, args=arguments, name="tool", daemon=True).start()
        inbox.put(work)

    def _serve(self, inbox: SimpleQueue[Callable[[], None] | None]) -> None:
        while (work := inbox.get()) is not None:
            work()
            del work  # holds what a tool gave
            if len(self._idle) >= KEPT_THREADS:
                return
            self._idle.append(inbox)
            if self._is_closed:
                self.close()

    def close(self) -> None:
        """Let go of those that have nothing to do; the others end with their work."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().put(None)


def _run_to_end(given: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that never waits; what it awaits has a loop of its own (`tools.awaited`)."""
    try:
        given.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("what runs in a thread awaits by `awaited` alone")


def _ended(number: int, value: Any) -> dict[str, Any]:
    return {"ended": number, **told(value)}


def told(value: Any) -> dict[str, Any]:
    """What a talk gave as a message: an `Observation`, a `Result`, or None."""
    if value is None:
        return {"value": None}
    kind = "observation" if isinstance(value, Observation) else "result"
    fields = asdict(value)
    if kind == "observation":
        fields["parts"] = {str(name): _number(part) for name, part in fields["parts"].items()}
        fields["reward"] = _number(fields["reward"])
        fields["done"] = bool(fields["done"])
    return {kind: fields}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
