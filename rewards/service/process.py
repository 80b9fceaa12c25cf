"""One worker process and its clock, as the parent sees them: start, send, receive under a deadline, kill.

Which completions a worker gets, and what follows when one is stuck or dies, is ``rewards.service.pool``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Sequence

from rewards.service.worker import Assignment

__all__ = ["Clock", "Crashed", "Exhausted", "TICK_SECONDS", "WorkerProcess", "process_state"]

TICK_SECONDS = 0.05

_START = "import sys; sys.path[:] = {path!r}; from rewards.service.worker import main; main({fd}, {parent})"
_ROOT = str(Path(__file__).resolve().parents[2])


class Exhausted(Exception):
    """The worker overran the deadline."""


class Crashed(Exception):
    """The worker is gone."""


# ------------------------------------------------------------------------------------------ time


class Clock:
    """The time a process has used since `restart`: on the CPU or asleep, but not waiting for a busy machine.

    Read from outside the process, so that it also works for one that never returns to its interpreter.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.restart(math.inf)

    def restart(self, limit_seconds: float) -> None:
        """Count from zero towards a new limit."""
        self._limit = limit_seconds
        self._used = 0.0
        self._began = time.monotonic()
        self._last_look = self._began
        self._cpu = _cpu_seconds(self._pid)

    @property
    def tick_seconds(self) -> float:
        """How long to wait until the next look."""
        return max(0.005, min(TICK_SECONDS, self._limit / 4))

    def has_run_out(self) -> bool:
        """Look at the process; whether its budget is spent (or, on a starved machine, five times that by the wall)."""
        now = time.monotonic()
        cpu = _cpu_seconds(self._pid)
        if cpu is None or self._cpu is None or process_state(self._pid) != "R":
            self._used += now - self._last_look
        else:
            self._used += cpu - self._cpu  # it may be ready to run and wait for a core
        self._last_look = now
        self._cpu = cpu
        return self._used >= self._limit or now - self._began >= 5 * self._limit + 5

    @property
    def age_seconds(self) -> float:
        """Wall-clock time since `restart`."""
        return time.monotonic() - self._began


def _cpu_seconds(pid: int) -> float | None:
    """CPU time of another process, by the clock id that Linux gives each process; None if there is none."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError, AttributeError):
        return None


def process_state(pid: int) -> str:
    """R running or ready to run, S asleep, D waiting for I/O, Z exited but not reaped; ? if it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return stat.rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"


# ------------------------------------------------------------------------------------- the process


class _Inbox(asyncio.Protocol):
    """Collects a worker's messages."""

    def __init__(self) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self.changed = asyncio.Event()
        self.is_closed = False
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            self.messages.extend(json.loads(line) for line in lines)
        except ValueError:
            self.is_closed = True  # no longer our protocol: as good as dead
        self.changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self.changed.set()


class WorkerProcess:
    """A running worker. ``is_fresh`` until it is given anything but second tries."""

    def __init__(self, popen: subprocess.Popen[bytes], inbox: _Inbox, transport: Any) -> None:
        self._popen = popen
        self._inbox = inbox
        self._transport = transport
        self.clock = Clock(popen.pid)
        self.is_fresh = True

    @classmethod
    async def start(cls, assignments: Sequence[Assignment]) -> WorkerProcess:
        """A new interpreter that shares no memory with this one."""
        ours, theirs = socket.socketpair()
        with theirs:
            popen = _start_interpreter(theirs.fileno())
        try:
            transport, inbox = await asyncio.get_running_loop().create_connection(_Inbox, sock=ours)
        except BaseException:
            ours.close()
            popen.kill()
            popen.wait()
            raise
        transport.write(pickle.dumps((list(assignments), sys.path, str(Path.cwd()))))
        return cls(popen, inbox, transport)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return not self._inbox.is_closed and self._popen.poll() is None

    def send(self, function: int, payloads: list[bytes], step: int) -> None:
        """Hand over rows; returns at once, whether or not the worker reads."""
        self._transport.write(pickle.dumps((function, payloads, step)))

    async def receive(self) -> dict[str, Any]:
        """The next message; raises `Exhausted` or `Crashed` if there will be none."""
        inbox = self._inbox
        while not inbox.messages:
            if inbox.is_closed:
                raise Crashed(self._exit_reason())
            await self._wait_for_change()
            if inbox.messages or inbox.is_closed:
                continue
            if self._popen.poll() is not None:
                inbox.is_closed = True  # dead, though a child of its own may keep the socket open
            elif self.clock.has_run_out():
                raise Exhausted
        return inbox.messages.popleft()

    async def _wait_for_change(self) -> None:
        """Until the inbox changes, at most one tick of the clock."""
        changed = self._inbox.changed
        changed.clear()
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self.clock.tick_seconds, changed.set)
        await changed.wait()
        alarm.cancel()

    def _exit_reason(self) -> str:
        try:
            code = self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            return f"was killed by signal {-code}"
        return f"left with exit code {code}"

    def kill(self) -> None:
        """Kill the worker and whatever it started, and reap it."""
        self._transport.abort()
        if self._popen.returncode is not None:
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._popen.kill()
        self._popen.wait()


def _start_interpreter(descriptor: int) -> subprocess.Popen[bytes]:
    path = [_ROOT, *(folder for folder in sys.path if folder != _ROOT)]
    code = _START.format(path=path, fd=descriptor, parent=os.getpid())
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what rewards print must not mix with what we print
        pass_fds=[descriptor],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        start_new_session=True,  # Ctrl-C is for the trainer, and a reward's children die with it
    )
