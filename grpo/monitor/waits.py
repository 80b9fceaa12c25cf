"""What a run waits for, by name: whoever waits opens a `waiting` block, which the watchdog watches.

A wait has a name, an owner, a deadline, and a way to tell whether it makes progress. What follows when it makes none
is up to ``watchdog``.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Protocol

import psutil

MIB = 2**20
MAX_REASON_LENGTH = 300  # characters of an error that are shown


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a wait is: ``done`` of ``total`` of its ``unit``, and the tokens sampled so far.

    ``total`` is 0 where it is not known, ``tokens`` None where none are sampled.
    """

    done: int
    total: int
    unit: str = ""
    tokens: int | None = None


@dataclass(slots=True, eq=False)
class Wait:
    """One open wait. Other threads call ``progress``, ``state`` and ``counts``, which must not block."""

    name: str
    owner: str
    timeout_seconds: float | None
    at_least_seconds: float
    progress: Callable[[], Any] | None
    state: Callable[[], Iterable[str]] | None
    thread: int
    counts: Callable[[], Counts] | None = None
    began: float = field(default_factory=time.monotonic)
    beats: int = 0
    idle_seconds: float = 0.0
    seen: Any = None

    def __str__(self) -> str:
        return f"{self.name} ({self.owner})"

    def beat(self) -> None:
        """Report progress."""
        self.beats += 1

    def signature(self) -> Any:
        """A value that changes as long as this makes progress."""
        try:
            return self.beats, self.progress() if self.progress else None
        except Exception as error:  # noqa: BLE001  what is asked may be what broke
            return self.beats, type(error).__name__

    def count(self, seconds: float) -> None:
        """Add the seconds since the last look, or start over if there was progress since then."""
        signature = self.signature()
        self.idle_seconds = self.idle_seconds + seconds if signature == self.seen else 0.0
        self.seen = signature


class PeerView(Protocol):
    """What is known of the other ranks."""

    def progress(self) -> Any:
        """A value that changes as long as another rank makes progress."""

    def lines(self) -> list[str]:
        """Where every other rank is."""

    def ended(self) -> list[int]:
        """The ranks that are known to have ended."""

    def broken_off(self, message: str) -> list[tuple[int, str]]:
        """(rank, host) of each rank elsewhere that an error's `message` gives the address of."""


class Watcher(Protocol):
    """The watchdog, as far as waits know it."""

    @property
    def peers(self) -> PeerView | None: ...


@dataclass(slots=True, eq=False)
class ProcessWaits:
    """The waits of this process: those that are open, the collectives begun so far, and who watches."""

    open: list[Wait] = field(default_factory=list)
    num_collectives: int = 0
    watcher: Watcher | None = None

    def innermost(self) -> list[Wait]:
        """The wait of each thread that was opened last."""
        by_thread = {wait.thread: wait for wait in list(self.open)}
        return list(by_thread.values())

    def of_thread(self, thread: int) -> list[Wait]:
        """The waits of one thread, the outermost first."""
        return [wait for wait in list(self.open) if wait.thread == thread]

    @property
    def peers(self) -> PeerView | None:
        """What is known of the other ranks; None in a single process."""
        return None if self.watcher is None else self.watcher.peers


PROCESS = ProcessWaits()


@contextmanager
def waiting(
    name: str,
    *,
    owner: str,
    timeout_seconds: float | None = None,
    at_least_seconds: float = 0.0,
    progress: Callable[[], Any] | None = None,
    state: Callable[[], Iterable[str]] | None = None,
    counts: Callable[[], Counts] | None = None,
) -> Iterator[Wait]:
    """Name what is waited for inside the block.

    ``name`` is a key of the recipe's section watchdog without ``_seconds``; its deadline applies if
    ``timeout_seconds`` is None, and is never less than ``at_least_seconds``. Any change of what ``progress`` returns
    restarts the clock, as `Wait.beat` does; ``state`` gives lines for the report, ``counts`` says how far this is,
    for whoever shows it. An exception that leaves the block remembers the innermost wait that it came from, see
    `describe_failure`.
    """
    wait = Wait(
        name=name,
        owner=owner,
        timeout_seconds=timeout_seconds,
        at_least_seconds=at_least_seconds,
        progress=progress,
        state=state,
        thread=threading.get_ident(),
        counts=counts,
    )
    PROCESS.open.append(wait)
    try:
        yield wait
    except Exception as error:
        if not hasattr(error, "waited_for"):
            error.waited_for = str(wait)  # type: ignore[attr-defined]  # ours, on any exception
        raise
    finally:
        PROCESS.open.remove(wait)
        beat()


