"""Every wait of a run has a name, a deadline and an owner; what makes no progress for so long ends the run, named.

Whoever waits says so by `waiting`. A daemon thread looks at the open waits: where the innermost wait of a thread
shows no progress for its deadline, the stacks of all threads, the states of the queues and the culprit's name are
written to the run folder (``watchdog.txt``) and to standard error, this process's children are killed, and the
process leaves with exit code 1. The last checkpoint stands. Deadlines count the watchdog's own ticks, so a machine
that slept or a process that was stopped and goes on raises no alarm. Where the interpreter itself is held by code
that never gives it back, no thread of Python runs: ``sentinel.py``, a small process beside, notices that.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence

import psutil

from grpo.monitor import interpreter_watch
from grpo.monitor.redaction import redacted
from grpo.recipe import WatchdogSection

EXIT_FAULT = 1
MOST_TICK_SECONDS = 5.0
SAYING_SECONDS, KILLING_SECONDS, STATE_SECONDS = 20.0, 10.0, 5.0
MIB = 2**20


@dataclass(slots=True, eq=False)
class Wait:
    """One open wait. ``progress`` and ``state`` are asked by the watchdog's thread and must not block."""

    name: str
    owner: str
    timeout_seconds: float | None
    at_least_seconds: float
    progress: Callable[[], Any] | None
    state: Callable[[], Iterable[str]] | None
    thread: int
    beats: int = 0
    idle_seconds: float = 0.0
    seen: Any = None

    def beat(self) -> None:
        """Say that something was done."""
        self.beats += 1

    def signature(self) -> Any:
        """What changes as long as this makes progress."""
        try:
            return self.beats, self.progress() if self.progress else None
        except Exception as error:  # whoever is asked may be the one that broke
            return self.beats, type(error).__name__


_open: list[Wait] = []
_current: Watchdog | None = None
num_collectives = 0


@contextmanager
def waiting(
    name: str,
    *,
    owner: str,
    timeout_seconds: float | None = None,
    at_least_seconds: float = 0.0,
    progress: Callable[[], Any] | None = None,
    state: Callable[[], Iterable[str]] | None = None,
) -> Iterator[Wait]:
    """Name what is waited for inside the block.

    ``name`` is a key of the recipe's section watchdog without ``_seconds``, whose deadline holds where
    ``timeout_seconds`` is None; it is never less than ``at_least_seconds``. Any change of what ``progress`` returns
    restarts the clock, as `Wait.beat` does; ``state`` gives lines for the report. An exception that leaves the block
    remembers where it came from.
    """
    wait = Wait(
        name, owner, timeout_seconds, at_least_seconds, progress, state, threading.get_ident()
    )
    _open.append(wait)
    try:
        yield wait
    except Exception as error:
        if not hasattr(error, "waited_for"):
            error.waited_for = f"{name} ({owner})"  # type: ignore[attr-defined]
        raise
    finally:
        _open.remove(wait)
        beat()


def beat() -> None:
    """Say, from the thread that waits, that its innermost wait made progress."""
    me = threading.get_ident()
    for wait in reversed(_open):
        if wait.thread == me:
            wait.beat()
            return


