"""Worker processes that share a queue: who gets which completion, and what happens when one is stuck or dies.

One asyncio loop, in a thread of its own, watches all workers; it never waits for one and never runs a reward.
A worker that overruns its deadline is killed with SIGKILL and replaced; the completion it was judging gets one
more try, alone in a fresh worker with `SECOND_TRY` times the budget, and only if it exhausts that too is it a
``timeout``. What scores mean, and how
the parts of a completion combine, is ``rewards.service.ticket``.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence

from rewards.clock import SECOND_TRY, TICK_SECONDS, process_state
from rewards.conventions import fault
from rewards.service.process import Crashed, Exhausted, WorkerProcess
from rewards.service.request import (
    MAX_CONCURRENT,
    Function,
    Request,
    Retriable,
    Unit,
    units_to_retry,
)
from rewards.spelling import many
from rewards.types import Score

__all__ = ["Pool"]

LOAD_SECONDS = 300.0
"""How long a worker may take to import a reward (or to load its model) before it counts as stuck."""
CHUNK_SECONDS = 0.01
"""Requests are handed out in portions of about this much work, so that quick rewards cost few messages."""


class Unloadable(Exception):
    """The worker could not load the reward."""


@dataclass(slots=True, eq=False)
class _Call:
    """What one worker is given at once. ``alone``: the second try of what overran or broke a worker."""

    units: list[Unit]
    alone: bool = False

    @property
    def function(self) -> int:
        return self.units[0][0].function

    @property
    def requests(self) -> list[Request]:
        return list(itertools.chain.from_iterable(self.units))

    @property
    def patience(self) -> float:
        """How many times its budget the call gets."""
        return SECOND_TRY if self.alone else 1.0


class _Running:
    """A call in a worker: which of its requests have no verdict yet, and which failed for the first time."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.requests = call.requests
        self.pending = dict(enumerate(self.requests))
        self.faulted: list[Retriable] = []
        self.has_begun = False
        self.was_starved = False


@dataclass(slots=True)
class _Queues:
    """The waiting units, a queue for each function, and the second tries, which go first."""

    by_function: dict[int, deque[Unit]]
    second_tries: deque[_Call] = field(default_factory=deque)

    def __len__(self) -> int:
        return sum(map(len, self.by_function.values())) + len(self.second_tries)

    def oldest(self) -> int:
        """The function whose first unit has waited longest."""
        waiting = [number for number, queue in self.by_function.items() if queue]
        return min(waiting, key=lambda number: self.by_function[number][0][0].arrival)

    def drain(self) -> Iterator[Request]:
        """Remove and yield everything that waits."""
        for queue in self.by_function.values():
            while queue:
                yield from queue.popleft()
        while self.second_tries:
            yield from self.second_tries.popleft().requests