def signatures_of(thread: int | None) -> list[Any]:
    """What changes as long as the waits of another thread make progress."""
    return [] if thread is None else [wait.signature() for wait in PROCESS.of_thread(thread)]


def beat() -> None:
    """Report, from the thread that waits, that its innermost wait made progress."""
    this_thread = threading.get_ident()
    for wait in reversed(PROCESS.open):
        if wait.thread == this_thread:
            wait.beat()
            return


def describe_failure(error: BaseException) -> str:
    """What broke, in a line: the wait that `error` came from, and the beginning of its message."""
    component = getattr(error, "waited_for", "the run")
    message = " ".join(str(error).split())[:MAX_REASON_LENGTH]
    return f"{component} died of {type(error).__name__}: {message}"


# ---- usual waits ------------------------------------------------------------------------------------------------


def doing(what: str) -> AbstractContextManager[Wait]:
    """Work under a name of its own, e.g. "evaluating gsm8k", for whoever shows it.

    It has no deadline; the waits inside have theirs.
    """
    return waiting("work", owner=what, timeout_seconds=math.inf)


def loading(owner: str) -> AbstractContextManager[Wait]:
    """A wait in which something is downloaded or read from a disk; what follows the comma in `owner` is its name."""
    before = read_and_written()
    return waiting(
        "loading",
        owner=owner,
        progress=read_and_written,
        counts=lambda: Counts(read_and_written() - before, 0, "MiB"),
    )


def writing(owner: str, folder: Path) -> AbstractContextManager[Wait]:
    """A wait in which files are written below `folder`."""
    return waiting(
        "checkpoint",
        owner=f"{owner} in {folder}",
        progress=read_and_written,
        state=lambda: sizes(folder),
    )


@contextmanager
def collective(owner: str) -> Iterator[None]:
    """A wait for all ranks; it makes progress as long as the others do. Where it breaks, ranks that ended are named."""
    PROCESS.num_collectives += 1
    try:
        with waiting(
            "collective",
            owner=f"{owner}, number {PROCESS.num_collectives}",
            progress=peers_progress,
            state=peers_lines,
        ):
            yield
    except Exception as error:
        missed = _missed(PROCESS.peers, str(error))
        if missed:
            without = f"{getattr(error, 'waited_for', owner)} without {missed},"
            error.waited_for = without  # type: ignore[attr-defined]  # ours, on any exception
        raise


def _missed(peers: PeerView | None, message: str) -> str:
    """The ranks for want of which a collective broke with this `message`; empty where that is not known."""
    if peers is None:
        return ""
    ended = [f"rank {rank}" for rank in peers.ended()]
    if ended:
        return f"{' and '.join(ended)}, whose process has ended"
    gone = [f"rank {rank} on {host}" for rank, host in peers.broken_off(message)]
    return f"{' or '.join(gone)}, to which the connection broke" if gone else ""


def sizes(folder: Path) -> list[str]:
    """The files that are being written below `folder`, with their sizes so far."""
    return [f"{file}: {file.stat().st_size} bytes" for file in sorted(folder.rglob(".writing-*/*"))]


def read_and_written() -> int:
    """MiB that this process has read and written so far: the progress of a download or of a file being written."""
    try:
        counts = psutil.Process().io_counters()
    except (psutil.Error, AttributeError, OSError):
        return 0
    return (counts.read_chars + counts.write_chars) // MIB


def peers_lines() -> list[str]:
    """Where the other ranks are; empty in a single process."""
    peers = PROCESS.peers
    return [] if peers is None else peers.lines()


def peers_progress() -> Any:
    """A value that changes as long as other ranks make progress."""
    peers = PROCESS.peers
    return None if peers is None else peers.progress()
