"""Worker processes under a hard deadline: who gets which completion, and what happens when one is stuck or dies.

One asyncio loop, in a thread of its own, watches all workers; it never waits for one and never runs a reward.
A worker that overruns its deadline is killed with SIGKILL and replaced; the completion it was judging gets one
more try, alone in a fresh worker, and only what exhausts that one too is a ``timeout``. What scores mean, and how
the parts of a completion combine, is ``rewards.service``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from rewards.conventions import Convention, fault, judge
from rewards.service.worker import Assignment
from rewards.types import Sample, Score

__all__ = ["Function", "Pool", "Row", "ThreadRunner", "Unit"]

LOAD_SECONDS = 300.0
"""How long a worker may take to import a reward (or to make its model) before it counts as stuck."""
TICK_SECONDS = 0.05
CHUNK_SECONDS = 0.01
"""Rows are handed out in portions of about this much work, so that quick rewards cost few messages."""
MOST_SIDE_BY_SIDE = 64
MOST_STUCK_THREADS = 8

_START = "import sys; sys.path.insert(0, {root!r}); from rewards.service.worker import main; main({fd}, {parent})"
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, slots=True)
class Function:
    """A reward as the parent knows it: how to call it, and either where workers find it or the callable itself.

    ``inspected`` is the callable that was looked at, which workers have a copy of; the parent never calls it.
    """

    convention: Convention
    assignment: Assignment
    inspected: Callable[..., Any]
    local: Callable[..., Any] | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether one worker judges several completions at once."""
        return self.convention.is_async and not self.convention.whole_list

    @property
    def limit_seconds(self) -> float:
        """The parent's deadline; async rewards keep their own first, so that neighbours are not killed."""
        return self.assignment.timeout_seconds + (1.0 if self.side_by_side else 0.0)


@dataclass(slots=True, eq=False)
class Row:
    """One completion for one function, and where its verdict goes."""

    function: int
    sample: Sample
    payload: bytes
    deliver: Callable[[Score, float], None]
    tried: bool = False
    number: int = 0
    key: bytes | None = None


Unit = list[Row]
"""What must be judged in one call: a single row, or all rows of a submission for functions that take lists."""


@dataclass(slots=True, eq=False)
class _Call:
    """What one worker is given at once. ``alone``: the second try of what overran or broke a worker."""

    units: list[Unit]
    alone: bool = False

    @property
    def rows(self) -> list[Row]:
        return [row for unit in self.units for row in unit]


_Faulted = tuple[Row, Score, float]


def _again(convention: Convention, faulted: Sequence[_Faulted], num_rows: int) -> list[Unit]:
    """The units in which rows whose judge failed are tried once more.

    Functions that need the whole list get the whole list or nothing: the few rows of it that failed are delivered.
    """
    if not convention.rows_are_independent and len(faulted) < num_rows:
        for row, score, seconds in faulted:
            row.deliver(score, seconds)
        return []
    rows = [row for row, _, _ in faulted]
    for row in rows:
        row.tried = True
    if convention.whole_list:
        return [rows] if rows else []
    return [[row] for row in rows]


class Exhausted(Exception):
    """The worker overran the deadline."""


class Crashed(Exception):
    """The worker is gone."""


class Unloadable(Exception):
    """The worker could not load the reward."""


# ------------------------------------------------------------------------------------------ time


class Clock:
    """The time a process has used since `restart`: on the CPU, or asleep; not waiting for a busy machine.

    Read from outside the process, so that it also holds for one that never returns to its interpreter.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.restart(math.inf)

    def restart(self, limit_seconds: float) -> None:
        """Count from zero towards a new limit."""
        self._limit, self._used = limit_seconds, 0.0
        self._began = self._seen = time.monotonic()
        self._cpu = _cpu_seconds(self._pid)

    @property
    def tick_seconds(self) -> float:
        """How long to wait until the next look."""
        return max(0.005, min(TICK_SECONDS, self._limit / 4))

    def has_run_out(self) -> bool:
        """Look at the process; whether its budget is spent (or, on a starved machine, five times that by the wall)."""
        now, cpu = time.monotonic(), _cpu_seconds(self._pid)
        if cpu is None or self._cpu is None or process_state(self._pid) != "R":
            self._used += now - self._seen
        else:
            self._used += cpu - self._cpu  # it may be ready to run and wait for a core
        self._seen, self._cpu = now, cpu
        return self._used >= self._limit or now - self._began >= 5 * self._limit + 5

    @property
    def age_seconds(self) -> float:
        """Wall-clock time since `restart`."""
        return time.monotonic() - self._began


def _cpu_seconds(pid: int) -> float | None:
    """CPU time of another process, by the clock id that Linux gives each process; None where there is none."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError, AttributeError):
        return None


