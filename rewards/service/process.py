"""One worker process and its clock, as the parent sees them: start, send, receive under a deadline, kill.

Which completions a worker gets, and what follows when one is stuck or dies, is ``rewards.service.pool``.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, Callable, Sequence

from rewards.clock import Clock
from rewards.service.output import Relay, is_redirected

__all__ = ["Crashed", "Exhausted", "WorkerProcess"]

_START = "import sys; sys.path[:] = {path!r}; from {program} import main; main({fd}, {parent})"
_ROOT = str(Path(__file__).resolve().parents[2])


class Exhausted(Exception):
    """The worker overran the deadline."""


class Crashed(Exception):
    """The worker is gone."""


# ------------------------------------------------------------------------------------- the process


class _Inbox(asyncio.Protocol):
    """Collects a worker's messages."""

    def __init__(self) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self.changed = asyncio.Event()
        self.listener: Callable[[], None] = lambda: None
        self.is_closed = False
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            self.messages.extend(json.loads(line) for line in lines)
        except ValueError:
            self.is_closed = True  # no longer our protocol: as good as dead
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.listener()


class WorkerProcess:
    """A running worker. ``is_fresh`` until it is given anything but second tries."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        inbox: _Inbox,
        transport: Any,
        relay: Relay | None = None,
    ) -> None:
        self._relay = relay
        self._popen = popen
        self._inbox = inbox
        self._transport = transport
        self.clock = Clock(popen.pid)
        self.is_fresh = True

    @classmethod
    async def start(
        cls, assignments: Sequence[Any], program: str = "rewards.service.worker"
    ) -> WorkerProcess:
        """A new interpreter that shares no memory with this one, and runs ``main`` of the module ``program``."""
        ours, theirs = socket.socketpair()
        relay = await Relay.open() if is_redirected() else None
        with theirs:
            popen = _start_interpreter(program, theirs.fileno(), relay)
        try:
            transport, inbox = await asyncio.get_running_loop().create_connection(_Inbox, sock=ours)
        except BaseException:
            ours.close()
            popen.kill()
            popen.wait()
            if relay is not None:
                relay.close()
            raise
        transport.write(pickle.dumps((list(assignments), sys.path, str(Path.cwd()))))
        return cls(popen, inbox, transport, relay)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return not self._inbox.is_closed and self._popen.poll() is None

    def send(self, function: int, payloads: list[bytes], step: int, patience: float) -> None:
        """Hand over rows to judge with ``patience``; returns at once, whether or not the worker reads."""
        self.post((function, payloads, step, patience))

    def post(self, message: Any) -> None:
        """Send an object of the caller's to the worker; returns at once."""
        self._transport.write(pickle.dumps(message))

    def call_back(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the loop whenever `take` has something to give, or to raise."""
        self._inbox.listener = listener

    def take(self) -> list[dict[str, Any]]:
        """The messages that have come; raises `Crashed` if there will be none."""
        messages = list(self._inbox.messages)
        self._inbox.messages.clear()
        if self._inbox.is_closed and not messages:
            raise Crashed(self.exit_reason())
        return messages

    async def receive(self) -> dict[str, Any]:
        """The next message; raises `Exhausted` or `Crashed` if there will be none."""
        inbox = self._inbox
        while not inbox.messages:
            if inbox.is_closed:
                raise Crashed(self.exit_reason())
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

    def exit_reason(self) -> str:
        """Why there will be no more messages."""
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
        if self._relay is not None:
            self._relay.close()
        if self._popen.returncode is not None:
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._popen.kill()
        self._popen.wait()


def _start_interpreter(
    program: str, descriptor: int, relay: Relay | None
) -> subprocess.Popen[bytes]:
    path = [_ROOT, *(folder for folder in sys.path if folder != _ROOT)]
    code = _START.format(path=path, program=program, fd=descriptor, parent=os.getpid())
    if relay is None:
        return _popen(code, descriptor, output=2)
    with relay.handing_over() as output:
        return _popen(code, descriptor, output=output)


def _popen(code: str, descriptor: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=output,  # what rewards print must not mix with what we print
        stderr=output,
        pass_fds=[descriptor],
        # one hash seed: the order of sets, and with it the work that sympy does, is that of every other worker
        env={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **os.environ},
        start_new_session=True,  # Ctrl-C is for the trainer, and a reward's children die with it
    )
