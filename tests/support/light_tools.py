"""Tools and environments of the tests, in a file that workers import quickly."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal, Mapping

from rewards.environments import Observation

some_came = threading.Condition()
waiting = 0


def add(a: int, b: int = 1) -> int:
    """Adds two integers.

    Args:
        a: The first
        b: The second
    """
    return a + b


def search(query: str, kind: Literal["web", "book"] = "web", limit: int | None = None) -> list[str]:
    """Finds titles.

    Args:
        query: What is looked for
        kind: Where
        limit: How many at most
    """
    return [f"{kind}: {query}"] * (limit or 1)


def wait(seconds: float) -> str:
    """Sleeps, and blocks meanwhile.

    Args:
        seconds: How long
    """
    time.sleep(seconds)
    return "awake"


async def wait_politely(seconds: float) -> str:
    """Sleeps without blocking.

    Args:
        seconds: How long
    """
    await asyncio.sleep(seconds)
    return "awake"


def note_and_wait(file: str) -> str:
    """Leaves a note of each call, sleeps too long, and blocks meanwhile.

    Args:
        file: Where the note goes
    """
    with Path(file).open("a") as notes:
        notes.write("called\n")
    time.sleep(3600)
    return "awake"


async def note_and_wait_politely(file: str) -> str:
    """Leaves a note of each call, and sleeps too long without blocking.

    Args:
        file: Where the note goes
    """
    with Path(file).open("a") as notes:
        notes.write("called\n")
    await asyncio.sleep(3600)
    return "awake"


class Panic(BaseException):
    """As what PyO3 raises where Rust code panics: no `Exception`."""


def panic(kind: str) -> str:
    """Raises what is no `Exception`.

    Args:
        kind: Which one
    """
    kinds = {"panic": Panic, "cancelled": asyncio.CancelledError, "exit": GeneratorExit}
    raise kinds[kind]("stop")


async def panic_politely(kind: str) -> str:
    """Raises what is no `Exception`, and is async.

    Args:
        kind: Which one
    """
    return panic(kind)


def meet(number: int) -> str:
    """Waits until so many wait, and blocks meanwhile.

    Args:
        number: How many
    """
    global waiting
    with some_came:
        waiting += 1
        some_came.notify_all()
        some_came.wait_for(lambda: waiting >= number)
    return "met"


async def meet_politely(number: int) -> str:
    """Waits until so many wait, without blocking.

    Args:
        number: How many
    """
    global waiting
    waiting += 1
    while waiting < number:
        await asyncio.sleep(0.01)
    return "met"


def compute(seconds: float) -> str:
    """Keeps a core busy.

    Args:
        seconds: How long
    """
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return "computed"


def where() -> int:
    """Says which process answers."""
    return os.getpid()


def leave(code: int) -> str:
    """Ends its process.

    Args:
        code: The exit code
    """
    os._exit(code)


def leave_once(marker: str) -> str:
    """Ends its process the first time.

    Args:
        marker: A file that says that there was a first time
    """
    if Path(marker).exists():
        return "second"
    Path(marker).touch()
    os._exit(3)


def fail(message: str) -> str:
    """Raises.

    Args:
        message: What it says
    """
    raise LookupError(message)


def flood(count: int) -> str:
    """Answers at length.

    Args:
        count: How many characters
    """
    return "x" * count


def no_text(kind: str) -> Any:
    """Answers what is no text.

    Args:
        kind: bytes or surrogate
    """
    return b"\xff\xfe ok" if kind == "bytes" else "\ud800 ok"


def count_threads() -> int:
    """Counts the threads of its process."""
    return threading.active_count()


def runs_a_loop(text: str) -> str:
    """Awaits something by itself, as clients do that are async inside.

    Args:
        text: What it says
    """
    return asyncio.run(gives_an_awaitable(text))


def gives_an_awaitable(text: str) -> Any:
    """Is not async, and answers with what is to be awaited.

    Args:
        text: What it says
    """

    async def say() -> str:
        await asyncio.sleep(0.001)
        return f"{text}, awaited"

    return say()


class Counter:
    """An environment that counts its turns; it has to live in one process, or to be played again."""

    def __init__(self, goal: int = 3) -> None:
        self._goal = goal
        self._seen: list[str] = []
        self._start = 0

    def reset(self, row: Mapping[str, Any]) -> Observation | None:
        self._start = row.get("start", 0)
        return Observation(f"from {self._start}") if self._start else None

    def step(self, text: str) -> Observation:
        if text.startswith("sleep"):
            time.sleep(float(text.split()[1]))
        if text == "die":
            os._exit(1)
        if text == "raise":
            raise LookupError("no such move")
        self._seen.append(text)
        count = self._start + len(self._seen)
        done = len(self._seen) >= self._goal
        return Observation(
            f"{count}: {','.join(self._seen)}", done=done, reward=0.5, parts={"n": count}
        )


class Basket:
    """As TRL's environment_factory takes it: ``reset`` takes the row's columns, public methods are tools."""

    def reset(self, start: int = 0, **row: Any) -> str | None:
        self.total = start
        return f"The basket holds {start}." if start else None

    def put(self, number: int) -> int:
        """Puts something into the basket.

        Args:
            number: How many

        Returns:
            How many there are now
        """
        self.total += number
        return self.total

    def get_reward(self) -> float:
        return self.total / 10

    async def look(self) -> str:
        """Looks into the basket."""
        return str(self.total)


class Unsure:
    """As an array of several truths: neither true nor false."""

    def __bool__(self) -> bool:
        raise TypeError("neither")


class Odd:
    """An environment whose observation has what does not belong there."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def reset(self, row: Mapping[str, Any]) -> None:
        return None

    def step(self, text: str) -> Any:
        odd: Any = Unsure() if self._kind == "done" else (object(),)
        return Observation("odd", **{self._kind: odd})
