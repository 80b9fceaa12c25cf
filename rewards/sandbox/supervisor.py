"""Runs programs in children of fork servers and watches them from an asyncio loop, which itself never forks or blocks.

A program's input is sent to it, its output is read up to a limit, and when its time is up it is killed through a pidfd
with everything it started. That time is what it uses, on the CPU or asleep (``rewards.clock``): waiting for a busy
machine costs it nothing. How programs are isolated: ``rewards.sandbox.isolation``. Whether a program is right is
decided by the caller (``rewards.programs``).
"""

from __future__ import annotations

import asyncio
import base64
import collections
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from rewards.clock import SECOND_TRY, TICK_SECONDS, Clock
from rewards.sandbox import cgroups

__all__ = ["STARVED", "Limits", "Program", "Result", "Running", "SandboxFault", "Supervisor"]

FORK_SERVER = str(Path(__file__).with_name("fork_server.py"))
FIRST_UID = 60_000
START_SECONDS = 60.0
CHILD_SECONDS = 30.0
GRACE_SECONDS = 5.0
STARVED = "the machine is too busy to give a program the time that it may use"
PROCESS_ROOM = 64 << 20
REQUEST = struct.Struct("<BBBxIQQQIQ")
PIPE_BYTES = 65_536


class SandboxFault(RuntimeError):
    """The sandbox itself failed; says nothing about the program."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    ``seconds`` are those that it uses, computing or asleep; ``reserve_bytes`` is address space beyond ``memory_bytes``
    that it may reserve but not write to. ``cpu_seconds`` is for a process that answers calls, its clock restarts with
    each; default ``seconds``. ``patience`` multiplies what a compiler may take.
    """

    seconds: float = 6.0
    cpu_seconds: float | None = None
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    reserve_bytes: int = 0
    file_bytes: int = 64 << 20
    most_files: int = 1000
    most_tasks: int = 64
    processes: bool = False
    programs: bool = False
    patience: float = 1.0

    def again(self) -> Limits:
        """The limits of a second try: `rewards.clock.SECOND_TRY` times the time."""
        more_cpu = None if self.cpu_seconds is None else SECOND_TRY * self.cpu_seconds
        return replace(
            self,
            seconds=SECOND_TRY * self.seconds,
            cpu_seconds=more_cpu,
            patience=SECOND_TRY * self.patience,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A program as its author wrote it. ``prompt`` is put before it unless it defines ``entry`` itself."""

    source: str
    language: str = "python"
    prompt: str = ""
    entry: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    args: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended: ``ok`` (exit code 0), ``error``, ``timeout``, ``output_limit`` or ``compile_error``.

    ``exit_code`` is negative for a signal. ``stdout`` and ``stderr`` hold what was read up to the limit. ``seconds``
    passed from start to end; ``used_seconds`` are those that its limit counts.
    """

    status: str
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float
    detail: str = ""
    used_seconds: float = 0.0


# ----------------------------------------------------------------------------------------- descriptors


class _Output:
    """Reads a descriptor as data arrives, up to a limit."""

    def __init__(self, descriptor: int, cap: int, over: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._cap = cap
        self._over = over
        self.data = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self.read)

    def read(self) -> bool:
        """Read what is available; returns whether there may be more."""
        if self.descriptor < 0:
            return False
        try:
            part = os.read(self.descriptor, PIPE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        if not part:
            self.close()
            return False
        self.data += part
        if len(self.data) > self._cap:
            del self.data[self._cap :]
            self.close()
            self._over()
            return False
        return True

    def finish(self) -> bytes:
        """Read the rest and close."""
        while self.read():
            pass
        self.close()
        return bytes(self.data)

    def close(self) -> None:
        if self.descriptor >= 0:
            self._loop.remove_reader(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1


class _Input:
    """Writes data to a descriptor as fast as it is read, then closes it."""

    def __init__(self, descriptor: int, data: bytes) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rest = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self._is_watched = False
        self._write()

    def _write(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        except BlockingIOError:
            if not self._is_watched:
                self._loop.add_writer(self._descriptor, self._write)
                self._is_watched = True
            return
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            if self._is_watched:
                self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class _Channel:
    """Frames to and from a child over a socket. What arrives is whatever the child chose to send."""

    def __init__(self, ours: socket.socket, cap: int, over: Callable[[], None]) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._cap = cap
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out = bytearray()
        self.frames: collections.deque[Any] = collections.deque()
        self.arrived = asyncio.Event()
        self.is_closed = False
        self._writes = False
        self._loop.add_reader(ours, self.read)

    def send(self, message: Any) -> None:
        if self.is_closed:
            return
        body = json.dumps(message).encode()
        self._out += struct.pack("<I", len(body)) + body
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(memoryview(self._out)[: 1 << 20])]
        except BlockingIOError:
            if not self._writes:
                self._loop.add_writer(self._socket, self._flush)
                self._writes = True
            return
        except OSError:
            self._out.clear()
        if self._writes:
            self._loop.remove_writer(self._socket)
            self._writes = False

    def read(self) -> bool:
        """Read what is available; returns whether there may be more."""
        if self.is_closed:
            return False
        try:
            part = self._socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        if not part:
            self.close()
            return False
        self._in += part
        return self._parse()

    def _parse(self) -> bool:
        while len(self._in) >= 4:
            size = struct.unpack_from("<I", self._in)[0]
            if size > self._cap:
                self.close()
                self._over()
                return False
            if len(self._in) < 4 + size:
                break
            try:
                self.frames.append(json.loads(bytes(self._in[4 : 4 + size])))
            except (ValueError, RecursionError):
                self.close()
                return False
            del self._in[: 4 + size]
        self.arrived.set()
        return True

    def finish(self) -> None:
        while self.read():
            pass
        self.close()

    def close(self) -> None:
        if not self.is_closed:
            self._loop.remove_reader(self._socket)
            if self._writes:
                self._loop.remove_writer(self._socket)
            self._socket.close()
            self.is_closed = True
        self.arrived.set()


# ------------------------------------------------------------------------------------------ one fork server


class ForkServer:
    """A fork_server process and the control line to it. Makes one child at a time."""

    def __init__(
        self, number: int, process: subprocess.Popen[bytes], control: socket.socket, group: Any
    ) -> None:
        self.number = number
        self._process = process
        self._control = control
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._pidfd = -1
        self.child_pid = 0
        self.is_dead = False
        self.report: dict[str, Any] = {}
        self._started: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._ended: asyncio.Future[tuple[int, float]] | None = None
        self._loop.add_reader(control, self._read)

    @classmethod
    async def start(cls, number: int, config: Mapping[str, Any], group: Any) -> ForkServer:
        """Start the process and wait for its report on what it could confine."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-B", "-X", "utf8", FORK_SERVER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        body = json.dumps({**config, "uid": FIRST_UID + number}).encode()
        ours.sendall(struct.pack("<I", len(body)) + body)
        ours.setblocking(False)
        fork_server = cls(number, process, ours, group)
        try:
            if group is not None:
                group.add(process.pid)
            fork_server.report = await asyncio.wait_for(
                asyncio.shield(fork_server._started), START_SECONDS
            )
        except (asyncio.TimeoutError, SandboxFault, OSError) as error:
            fork_server.kill()
            raise SandboxFault(
                f"a fork server did not start: {error or 'it took too long'}"
            ) from None
        return fork_server

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(
        self, limits: Limits, descriptors: Sequence[int]
    ) -> asyncio.Future[tuple[int, float]]:
        """Request a child; the future gives its exit code and CPU seconds."""
        memory = limits.memory_bytes + PROCESS_ROOM
        cpu_ms = int((limits.cpu_seconds or limits.seconds) * 1000) + 100
        fields = (
            limits.processes,
            limits.programs,
            len(descriptors),
            limits.most_tasks,
            memory,
            limits.file_bytes,
            cpu_ms,
            limits.most_files,
            limits.reserve_bytes,
        )
        request = REQUEST.pack(*fields)
        self.child_pid = 0
        self._ended = self._loop.create_future()
        try:
            socket.send_fds(self._control, [request], list(descriptors))
        except OSError as error:
            self.give_up(str(error))
        return self._ended

    @property
    def has_child(self) -> bool:
        return self._pidfd >= 0 and self.child_pid > 0

    def kill_child(self) -> None:
        """Kill the child with all it started, or the fork server if there is no child yet."""
        if self._pidfd < 0:
            self.give_up("no child appeared")
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            descriptors = []
        for descriptor in descriptors:
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._pidfd = descriptor
        if not data:
            self.give_up("the fork server is gone")
            return
        self._buffer += data
        while self._take():
            pass

    def _take(self) -> bool:
        buffer = self._buffer
        if not self._started.done():
            size = 4 + struct.unpack_from("<I", buffer)[0] if len(buffer) >= 4 else 1 << 30
            if len(buffer) < size:
                return False
            self._buffer = buffer[size:]
            self._started.set_result(json.loads(buffer[4:size]))
            return True
        size = {b"P": 5, b"X": 21, b"E": 201}.get(buffer[:1], 0)
        if not size or len(buffer) < size:
            return False
        self._buffer = buffer[size:]
        ended = self._ended
        if buffer[:1] == b"P":
            self.child_pid = struct.unpack_from("<I", buffer, 1)[0]
        elif self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if ended is not None and not ended.done():
            if buffer[:1] == b"X":
                code, cpu, _ = struct.unpack_from("<iQQ", buffer, 1)
                ended.set_result((code, cpu / 1e6))
            elif buffer[:1] == b"E":
                ended.set_exception(
                    SandboxFault(f"no child could be made: {buffer[1:201].decode().strip()}")
                )
        return True

    def give_up(self, why: str) -> None:
        """Kill the fork server; whoever waits for its child gets a `SandboxFault`."""
        self.kill()
        for future in (self._started, self._ended):
            if future is not None and not future.done():
                future.set_exception(SandboxFault(why))
                future.exception()

    def kill(self) -> None:
        """Kill and reap the fork server, and with it its child."""
        if self.is_dead:
            return
        self.is_dead = True
        self._loop.remove_reader(self._control)
        if self._pidfd >= 0:
            self.kill_child()
            os.close(self._pidfd)
            self._pidfd = -1
        self._process.kill()
        self._process.wait()
        self._control.close()
        if self._group is not None:
            self._group.remove()


# ----------------------------------------------------------------------------------------- one program


class Running:
    """A running child: its channel, its outputs, its end. ``stop_reason`` says why it was killed, if it was."""

    def __init__(
        self,
        fork_server: ForkServer,
        *,
        limits: Limits,
        job: Any,
        stdin: bytes | None = None,
        link: int | None = None,
    ) -> None:
        self._fork_server = fork_server
        self._limits = limits
        self.stop_reason = ""
        self._loop = asyncio.get_running_loop()
        self.began = time.perf_counter()
        ours, theirs = socket.socketpair()
        null = os.open("/dev/null", os.O_RDWR)
        descriptors = [null, null, null, theirs.fileno()]
        if link is not None:
            descriptors.append(link)
        self._outputs: list[_Output] = []
        self._input: _Input | None = None
        opened = [null]
        if stdin is not None:
            pipes = [os.pipe() for _ in range(3)]
            descriptors[:3] = [pipes[0][0], pipes[1][1], pipes[2][1]]
            opened += descriptors[:3]
            self._input = _Input(pipes[0][1], stdin)
            self._outputs = [
                _Output(pipe[0], limits.output_bytes, self._too_much) for pipe in pipes[1:]
            ]
        self.channel = _Channel(ours, limits.output_bytes, self._too_much)
        self.channel.send(job)
        self.ended = fork_server.begin(limits, descriptors)
        theirs.close()
        for descriptor in opened:
            os.close(descriptor)
        self._limit_seconds = limits.seconds
        self._clock: Clock | None = None
        self._companion: Running | None = None
        self._used_before = 0.0
        self._alarm = self._loop.call_later(self._tick_seconds, self._look_at_clock)
        self._last_alarm: asyncio.TimerHandle | None = None

    @property
    def _tick_seconds(self) -> float:
        return max(0.005, min(TICK_SECONDS, self._limit_seconds / 4))

    def _look_at_clock(self) -> None:
        """Stop the child if its time is up; that begins when a busy machine has started it."""
        if self._clock is None:
            self._start_clock()
        elif self._clock.has_run_out():
            self.stop("starved" if self._clock.is_starved else "timeout")
        if not self.stop_reason:
            self._alarm = self._loop.call_later(self._tick_seconds, self._look_at_clock)

    def _start_clock(self) -> None:
        waited = time.perf_counter() - self.began
        if self._fork_server.has_child:
            self._clock = Clock(*self._pids_on_clock())
            self._clock.restart(self._limit_seconds)
        elif waited > CHILD_SECONDS:
            self.stop("starved")

    def _pids_on_clock(self) -> list[int]:
        """None for a child that may start others: it must not be starved by what it started itself."""
        if self._limits.processes:
            return []
        both = [self] if self._companion is None else [self, self._companion]
        return [running._fork_server.child_pid for running in both]

    def take_turns_with(self, other: Running) -> None:
        """Put ``other``, which works while this child waits, on this child's clock; its own is stopped."""
        other._alarm.cancel()
        self._companion = other

    @property
    def used_seconds(self) -> float:
        """What the child has used of its time so far, over all restarts of its clock."""
        clock = self._clock
        return self._used_before + (clock.used_seconds if clock is not None else 0.0)

    def _too_much(self) -> None:
        self.stop("output_limit")

    def stop(self, reason: str) -> None:
        """Kill the child; the first reason counts."""
        if self.stop_reason or self.ended.done():
            return
        self.stop_reason = reason
        self._fork_server.kill_child()
        self._last_alarm = self._loop.call_later(
            GRACE_SECONDS, self._fork_server.give_up, "the child could not be killed"
        )

    def give_more_time(self, seconds: float) -> None:
        """Restart the clock of a child that has done what it was asked for."""
        self._limit_seconds = seconds
        if self._clock is not None:
            self._clock.settle()
            self._used_before = self.used_seconds
            self._clock.restart(seconds)

    async def frame(self) -> Any:
        """The child's next message; None if there will be none."""
        channel = self.channel
        while not channel.frames:
            if channel.is_closed:
                return None
            if self.ended.done():
                channel.finish()
                continue
            channel.arrived.clear()
            self.ended.add_done_callback(self._wake)
            await channel.arrived.wait()
        return channel.frames.popleft()

    def _wake(self, _: Any) -> None:
        self.channel.arrived.set()

    async def end(self) -> Result:
        """Wait for the child's end; raises `SandboxFault` if it was not the child that failed."""
        try:
            code, cpu_seconds = await self.ended
        finally:
            self._alarm.cancel()
            if self._last_alarm is not None:
                self._last_alarm.cancel()
            stdout, stderr = [output.finish() for output in self._outputs] or [b"", b""]
            if self._input is not None:
                self._input.close()
            self.channel.finish()
        seconds = time.perf_counter() - self.began
        return self._result(
            code=code, cpu_seconds=cpu_seconds, stdout=stdout, stderr=stderr, seconds=seconds
        )

    def _result(
        self, *, code: int, cpu_seconds: float, stdout: bytes, stderr: bytes, seconds: float
    ) -> Result:
        frames = [frame for frame in list(self.channel.frames)[:3] if isinstance(frame, dict)]
        detail = ""
        if frames and frames[0].get("ready") is False:
            raise SandboxFault(f"a child could not be confined: {frames[0].get('detail', '')}")
        if self.stop_reason == "starved":
            raise SandboxFault(STARVED)
        status = self.stop_reason or ("ok" if code == 0 else "error")
        if not self.stop_reason and code == -signal.SIGXCPU:
            status = "timeout"
        for frame in frames:
            if frame.get("compiled") is False and not self.stop_reason:
                status = "compile_error"
                detail = str(frame.get("detail", ""))
        return Result(
            status=status,
            exit_code=code,
            stdout=stdout,
            stderr=stderr,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            detail=detail,
            used_seconds=max(cpu_seconds, self.used_seconds),
        )


# ------------------------------------------------------------------------------------------ all of them


class Supervisor:
    """The fork servers, and who is using which. All methods run in one asyncio loop."""

    def __init__(
        self,
        slots: int,
        without: Sequence[str],
        readable: Sequence[str],
        uids: Sequence[int] = (),
        *,
        packages: Mapping[str, Any] | None = None,
    ) -> None:
        self._num_slots = slots
        self._without = tuple(without)
        self._config = {"without": list(without), "readable": list(readable), **(packages or {})}
        self._idle: list[ForkServer] = []
        self._all: list[ForkServer] = []
        self._waiting: collections.deque[tuple[int, asyncio.Future[list[ForkServer]]]] = (
            collections.deque()
        )
        self._numbers = list(uids) or list(range(slots))
        self._is_closed = False
        self.use_cgroups = False

    async def start(self) -> list[dict[str, Any]]:
        """Start every fork server; returns what each managed to set up."""
        started = await asyncio.gather(
            *(self._spawn(number) for number in self._numbers), return_exceptions=True
        )
        self._all = [fork_server for fork_server in started if isinstance(fork_server, ForkServer)]
        failed = [error for error in started if isinstance(error, BaseException)]
        if failed:
            self.close()
            raise failed[0]
        self._idle = list(self._all)
        return [fork_server.report for fork_server in self._all]

    async def _spawn(self, number: int) -> ForkServer:
        group = cgroups.Group(number) if self.use_cgroups else None
        return await ForkServer.start(number, self._config, group)

    async def take(self, count: int) -> list[ForkServer]:
        """``count`` idle fork servers at once, so that two callers who need two each never deadlock."""
        if count > self._num_slots:
            raise SandboxFault(f"{count} slots are needed, but there are {self._num_slots}")
        if self._is_closed:
            raise SandboxFault("the sandbox is closed")
        if not self._waiting and len(self._idle) >= count:
            return [self._idle.pop() for _ in range(count)]
        future: asyncio.Future[list[ForkServer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.give_back(future.result())
            raise

    def give_back(self, fork_servers: Sequence[ForkServer]) -> None:
        """Return fork servers after their children have ended; dead ones are replaced."""
        for fork_server in fork_servers:
            if not fork_server.is_dead:
                self._idle.append(fork_server)
            elif not self._is_closed:
                self._all.remove(fork_server)
                asyncio.ensure_future(self._replace(fork_server.number))
        self._hand_out()

    async def _replace(self, number: int) -> None:
        for attempt in range(3):
            try:
                fork_server = await self._spawn(number)
                break
            except (SandboxFault, OSError) as error:
                why = str(error)
                await asyncio.sleep(0.1 * 4**attempt)
        else:
            self._lose_slot(why)
            return
        if self._is_closed:
            fork_server.kill()
            return
        self._all.append(fork_server)
        self._idle.append(fork_server)
        self._hand_out()

    def _lose_slot(self, why: str) -> None:
        self._num_slots -= 1
        for count, future in list(self._waiting):
            if count > self._num_slots and not future.done():
                future.set_exception(SandboxFault(f"a fork server could not be replaced: {why}"))

    def _hand_out(self) -> None:
        while self._waiting:
            count, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
            elif len(self._idle) >= count:
                self._waiting.popleft()
                future.set_result([self._idle.pop() for _ in range(count)])
            else:
                return

    async def run(self, job: Mapping[str, Any], stdin: bytes, limits: Limits) -> Result:
        """Run one job in one child, from start to end."""
        fork_servers = await self.take(1)
        try:
            running = Running(fork_servers[0], limits=limits, job=job, stdin=stdin)
            try:
                return await running.end()
            except asyncio.CancelledError:
                fork_servers[0].kill()
                raise
        finally:
            self.give_back(fork_servers)

    @property
    def pids(self) -> list[int]:
        """The fork servers' process ids."""
        return [fork_server.pid for fork_server in self._all]

    def begin_to_close(self) -> None:
        """Stop starting fork servers."""
        self._is_closed = True

    def close(self) -> None:
        """Kill and reap everything."""
        self._is_closed = True
        for fork_server in self._all:
            fork_server.give_up("the sandbox was closed")
        self._all = []
        self._idle = []
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(SandboxFault("the sandbox was closed"))
        self._waiting.clear()


def job_of(program: Program, mode: str, **more: Any) -> dict[str, Any]:
    """The message that tells a child what to run."""
    files = {name: base64.b64encode(data).decode() for name, data in program.files.items()}
    job = {
        "mode": mode,
        "source": program.source,
        "prompt": program.prompt,
        "entry": program.entry,
        **more,
    }
    if files:
        job["files"] = files
    if program.args:
        job["argv"] = [*program.args]
    return job


def with_output_bytes(limits: Limits, output_bytes: int) -> Limits:
    """The limits with room for at least ``output_bytes`` of output."""
    return replace(limits, output_bytes=max(limits.output_bytes, output_bytes))