def process_state(pid: int) -> str:
    """R running or ready to run, S asleep, D in input or output, Z gone but not reaped; ? where it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"


# ------------------------------------------------------------------------------------- one worker process


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
            self.is_closed = True  # not our protocol any more: as good as dead
        self.changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self.changed.set()


class WorkerProcess:
    """A running worker. ``is_fresh`` until it is given anything but second tries."""

    def __init__(self, popen: subprocess.Popen[bytes], inbox: _Inbox, transport: Any) -> None:
        self._popen, self._inbox, self._transport = popen, inbox, transport
        self.clock = Clock(popen.pid)
        self.is_fresh = True

    @classmethod
    async def start(cls, assignments: Sequence[Assignment]) -> WorkerProcess:
        """A new interpreter that shares no memory with this one."""
        ours, theirs = socket.socketpair()
        with theirs:
            code = _START.format(root=_ROOT, fd=theirs.fileno(), parent=os.getpid())
            popen = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what rewards print must not mix with what we print
                pass_fds=[theirs.fileno()],
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # Ctrl-C is for the trainer; and a reward's children die with it
            )
        try:
            transport, inbox = await asyncio.get_running_loop().create_connection(_Inbox, sock=ours)
        except BaseException:
            ours.close()
            popen.kill()
            popen.wait()
            raise
        transport.write(pickle.dumps((list(assignments), sys.path, os.getcwd())))
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
        """The next message; raises `Exhausted` or `Crashed` where there will be none."""
        inbox = self._inbox
        while not inbox.messages:
            if inbox.is_closed:
                raise Crashed(self._exit_reason())
            inbox.changed.clear()
            alarm = asyncio.get_running_loop().call_later(
                self.clock.tick_seconds, inbox.changed.set
            )
            await inbox.changed.wait()
            alarm.cancel()
            if inbox.messages or inbox.is_closed:
                continue
            if (
                self._popen.poll() is not None
            ):  # dead, though a child of its own may keep the socket open
                inbox.is_closed = True
            elif self.clock.has_run_out():
                raise Exhausted
        return inbox.messages.popleft()

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


# -------------------------------------------------------------------------------------------- the pool


class Pool:
    """Some workers that share a queue. All methods run in the loop's thread."""

    def __init__(self, functions: Mapping[int, Function], workers: int, most_workers: int) -> None:
        self._functions = functions
        self._numbers = {number: place for place, number in enumerate(functions)}
        self._queues: dict[int, deque[Unit]] = {number: deque() for number in functions}
        self._second_tries: deque[_Call] = deque()
        self._arrived = asyncio.Event()
        self._order = itertools.count()
        self._seconds_per_row: dict[int, float] = {}
        self._most_workers = most_workers
        self._busy: set[WorkerProcess] = set()
        self._broken = ""
        self.num_killed = 0
        self.step = 0
        self.metrics: dict[str, list[float]] = {}
        self._tasks = [asyncio.ensure_future(self._serve()) for _ in range(workers)]
        self._growth = asyncio.ensure_future(self._grow())

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units, oldest first."""
        for unit in units:
            for row in unit:
                row.number = next(self._order)
            self._queues[unit[0].function].append(unit)
        self._arrived.set()
        if self._broken:
            self._give_up()

    async def close(self) -> None:
        """Stop and reap every worker."""
        tasks = [self._growth, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def num_workers(self) -> int:
        return len(self._tasks)

    def describe(self) -> list[str]:
        """The queue of each function, and what each busy worker does."""
        names = {number: function.convention.name for number, function in self._functions.items()}
        waiting = [f"{len(self._queues[number])} for {name}" for number, name in names.items()]
        lines = [
            f"in the queue: {', '.join(waiting)}; {len(self._second_tries)} second tries; {self.num_workers} workers, "
            f"{self.num_killed} killed so far"
        ]
        for worker in list(self._busy):
            lines.append(
                f"worker {worker.pid}: state {process_state(worker.pid)}, {worker.clock.age_seconds:.1f} s in its call"
            )
        return lines

    def _num_waiting(self) -> int:
        return sum(map(len, self._queues.values())) + len(self._second_tries)

    # ---- handing out

    async def _serve(self) -> None:
        """One worker's life after another, until no worker can be started any more."""
        try:
            await self._serve_calls()
        except OSError as error:
            self._broken = f"no worker can be started: {error}"
            self._give_up()

    async def _serve_calls(self) -> None:
        """Take a call, judge it, and start anew where it broke the worker."""
        assignments = [function.assignment for function in self._functions.values()]
        process = await WorkerProcess.start(assignments)
        try:
            while True:
                call = await self._next_call()
                if not process.is_alive or (call.alone and not process.is_fresh):
                    process.kill()
                    process = await self._started_for(call, assignments)
                process.is_fresh &= call.alone
                self._busy.add(process)
                is_well = await self._run(process, call)
                self._busy.discard(process)
                if not is_well:
                    self.num_killed += 1
                    process.kill()
                    process = await WorkerProcess.start(assignments)
        finally:
            self._busy.discard(process)
            process.kill()

    async def _started_for(self, call: _Call, assignments: Sequence[Assignment]) -> WorkerProcess:
        try:
            return await WorkerProcess.start(assignments)
        except OSError:
            self._second_tries.appendleft(call)  # for another worker, or for `_give_up`
            raise

    def _give_up(self) -> None:
        """Where no workers are left, everything that waits is a fault."""
        if any(not task.done() for task in self._tasks if task is not asyncio.current_task()):
            return
        units = [unit for queue in self._queues.values() for unit in queue]
        units += [unit for call in self._second_tries for unit in call.units]
        for queue in self._queues.values():
            queue.clear()
        self._second_tries.clear()
        for row in [row for unit in units for row in unit]:
            row.deliver(fault(self._broken), 0.0)

    async def _next_call(self) -> _Call:
        while not self._num_waiting():
            self._arrived.clear()
            await self._arrived.wait()
        if self._second_tries:
            return self._second_tries.popleft()
        number = min(
            (n for n, queue in self._queues.items() if queue),
            key=lambda n: self._queues[n][0][0].number,
        )
        queue = self._queues[number]
        return _Call([queue.popleft() for _ in range(min(self._portion(number), len(queue)))])

    def _portion(self, number: int) -> int:
        """How many units to hand out at once: a fair share of the queue, and no more than is done quickly."""
        function = self._functions[number]
        share = math.ceil(len(self._queues[number]) / len(self._tasks))
        if function.convention.whole_list:
            return 1
        if function.side_by_side:
            return min(share, MOST_SIDE_BY_SIDE)
        seconds = self._seconds_per_row.get(number, CHUNK_SECONDS)
        return max(1, min(share, int(CHUNK_SECONDS / max(seconds, 1e-5)), MOST_SIDE_BY_SIDE))

    # ---- one call

    async def _run(self, process: WorkerProcess, call: _Call) -> bool:
        """Give the call to the worker and deliver its verdicts; False where the worker must be replaced."""
        number = call.units[0][0].function
        limit = self._functions[number].limit_seconds
        pending = dict(enumerate(call.rows))
        faulted: list[_Faulted] = []
        process.clock.restart(LOAD_SECONDS)
        has_begun = False
        try:
            process.send(self._numbers[number], [row.payload for row in call.rows], self.step)
            while True:
                message = await process.receive()
                if "metric" in message:
                    self.metrics.setdefault(message["metric"], []).append(message["value"])
                    continue
                if "loading" in message:  # its deadline counts judging alone
                    process.clock.restart(LOAD_SECONDS if message["loading"] else limit)
                    continue
                if "row" in message:
                    self._settle(pending, message, call, faulted)
                elif "failed" in message:
                    raise Unloadable(message["failed"])
                elif "ended" in message:
                    return True
                has_begun = True
                process.clock.restart(limit)
        except (Exhausted, Crashed, Unloadable) as failure:
            self._find_suspects(call, pending, failure, has_begun)
            return isinstance(failure, Unloadable)
        except (KeyError, TypeError, AttributeError) as error:
            self._find_suspects(
                call, pending, Crashed(f"sent what cannot be read ({error!r})"), has_begun
            )
            return False
        finally:
            self._second_chance(call, faulted)

    def _settle(
        self,
        pending: dict[int, Row],
        message: Mapping[str, Any],
        call: _Call,
        faulted: list[_Faulted],
    ) -> None:
        """Deliver one verdict, or keep it back for a second try."""
        score = _score_of(message)
        row = pending.pop(message["row"])
        seconds = message["seconds"]
        known = self._seconds_per_row.get(row.function, seconds)
        self._seconds_per_row[row.function] = 0.8 * known + 0.2 * seconds
        function = self._functions[row.function]
        if score.status == "fault" and not row.tried:
            faulted.append((row, score, seconds))
        elif score.status == "timeout" and not function.convention.whole_list and not call.alone:
            self._try_alone([row])  # the deadline of the worker or of the reward itself
        else:
            row.deliver(score, seconds)

    def _second_chance(self, call: _Call, faulted: list[_Faulted]) -> None:
        """Queue rows whose judge failed once more, before everything else."""
        number = call.units[0][0].function
        units = _again(self._functions[number].convention, faulted, len(call.rows))
        self._queues[number].extendleft(reversed(units))
        self._arrived.set()

    # ---- what broke

    def _find_suspects(
        self, call: _Call, pending: Mapping[int, Row], failure: Exception, has_begun: bool
    ) -> None:
        """Find whom to suspect of a worker's end; the others go back to the head of the queue."""
        function = self._functions[call.units[0][0].function]
        suspects = list(pending.values())
        if isinstance(failure, Unloadable) or (isinstance(failure, Exhausted) and not has_begun):
            why = str(failure) or f"loading it took longer than {LOAD_SECONDS:g} s"
            for row in suspects:
                row.deliver(
                    fault(f"{function.convention.name} cannot be loaded in a worker: {why}"), 0.0
                )
            return
        if not function.side_by_side and not function.convention.whole_list:
            suspects, innocent = suspects[:1], suspects[1:]
            self._queues[suspects[0].function].extendleft(
                [row] for row in reversed(innocent)
            ) if suspects else None
        if call.alone:
            self._final_verdict(function, suspects, failure)
        elif function.convention.rows_are_independent:
            for row in suspects:
                self._try_alone([row])
        elif suspects:
            self._try_alone(suspects)
        self._arrived.set()

    def _try_alone(self, unit: Unit) -> None:
        for row in unit:
            row.tried = True
        self._second_tries.append(_Call([unit], alone=True))
        self._arrived.set()

    def _final_verdict(self, function: Function, rows: Sequence[Row], failure: Exception) -> None:
        """The verdict on what broke a fresh worker too, with nobody else in it."""
        name, limit = function.convention.name, function.assignment.timeout_seconds
        if isinstance(failure, Crashed):
            score = fault(f"{name}: the worker {failure} while judging, twice")
        elif len(rows) > 1:
            score = fault(f"{name} took longer than {limit:g} s for {len(rows)} completions, twice")
        else:
            score = Score(
                0.0,
                status="timeout",
                detail=f"{name} took longer than {limit:g} s, also in a fresh worker",
            )
        for row in rows:
            row.deliver(score, limit if isinstance(failure, Exhausted) else 0.0)

    # ---- more workers for rewards that wait

    async def _grow(self) -> None:
        """Double the workers while all of them sleep (in a request, say) and completions are waiting."""
        while len(self._tasks) < self._most_workers:
            await asyncio.sleep(TICK_SECONDS)
            busy = list(self._busy)
            if len(busy) < len(self._tasks) or self._num_waiting() <= len(busy):
                continue
            is_slow = any(process.clock.age_seconds >= TICK_SECONDS for process in busy)
            if is_slow and all(process_state(process.pid) == "S" for process in busy):
                more = min(len(self._tasks), self._most_workers - len(self._tasks))
                self._tasks += [asyncio.ensure_future(self._serve()) for _ in range(more)]
                await asyncio.sleep(4 * TICK_SECONDS)


