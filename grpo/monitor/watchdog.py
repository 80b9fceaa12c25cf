"""Ends a run in which something is stuck, and names it.

A daemon thread looks at the open waits (``waits``): if the innermost wait of a thread makes no progress within its
deadline, the stacks of all threads, the state of the queues and the culprit's name are written to the run folder
(``watchdog.txt``) and to standard error, this process's children are killed, and the process exits with code 1. The
last checkpoint is intact. Deadlines count the watchdog's own ticks, so a machine that slept or a process that was
stopped and continued raises no alarm. If native code never gives the interpreter back, no Python thread runs:
``interpreter_watch``, a small process, notices that.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Protocol, Sequence, TypeVar

import psutil

from grpo.monitor import interpreter_watch
from grpo.monitor.peers import Peers, Store
from grpo.monitor.redaction import redacted
from grpo.monitor.stacks import stacks
from grpo.monitor.waits import (
    PROCESS,
    Counts,
    Wait,
    beat,
    collective,
    describe_failure,
    doing,
    loading,
    signatures_of,
    waiting,
    writing,
)

__all__ = [
    "Counts",
    "Settings",
    "Wait",
    "Watchdog",
    "beat",
    "bounded",
    "collective",
    "describe_failure",
    "doing",
    "loading",
    "report",
    "signatures_of",
    "waiting",
    "writing",
]

EXIT_FAULT = 1
MAX_TICK_SECONDS = 5.0
MIN_TICK_SECONDS = 0.02
TICKS_A_DEADLINE = 10
REPORT_SECONDS = 20.0
KILL_SECONDS = 10.0
STATE_SECONDS = 5.0

Result = TypeVar("Result")


class Settings(Protocol):
    """What the watchdog must be told: its action (stop, warn or off), and the deadline of each kind of wait."""

    @property
    def action(self) -> str: ...
    @property
    def engine_seconds(self) -> float: ...
    @property
    def judge_seconds(self) -> float: ...
    @property
    def update_seconds(self) -> float: ...
    @property
    def collective_seconds(self) -> float: ...
    @property
    def checkpoint_seconds(self) -> float: ...
    @property
    def server_seconds(self) -> float: ...
    @property
    def loading_seconds(self) -> float: ...
    @property
    def interpreter_seconds(self) -> float: ...


KINDS = (
    "engine",
    "judge",
    "update",
    "collective",
    "checkpoint",
    "server",
    "loading",
    "interpreter",
)
"""The kinds of waits, each with a deadline ``KIND_seconds`` in `Settings`."""


def deadline_of(settings: Settings, kind: str) -> float:
    """The deadline in seconds of a kind of wait."""
    seconds: float = getattr(settings, f"{kind}_seconds")
    return seconds


class Watchdog:
    """Watches the waits of this process from `start` to `stop`."""

    def __init__(self, settings: Settings, folder: Path | None = None):
        self.settings = settings
        self.folder = folder
        self.rank = 0
        shortest = min(deadline_of(settings, kind) for kind in KINDS)
        self.tick = max(MIN_TICK_SECONDS, min(MAX_TICK_SECONDS, shortest / TICKS_A_DEADLINE))
        self.peers: Peers | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._interpreter_watch: _InterpreterWatch | None = None

    def start(self) -> Watchdog:
        """Begin to watch, unless the recipe turned it off."""
        if self.settings.action == "off":
            return self
        PROCESS.watcher = self
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(MAX_TICK_SECONDS)
        if self._interpreter_watch is not None:
            self._interpreter_watch.close()
        self._thread = None
        self._interpreter_watch = None
        if PROCESS.watcher is self:
            PROCESS.watcher = None

    def keep_in(self, folder: Path) -> None:
        """Write alarms to the run folder `folder` too; from now on the interpreter itself is watched."""
        self.folder = folder
        is_watching = self._thread is not None and self._interpreter_watch is None
        can_dump = hasattr(faulthandler, "register")  # Windows lacks it
        if is_watching and self.settings.action == "stop" and can_dump:
            self._interpreter_watch = _InterpreterWatch(self.settings.interpreter_seconds)

    @contextmanager
    def watching(self) -> Iterator[Watchdog]:
        """`start` and `stop` around a block."""
        try:
            yield self.start()
        finally:
            self.stop()

    def join(self, rank: int, world: int, store: Store) -> None:
        """From now on tell the other ranks through `store` where this one is, and learn where they are."""
        self.rank = rank
        silence_seconds = self.settings.collective_seconds / 2
        self.peers = Peers(store, rank, world, silence_seconds)

    # -- looking ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(self.tick):
            now = time.monotonic()
            passed = min(now - before, 2 * self.tick)  # time in which the machine slept is left out
            before = now
            if PROCESS.watcher is not self:
                continue
            waits = PROCESS.innermost()
            for wait in waits:
                wait.count(passed)
            self._publish(waits)
            for wait in waits:
                if wait.idle_seconds >= self._limit(wait) and wait in PROCESS.open:
                    self._expire(wait)

    def _limit(self, wait: Wait) -> float:
        deadline = wait.timeout_seconds or deadline_of(self.settings, wait.name)
        return max(wait.at_least_seconds, deadline)

    def _publish(self, waits: Sequence[Wait]) -> None:
        """Tell the watch of the interpreter that Python runs, and the other ranks where this one is."""
        if self._interpreter_watch is not None:
            waited_for = "; ".join(map(str, waits)) or "nothing that is named"
            files = [] if self.folder is None else [str(self._file(self.folder))]
            self._interpreter_watch.beat(waited_for, *files)
        if self.peers is not None:
            self.peers.exchange(waits)

    # -- an alarm ---------------------------------------------------------------------------------------------

    def _expire(self, wait: Wait) -> None:
        stops = self.settings.action == "stop"
        lines = report(wait, self._limit(wait), self.rank)
        consequence = (
            "what was saved before is intact"
            if stops
            else "still waiting, since watchdog.action is warn"
        )
        lines.append(f"{lines[0]}; {consequence}")
        bounded(lambda: self._write(redacted("\n".join(lines)) + "\n"), REPORT_SECONDS)
        if stops:
            bounded(kill_children, KILL_SECONDS)
            os._exit(EXIT_FAULT)
        wait.idle_seconds = 0.0

    def _write(self, text: str) -> None:
        """To standard error, then to the run folder; either may be what is stuck."""
        printing = print_in_thread(text)
        if self.folder is not None and self.folder.is_dir():
            file = self._file(self.folder)
            try:
                with file.open("a", encoding="utf-8") as out:
                    out.write(text)
            except OSError as error:
                print_in_thread(f"watchdog: {file} cannot be written: {error}\n")
        printing.join(REPORT_SECONDS / 2)

    def _file(self, folder: Path) -> Path:
        return folder / (f"watchdog-rank{self.rank}.txt" if self.rank else "watchdog.txt")


def report(wait: Wait, limit: float, rank: int) -> list[str]:
    """What is known about a wait that expired: one line that names it, the states, the stacks."""
    states = {other: state_of(other) for other in list(PROCESS.open)}
    where = f" on rank {rank}" if PROCESS.peers is not None else ""
    headline = (
        f"watchdog: {wait} made no progress for {wait.idle_seconds:.3g} s{where}, its "
        f"deadline is {limit:g} s (watchdog.{wait.name}_seconds)"
    )
    first_lines = states.get(wait, [])[:1]
    lines = [
        "; ".join([headline, *first_lines]),
        f"at {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}; the waits, outermost first:",
    ]
    for other, state in states.items():
        lines.append(f"  {other}, idle {other.idle_seconds:.3g} s")
        lines += [f"    {line}" for line in state]
    return [*lines, "", *stacks()]


def state_of(wait: Wait) -> list[str]:
    """The lines that a wait gives for the report; empty if it takes too long."""
    return bounded(partial(_state, wait), STATE_SECONDS) or []


def _state(wait: Wait) -> list[str]:
    try:
        return list(wait.state()) if wait.state else []
    except Exception as error:  # noqa: BLE001  what is asked may be what broke
        return [f"its state cannot be read: {type(error).__name__}: {error}"]


def bounded(work: Callable[[], Result], seconds: float) -> Result | None:
    """What `work` returns, or None if it takes longer; its thread is then left to run."""
    results: list[Result] = []
    thread = threading.Thread(
        target=lambda: results.append(work()), name="watchdog's helper", daemon=True
    )
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def print_in_thread(text: str) -> threading.Thread:
    """Write `text` to standard error in a thread of its own, as the stream may block."""
    thread = threading.Thread(target=_print, args=(text,), daemon=True)
    thread.start()
    return thread


def _print(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def kill_children() -> None:
    """Kill every process below this one: reward workers, sandboxes, and what they started."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            pass  # gone already, or owned by another user and watching its own parent


# ---- the interpreter --------------------------------------------------------------------------------------------


class _InterpreterWatch:
    """The process that notices when no Python runs in this one any more, and the pipe to it."""

    def __init__(self, limit_seconds: float):
        self._stacks = tempfile.TemporaryFile()
        faulthandler.register(
            interpreter_watch.DUMP_SIGNAL, file=self._stacks, all_threads=True, chain=False
        )
        descriptor = self._stacks.fileno()
        script = [sys.executable, "-I", "-S", interpreter_watch.__file__]
        arguments = [str(os.getpid()), str(limit_seconds), str(descriptor)]
        self._process = subprocess.Popen(
            [*script, *arguments], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
        assert self._process.stdin is not None, "asked for above"
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)

    def beat(self, waited_for: str, *files: str) -> None:
        """Report that Python runs, what it waits for, and to which files an alarm is to be written."""
        try:
            os.write(self._pipe.fileno(), json.dumps([waited_for, *files]).encode() + b"\n")
        except OSError:
            pass  # the pipe is full, since its reader was stopped, or it is gone: nothing to be done

    def close(self) -> None:
        self._pipe.close()
        self._process.wait()
        faulthandler.unregister(interpreter_watch.DUMP_SIGNAL)
        self._stacks.close()