def died(error: BaseException) -> str:
    """What broke, in a line: the wait that `error` came out of, and its first words."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return f"{getattr(error, 'waited_for', 'the run')} died of {said}; the last checkpoint stands"


def loading(owner: str) -> Any:
    """A wait in which something is downloaded or read from a disk."""
    return waiting("loading", owner=owner, progress=read_and_written)


def writing(owner: str, folder: Path) -> Any:
    """A wait in which files are written below `folder`."""
    return waiting(
        "checkpoint",
        owner=f"{owner} in {folder}",
        progress=read_and_written,
        state=lambda: sizes(folder),
    )


def sizes(folder: Path) -> list[str]:
    """The files that are being written below `folder`, with their sizes so far."""
    return [f"{file}: {file.stat().st_size} bytes" for file in sorted(folder.rglob(".writing-*/*"))]


def read_and_written() -> int:
    """MiB that this process has read and written so far: the progress of a download, or of a file being written."""
    try:
        counts = psutil.Process().io_counters()
    except (psutil.Error, AttributeError, OSError):
        return 0
    return (counts.read_chars + counts.write_chars) // MIB


def innermost() -> list[Wait]:
    """The wait of each thread that opened last."""
    return list({wait.thread: wait for wait in list(_open)}.values())


class Watchdog:
    """Watches the waits of this process from `start` to `stop`."""

    def __init__(self, section: WatchdogSection, folder: Path | None = None):
        self.section, self.folder, self.rank = section, folder, 0
        limits = [
            value
            for name, value in dataclasses.asdict(section).items()
            if name.endswith("_seconds")
        ]
        self.tick = max(0.02, min(MOST_TICK_SECONDS, min(limits) / 10))
        self.peers: Peers | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._sentinel: _Sentinel | None = None

    def start(self) -> Watchdog:
        """Begin to watch, unless the recipe turned it off."""
        global _current
        if self.section.action == "off":
            return self
        _current = self
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Watch no longer."""
        global _current
        self._ended.set()
        if self._thread is not None:
            self._thread.join(MOST_TICK_SECONDS)
        if self._sentinel is not None:
            self._sentinel.close()
        self._thread = self._sentinel = None
        if _current is self:
            _current = None

    def keep_in(self, folder: Path) -> None:
        """Write alarms into the run folder `folder` too; and from now on have the interpreter itself watched."""
        self.folder = folder
        watched = (
            self._thread is not None and self._sentinel is None and self.section.action == "stop"
        )
        if watched and hasattr(faulthandler, "register"):  # Windows lacks it
            self._sentinel = _Sentinel(self.section.interpreter_seconds)

    @contextmanager
    def watching(self) -> Iterator[Watchdog]:
        """`start` and `stop` around a block."""
        try:
            yield self.start()
        finally:
            self.stop()

    def join(self, rank: int, world: int, store: Any) -> None:
        """From now on tell the other ranks through `store` where this one is, and learn where they are."""
        self.rank = rank
        self.peers = Peers(store, rank, world)

    # -- looking ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(self.tick):
            now = time.monotonic()
            passed, before = (
                min(now - before, 2 * self.tick),
                now,
            )  # what the machine slept does not count
            if _current is not self:
                continue
            waits = innermost()
            for wait in waits:
                self._count(wait, passed)
            self._tell(waits)
            for wait in waits:
                if wait.idle_seconds >= self._limit(wait) and wait in _open:
                    self._expire(wait)

    def _limit(self, wait: Wait) -> float:
        return max(
            wait.at_least_seconds,
            wait.timeout_seconds or getattr(self.section, f"{wait.name}_seconds"),
        )

    @staticmethod
    def _count(wait: Wait, passed: float) -> None:
        found = wait.signature()
        wait.idle_seconds = wait.idle_seconds + passed if found == wait.seen else 0.0
        wait.seen = found

    def _tell(self, waits: Sequence[Wait]) -> None:
        """The sentinel that Python runs, and the other ranks where this one is."""
        said = (
            "; ".join(f"{wait.name} ({wait.owner})" for wait in waits) or "nothing that has a name"
        )
        if self._sentinel is not None:
            where = [] if self.folder is None else [str(self._file(self.folder))]
            self._sentinel.beat(said, *where)
        if self.peers is not None:
            self.peers.exchange(waits)

    # -- an alarm ---------------------------------------------------------------------------------------------

    def _expire(self, wait: Wait) -> None:
        lines = report(wait, self._limit(wait), self.rank)
        stops = self.section.action == "stop"
        lines.append(
            lines[0]
            + (
                "; what was saved before stands"
                if stops
                else "; waiting on, as watchdog.action is warn"
            )
        )
        bounded(lambda: self._say(redacted("\n".join(lines)) + "\n"), SAYING_SECONDS)
        if stops:
            bounded(kill_children, KILLING_SECONDS)
            os._exit(EXIT_FAULT)
        wait.idle_seconds = 0.0

    def _say(self, text: str) -> None:
        """On standard error, then in the run folder; either may be what is stuck."""
        said = threading.Thread(target=self._print, args=(text,), daemon=True)
        said.start()
        if self.folder is not None and self.folder.is_dir():
            try:
                with self._file(self.folder).open("a", encoding="utf-8") as out:
                    out.write(text)
            except OSError as error:
                text = f"watchdog: {self._file(self.folder)} cannot be written: {error}\n"
                threading.Thread(target=self._print, args=(text,), daemon=True).start()
        said.join(SAYING_SECONDS / 2)

    @staticmethod
    def _print(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    def _file(self, folder: Path) -> Path:
        return folder / (f"watchdog-rank{self.rank}.txt" if self.rank else "watchdog.txt")


def report(wait: Wait, limit: float, rank: int) -> list[str]:
    """What is known about a wait that expired: one line that names it, the states, the stacks."""
    states = {other: bounded(partial(_state, other), STATE_SECONDS) or [] for other in list(_open)}
    lines = [
        f"watchdog: {wait.name} ({wait.owner}) made no progress for {wait.idle_seconds:.3g} s{on_rank(rank)}, its "
        f"deadline is {limit:g} s (watchdog.{wait.name}_seconds)"
        + "".join(f"; {line}" for line in states.get(wait, ())[:1]),
        f"at {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}; the waits, outermost first:",
    ]
    for other, state in states.items():
        lines.append(f"  {other.name} ({other.owner}), idle {other.idle_seconds:.3g} s")
        lines += [f"    {line}" for line in state]
    return [*lines, "", *stacks()]


def on_rank(rank: int) -> str:
    return f" on rank {rank}" if _current is not None and _current.peers is not None else ""


def _state(wait: Wait) -> list[str]:
    try:
        return list(wait.state()) if wait.state else []
    except Exception as error:
        return [f"its state cannot be read: {type(error).__name__}: {error}"]


def stacks() -> list[str]:
    """The stack of every thread of this process, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for number, frame in sys._current_frames().items():
        if number != threading.get_ident():
            lines.append(f"thread {names.get(number, number)}:")
            lines += [
                line
                for part in traceback.format_stack(frame)
                for line in part.rstrip().splitlines()
            ]
    return lines


def place_of(thread: int) -> str:
    """Where a thread is, as ``file:line in function``."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "nowhere"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"


def bounded(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns, or None if it takes longer; it then goes on in a thread of its own, unwaited for."""
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(work()), name="watchdog's errand", daemon=True
    )
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def kill_children() -> None:
    """Kill every process below this one: reward workers, sandboxes, and what they started."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            pass  # gone already, or another user's, who watches its own parent


# ---- the other ranks ------------------------------------------------------------------------------------------


class Peers:
    """Where each rank is, as its own watchdog says each tick through the process group's store."""

    def __init__(self, store: Any, rank: int, world: int):
        self.store, self.rank, self.others = store, rank, [r for r in range(world) if r != rank]
        self.notes: dict[int, dict[str, Any]] = {}
        self.lost = ""
        self._main = threading.main_thread().ident or 0
        self._moves, self._place = 0, ""
        self._errand: threading.Thread | None = None

    def exchange(self, waits: Sequence[Wait]) -> None:
        """Say where this rank's main thread is and read where the others' are, in a thread that nobody waits for."""
        if self._errand is None or not self._errand.is_alive():
            note = self._note(next((wait for wait in waits if wait.thread == self._main), None))
            self._errand = threading.Thread(
                target=self._exchange, args=(note,), name="watchdog's errand", daemon=True
            )
            self._errand.start()

    def _note(self, mine: Wait | None) -> dict[str, Any]:
        place = place_of(self._main)
        gets_on = mine.idle_seconds == 0 if mine else place != self._place
        collects, self._place = mine is not None and mine.name == "collective", place
        self._moves += gets_on and not collects
        return {
            "at": time.time(),
            "wait": f"{mine.name} ({mine.owner})" if mine else "",
            "place": place,
            "collectives": num_collectives,
            "collects": collects,
            "moves": self._moves,
            "idle": mine.idle_seconds if mine else 0.0,
        }

    def _exchange(self, note: dict[str, Any]) -> None:
        try:
            self.store.set(f"rank{self.rank}", json.dumps(note))
            for other in self.others:
                if self.store.check([f"rank{other}"]):
                    self.notes[other] = json.loads(self.store.get(f"rank{other}"))
        except RuntimeError as error:  # the store is gone with the rank that kept it
            self.lost = " ".join(str(error).split())[:200]

    def progress(self) -> Any:
        """Changes as long as some other rank gets on outside of collectives, or comes to the next one."""
        return [
            (rank, note["moves"], note["collectives"]) for rank, note in sorted(self.notes.items())
        ]

    def lines(self) -> list[str]:
        """Where every other rank was last seen, those that have not come first."""
        missing = [
            rank for rank in self.others if rank not in self.notes or not self._has_come(rank)
        ]
        lines = [f"rank {rank} has NOT come: {self._seen(rank)}" for rank in missing]
        lines += [
            f"rank {rank} has come: {self._seen(rank)}"
            for rank in self.others
            if rank not in missing
        ]
        return lines + (
            [f"the store that the ranks share cannot be reached: {self.lost}"] if self.lost else []
        )

    def _has_come(self, rank: int) -> bool:
        note = self.notes[rank]
        return (
            note["collectives"] > num_collectives
            or note["collectives"] == num_collectives
            and note["collects"]
        )

    def _seen(self, rank: int) -> str:
        note = self.notes.get(rank)
        if note is None:
            return "it never said where it is"
        doing = (
            f"it waits for {note['wait']}" if note["wait"] else "it is in no wait that has a name"
        )
        return (
            f"{doing}, {note['idle']:.3g} s without progress, at {note['place']} (said "
            f"{max(0.0, time.time() - note['at']):.0f} s ago)"
        )


def peers_lines() -> list[str]:
    """Where the other ranks are; empty in a single process."""
    return _current.peers.lines() if _current is not None and _current.peers is not None else []


def peers_progress() -> Any:
    """Changes as long as other ranks get on."""
    return (
        _current.peers.progress() if _current is not None and _current.peers is not None else None
    )


@contextmanager
def collective(owner: str) -> Iterator[None]:
    """A wait for all ranks; it gets on as long as the others do."""
    global num_collectives
    num_collectives += 1
    with waiting(
        "collective",
        owner=f"{owner}, number {num_collectives}",
        progress=peers_progress,
        state=peers_lines,
    ):
        yield


# ---- beside the interpreter -----------------------------------------------------------------------------------


class _Sentinel:
    """The process that notices when no Python runs here any more, and its line to it."""

    def __init__(self, limit_seconds: float):
        self._stacks = tempfile.TemporaryFile()
        faulthandler.register(
            interpreter_watch.DUMP, file=self._stacks, all_threads=True, chain=False
        )
        stacks = self._stacks.fileno()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                interpreter_watch.__file__,
                str(os.getpid()),
                str(limit_seconds),
                str(stacks),
            ],
            stdin=subprocess.PIPE,
            pass_fds=[stacks],
        )
        os.set_blocking(self._process.stdin.fileno(), False)

    def beat(self, *words: str) -> None:
        """Say that Python runs, and what it waits for."""
        try:
            os.write(self._process.stdin.fileno(), json.dumps(words).encode() + b"\n")
        except OSError:
            pass  # full, for it was stopped; or gone: there is nothing it could do then

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        faulthandler.unregister(interpreter_watch.DUMP)
        self._stacks.close()