def _score_of(message: Mapping[str, Any]) -> Score:
    return Score(
        message["value"],
        parts=message.get("parts", {}),
        status=message["status"],
        detail=message.get("detail", ""),
        extracted=message.get("extracted"),
    )


# ------------------------------------------------------------------- callables that only this process has


@dataclass(slots=True, eq=False)
class _Attempt:
    """A unit on its way through a thread; ``is_over`` once its verdicts count no more."""

    pending: dict[int, Row]
    num_rows: int
    is_over: bool = False
    faulted: list[_Faulted] = field(default_factory=list)


class ThreadRunner:
    """Judges with a callable of this process (a closure, a notebook's function) in a daemon thread.

    A thread cannot be killed: at the deadline its rows become faults that say so, and the next are judged in
    another thread. All methods but `_work` run in the loop's thread.
    """

    def __init__(self, function: Function) -> None:
        assert function.local is not None
        self._function, self._callable = function, function.local
        self._queue: deque[Unit] = deque()
        self._current: _Attempt | None = None
        self._stuck: list[threading.Thread] = []
        self._loop = asyncio.get_running_loop()
        self.step = 0
        self.metrics: dict[str, list[float]] = {}

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units."""
        self._queue.extend(units)
        self._pump()

    def describe(self) -> list[str]:
        """The queue, and whether a call is under way."""
        now = (
            f"{len(self._current.pending)} rows under way"
            if self._current is not None
            else "nothing under way"
        )
        return [
            f"{self._function.convention.name} (in this process): {len(self._queue)} calls in the queue, {now}, "
            f"{len(self._stuck)} threads stuck"
        ]

    def _pump(self) -> None:
        if self._current is not None or not self._queue:
            return
        unit = self._queue.popleft()
        while self._function.side_by_side and self._queue and len(unit) < MOST_SIDE_BY_SIDE:
            unit = unit + self._queue.popleft()
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= MOST_STUCK_THREADS:
            why = fault(
                f"{self._function.convention.name}: {len(self._stuck)} earlier calls are still stuck"
            )
            for row in unit:
                row.deliver(why, 0.0)
            self._loop.call_soon(self._pump)
            return
        self._begin(_Attempt(dict(enumerate(unit)), len(unit)))

    def _begin(self, attempt: _Attempt) -> None:
        self._current = attempt
        samples = [row.sample for row in attempt.pending.values()]
        name = f"reward {self._function.convention.name}"
        thread = threading.Thread(
            target=self._work, args=(attempt, samples), name=name, daemon=True
        )
        limit = self._function.limit_seconds
        if math.isfinite(limit):
            self._loop.call_later(limit, self._expire, attempt, thread)
        thread.start()

    def _work(self, attempt: _Attempt, samples: list[Sample]) -> None:
        """In the thread: judge, and pass each verdict to the loop."""

        def emit(index: int, score: Score, seconds: float) -> None:
            self._post(self._settle, attempt, index, score, seconds)

        def log(name: str, value: float) -> None:
            self._post(self._log, name, value)

        convention, assignment = self._function.convention, self._function.assignment
        limit = assignment.timeout_seconds
        judge(
            convention,
            self._callable,
            samples,
            assignment.args,
            emit,
            step=self.step,
            timeout_seconds=limit,
            log=log,
        )
        self._post(self._end, attempt)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the service was closed while this thread was stuck

    def _settle(self, attempt: _Attempt, index: int, score: Score, seconds: float) -> None:
        if attempt.is_over:
            return
        row = attempt.pending.pop(index)
        if score.status == "timeout" and self._function.side_by_side:
            score = fault(score.detail)
        if score.status == "fault" and not row.tried:
            attempt.faulted.append((row, score, seconds))
        else:
            row.deliver(score, seconds)

    def _log(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(value)

    def _end(self, attempt: _Attempt) -> None:
        if attempt.is_over:
            return
        self._queue.extendleft(
            reversed(_again(self._function.convention, attempt.faulted, attempt.num_rows))
        )
        self._finish(attempt)

    def _expire(self, attempt: _Attempt, thread: threading.Thread) -> None:
        if attempt.is_over:
            return
        self._stuck.append(thread)
        limit = self._function.assignment.timeout_seconds
        why = fault(
            f"{self._function.convention.name} took longer than {limit:g} s; it exists only in this process and cannot "
            "be killed: put it into a file and name it as path/file.py:function"
        )
        attempt.is_over = True
        for row in [*attempt.pending.values(), *(row for row, _, _ in attempt.faulted)]:
            row.deliver(why, limit)
        self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> None:
        attempt.is_over = True
        self._current = None
        self._pump()