class Pool:
    """Some workers that share a queue. All methods run in the loop's thread."""

    def __init__(self, functions: Mapping[int, Function], workers: int, max_workers: int) -> None:
        self._functions = functions
        self._assignments = [function.assignment for function in functions.values()]
        self._index_in_worker = {number: index for index, number in enumerate(functions)}
        self._waiting = _Queues({number: deque() for number in functions})
        self._arrived = asyncio.Event()
        self._arrivals = itertools.count()
        self._seconds_per_request: dict[int, float] = {}
        self._max_workers = max_workers
        self._busy: set[WorkerProcess] = set()
        self._start_error = ""
        self.num_killed = 0
        self.step = 0
        self.metrics: dict[str, list[float]] = {}
        self._tasks = [asyncio.ensure_future(self._serve()) for _ in range(workers)]
        self._growth = asyncio.ensure_future(self._grow())

    def put(self, units: Sequence[Unit]) -> None:
        """Queue units, oldest first."""
        for unit in units:
            for request in unit:
                request.arrival = next(self._arrivals)
            self._waiting.by_function[unit[0].function].append(unit)
        self._arrived.set()
        if self._start_error:
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
        waiting = []
        for number, function in self._functions.items():
            num_units = len(self._waiting.by_function[number])
            waiting.append(f"{num_units} for {function.convention.name}")
        lines = [
            f"in the queue: {', '.join(waiting)}; {len(self._waiting.second_tries)} second tries; "
            f"{many(self.num_workers, 'worker')}, {self.num_killed} killed so far"
        ]
        for worker in list(self._busy):
            state = process_state(worker.pid)
            seconds = worker.clock.age_seconds
            lines.append(f"worker {worker.pid}: state {state}, {seconds:.1f} s in its call")
        return lines

    # ---- handing out

    async def _serve(self) -> None:
        """One worker's life after another, until no worker can be started any more."""
        try:
            await self._serve_calls()
        except OSError as error:
            self._start_error = f"no worker can be started: {error}"
            self._give_up()

    async def _serve_calls(self) -> None:
        """Take a call, judge it, and replace the worker if the call broke it."""
        process = await WorkerProcess.start(self._assignments)
        try:
            while True:
                call = await self._next_call()
                if not process.is_alive or (call.alone and not process.is_fresh):
                    process.kill()
                    process = await self._start_for(call)
                process.is_fresh &= call.alone
                self._busy.add(process)
                is_usable = await self._run(process, call)
                self._busy.discard(process)
                if not is_usable:
                    self.num_killed += 1
                    process.kill()
                    process = await WorkerProcess.start(self._assignments)
        finally:
            self._busy.discard(process)
            process.kill()

    async def _start_for(self, call: _Call) -> WorkerProcess:
        try:
            return await WorkerProcess.start(self._assignments)
        except OSError:
            self._waiting.second_tries.appendleft(call)  # for another worker, or for `_give_up`
            raise

    def _give_up(self) -> None:
        """If no workers are left, everything that waits is a fault."""
        current = asyncio.current_task()
        if any(not task.done() for task in self._tasks if task is not current):
            return
        for request in list(self._waiting.drain()):
            request.deliver(fault(self._start_error), 0.0)

    async def _next_call(self) -> _Call:
        while not len(self._waiting):
            self._arrived.clear()
            await self._arrived.wait()
        if self._waiting.second_tries:
            return self._waiting.second_tries.popleft()
        number = self._waiting.oldest()
        queue = self._waiting.by_function[number]
        num_units = min(self._portion(number), len(queue))
        return _Call([queue.popleft() for _ in range(num_units)])

    def _portion(self, number: int) -> int:
        """How many units to hand out at once: a fair share of the queue, and no more than is done quickly."""
        function = self._functions[number]
        if function.convention.whole_list:
            return 1
        share = math.ceil(len(self._waiting.by_function[number]) / len(self._tasks))
        if function.is_concurrent:
            return min(share, MAX_CONCURRENT)
        seconds = self._seconds_per_request.get(number, CHUNK_SECONDS)
        num_quick = int(CHUNK_SECONDS / max(seconds, 1e-5))
        return max(1, min(share, num_quick, MAX_CONCURRENT))

    # ---- one call

    async def _run(self, process: WorkerProcess, call: _Call) -> bool:
        """Give the call to the worker and deliver its verdicts; False if the worker must be replaced."""
        running = _Running(call)
        process.clock.restart(LOAD_SECONDS)
        try:
            payloads = [request.payload for request in running.requests]
            index = self._index_in_worker[call.function]
            process.send(index, payloads, self.step, call.patience)
            await self._receive_verdicts(process, running)
            return True
        except (Exhausted, Crashed, Unloadable) as failure:
            running.was_starved = process.clock.is_starved
            self._find_suspects(running, failure)
            return isinstance(failure, Unloadable)
        except (KeyError, TypeError, AttributeError) as error:
            self._find_suspects(running, Crashed(f"sent an unreadable message ({error!r})"))
            return False
        finally:
            self._retry_faulted(running)

    async def _receive_verdicts(self, process: WorkerProcess, running: _Running) -> None:
        """Until the worker says that the call has ended; the clock restarts with every verdict."""
        limit_seconds = self._functions[running.call.function].limit_of(running.call.patience)
        while True:
            message = await process.receive()
            if "metric" in message:
                self.metrics.setdefault(message["metric"], []).append(message["value"])
                continue
            if "loading" in message:  # the deadline counts only judging
                process.clock.restart(LOAD_SECONDS if message["loading"] else limit_seconds)
                continue
            if "row" in message:
                self._settle(running, message)
            elif "failed" in message:
                raise Unloadable(message["failed"])
            elif "ended" in message:
                return
            running.has_begun = True
            process.clock.restart(limit_seconds)

    def _settle(self, running: _Running, message: Mapping[str, Any]) -> None:
        """Deliver one verdict, or keep it for a second try."""
        score = _score_of(message)
        request = running.pending.pop(message["row"])
        seconds = message["seconds"]
        average = self._seconds_per_request.get(request.function, seconds)
        self._seconds_per_request[request.function] = 0.8 * average + 0.2 * seconds
        may_retry = not self._functions[request.function].convention.whole_list
        if score.status == "fault" and not request.is_retry:
            running.faulted.append((request, score, seconds))
        elif score.status == "timeout" and may_retry and not running.call.alone:
            self._try_alone([request])  # a deadline inside the worker, or of the reward itself
        else:
            request.deliver(score, seconds)

    def _retry_faulted(self, running: _Running) -> None:
        """Queue requests whose judge failed once more, before everything else."""
        number = running.call.function
        convention = self._functions[number].convention
        units = units_to_retry(convention, running.faulted, len(running.requests))
        self._waiting.by_function[number].extendleft(reversed(units))
        self._arrived.set()

    # ---- after a failure

    def _find_suspects(self, running: _Running, failure: Exception) -> None:
        """Find which requests may have broken the worker; the others return to the head of the queue."""
        number = running.call.function
        function = self._functions[number]
        suspects = list(running.pending.values())
        never_began = isinstance(failure, Exhausted) and not running.has_begun
        if isinstance(failure, Unloadable) or never_began:
            why = str(failure) or f"loading it took longer than {LOAD_SECONDS:g} s"
            problem = f"{function.convention.name} cannot be loaded in a worker: {why}"
            for request in suspects:
                request.deliver(fault(problem), 0.0)
            return
        if not function.is_concurrent and not function.convention.whole_list:
            innocent = suspects[1:]
            suspects = suspects[:1]
            self._waiting.by_function[number].extendleft(
                [request] for request in reversed(innocent)
            )
        if running.call.alone:
            self._final_verdict(function, suspects, failure, running.was_starved)
        elif function.convention.rows_are_independent:
            for request in suspects:
                self._try_alone([request])
        elif suspects:
            self._try_alone(suspects)
        self._arrived.set()

    def _try_alone(self, unit: Unit) -> None:
        for request in unit:
            request.is_retry = True
        self._waiting.second_tries.append(_Call([unit], alone=True))
        self._arrived.set()

    def _final_verdict(
        self,
        function: Function,
        requests: Sequence[Request],
        failure: Exception,
        was_starved: bool,
    ) -> None:
        """The verdict on what broke a fresh worker too, with nothing else in it."""
        name = function.convention.name
        limit = SECOND_TRY * function.assignment.timeout_seconds
        late = f"{name} took longer than {limit:g} s"
        if isinstance(failure, Crashed):
            score = fault(f"{name}: the worker {failure} while judging, twice")
        elif was_starved:
            score = fault(f"{name}: the machine is too busy to give it {limit:g} s of its time")
        elif len(requests) > 1:
            score = fault(f"{late} for {many(len(requests), 'completion')}, twice")
        else:
            score = Score(0.0, status="timeout", detail=f"{late}, also in a fresh worker")
        for request in requests:
            request.deliver(score, limit if isinstance(failure, Exhausted) else 0.0)

    # ---- more workers for rewards that wait

    async def _grow(self) -> None:
        """Double the workers while all of them sleep (in a request, say) and completions are waiting."""
        while len(self._tasks) < self._max_workers:
            await asyncio.sleep(TICK_SECONDS)
            busy = list(self._busy)
            if len(busy) < len(self._tasks) or len(self._waiting) <= len(busy):
                continue
            is_slow = any(process.clock.age_seconds >= TICK_SECONDS for process in busy)
            if is_slow and all(process_state(process.pid) == "S" for process in busy):
                num_more = min(len(self._tasks), self._max_workers - len(self._tasks))
                self._tasks += [asyncio.ensure_future(self._serve()) for _ in range(num_more)]
                await asyncio.sleep(4 * TICK_SECONDS)


def _score_of(message: Mapping[str, Any]) -> Score:
    return Score(
        message["value"],
        parts=message.get("parts", {}),
        status=message["status"],
        detail=message.get("detail", ""),
        extracted=message.get("extracted"),
    )
