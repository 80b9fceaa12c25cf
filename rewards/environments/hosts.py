"""Who runs which tool or environment, under which deadline, and what follows when one is stuck or dies.

A few workers, each of which holds many talks and runs many operations at once. An operation is billed for what it uses:
time asleep in full, time on the CPU shared with those that run beside it. One that overruns asleep is late, and its
worker takes no more work and ends with the others that are still in it. One that overruns while its worker computes, or
whose worker dies, may suffer from its neighbours: it is tried once more, alone in a fresh worker, with `SECOND_TRY`
times the time, and only that decides. Talks whose worker is gone are rebuilt elsewhere by playing them again, without
the operations that never ended. All methods belong to one running loop.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

from rewards.clock import SECOND_TRY, TICK_SECONDS
from rewards.environments.executor import Operation
from rewards.environments.hosted import Hosted
from rewards.environments.lines import Line, open_line
from rewards.environments.types import Observation, Result
from rewards.service.process import Crashed
from rewards.spelling import many

__all__ = ["Hosts", "Lost", "RemoteTalk"]

LOAD_SECONDS = 300.0
"""How long a worker may take to import a tool or an environment."""
MAX_STARTS = 3
"""How often an operation that had not begun is given to another worker."""
TICK_SHARE = 0.02
MAX_TICK_SECONDS = 0.5
"""A worker is looked at so often, as a share of the time that a call has, and at least so often."""
ASYNC_GRACE_SECONDS = 1.0
"""An async call is cancelled by its worker; the parent waits a little longer, so that neighbours are not lost."""


class Lost(Exception):
    """An operation that has no answer: ``status`` is ``timeout`` or ``died``.

    ``is_conclusive``: its neighbours cannot have been the reason. ``had_begun`` is False where its worker was lost
    before.
    """

    def __init__(
        self, status: str, why: str, *, is_conclusive: bool = False, had_begun: bool = True
    ) -> None:
        super().__init__(why)
        self.status = status
        self.is_conclusive = is_conclusive
        self.had_begun = had_begun


@dataclass(slots=True, eq=False)
class _Flight:
    """An operation in a worker. ``billed`` seconds count against ``limit``; ``computed`` of them on the CPU."""

    future: asyncio.Future[Mapping[str, Any]]
    limit_seconds: float
    has_begun: bool = False
    billed_seconds: float = 0.0
    computed_seconds: float = 0.0
    began: float = math.inf

    def bill(self, asleep_seconds: float, computed_seconds: float) -> None:
        self.billed_seconds += asleep_seconds + computed_seconds
        self.computed_seconds += computed_seconds

    def is_overdue(self, now: float) -> bool:
        """Whether its time is spent; or the machine gave so little that it cannot be in five times as much."""
        waited_seconds = now - self.began
        starved = waited_seconds >= 5 * self.limit_seconds + 5
        return self.has_begun and (self.billed_seconds >= self.limit_seconds or starved)

    def give_up(self, lost: Lost) -> None:
        if not self.future.done():
            self.future.set_exception(lost)


class Worker:
    """A line, the operations in it, and their bills."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._flights: dict[int, _Flight] = {}
        self._numbers = itertools.count()
        self._loading_seconds = 0.0
        self._is_loading = False
        self._looked_at = math.inf
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.is_retired = False
        line.call_back(self._take_all)

    @property
    def is_usable(self) -> bool:
        return not self.is_retired and self._line.is_alive

    @property
    def num_running(self) -> int:
        return len(self._flights)

    async def perform(self, operation: Operation, limit_seconds: float) -> Mapping[str, Any]:
        """What the operation gave, as the executor tells it; raises `Lost`."""
        number = next(self._numbers)
        future: asyncio.Future[Mapping[str, Any]] = self._loop.create_future()
        self._flights[number] = _Flight(future, limit_seconds)
        self._line.post(replace(operation, number=number, limit_seconds=limit_seconds))
        self._watch()
        return await future  # of one that nobody waits for any more the clock is watched as well

    def _land(self, number: int) -> _Flight | None:
        """An operation has ended, or is given up."""
        self._loop.call_soon(self._leave_if_retired)
        return self._flights.pop(number, None)

    def forget(self, talk: int) -> None:
        """Let go of a talk."""
        if self._line.is_alive:
            self._line.post(Operation(-1, hosted=-1, talk=talk, method="forget"))

    def retire(self) -> None:
        """Take no more operations; those in it may end."""
        self.is_retired = True
        self._leave_if_retired()

    def _leave_if_retired(self) -> None:
        if self.is_retired and not self._flights:
            self.kill()

    def kill(self) -> None:
        """End at once; what is in it is lost."""
        self.is_retired = True
        if self._watching is not None:
            self._watching.cancel()
        self._line.call_back(_nobody)
        self._line.kill()
        for flight in self._all_landed():
            flight.give_up(Lost("died", "its worker was stopped"))

    def _all_landed(self) -> list[_Flight]:
        flights = list(self._flights.values())
        self._flights.clear()
        return flights

    # ---- what comes back

    def _watch(self) -> None:
        """See that somebody looks at the clock while operations are in the worker."""
        if self._watching is None or self._watching.done():
            self._line.clock.restart(math.inf)
            self._looked_at = self._loop.time()
            self._watching = asyncio.ensure_future(self._look_at_clock())

    def _take_all(self) -> None:
        """Messages have come, or the end."""
        try:
            for message in self._line.take():
                self._take(message)
        except (Crashed, KeyError, TypeError, AttributeError) as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        """The worker has ended by itself."""
        self._fail_all_begun(why)
        self.kill()

    def _fail_all_begun(self, why: str) -> None:
        flights = self._all_landed()
        any_begun = any(flight.has_begun for flight in flights)
        for flight in flights:
            flight.give_up(Lost("died", why, had_begun=flight.has_begun or not any_begun))

    def _take(self, message: Mapping[str, Any]) -> None:
        if "loading" in message:
            self._is_loading = message["loading"]
        elif "began" in message:
            self._begin(message)
        elif "ended" in message:
            flight = self._land(message["ended"])
            if flight is not None and not flight.future.done():
                flight.future.set_result(message)
        elif "late" in message:
            self._look()
            flight = self._land(message["late"])
            if flight is not None:
                flight.give_up(_late(flight))
        else:
            flight = self._land(message["failed"])
            why = f"it cannot be loaded: {message['why']}"
            if flight is not None:
                flight.give_up(Lost("died", why, is_conclusive=True))

    def _begin(self, message: Mapping[str, Any]) -> None:
        flight = self._flights.get(message["began"])
        if flight is not None:
            flight.has_begun = True
            flight.began = self._loop.time()
            flight.limit_seconds += ASYNC_GRACE_SECONDS if message["async"] else 0.0

    async def _look_at_clock(self) -> None:
        """Bill what runs, once a tick, and see whether the worker is there: a child may hold its connection open."""
        was_alive = True
        while self._flights:
            is_alive = self._line.is_alive
            if not (is_alive or was_alive):
                self._lose(self._line.exit_reason())
                return
            was_alive = is_alive
            shortest = min(flight.limit_seconds for flight in self._flights.values())
            await asyncio.sleep(_tick_seconds(shortest))
            self._look()

    def _look(self) -> None:
        """Bill what has run since the last look."""
        clock = self._line.clock
        used = clock.used_seconds
        cpu = clock.cpu_seconds
        looked_at = self._looked_at
        clock.look()
        self._looked_at = self._loop.time()
        passed = clock.used_seconds - used
        if cpu is None or clock.cpu_seconds is None:
            self._bill(looked_at, passed, 0.0)
        else:
            computed = min(passed, clock.cpu_seconds - cpu)
            self._bill(looked_at, passed - computed, computed)

    def _bill(self, looked_at: float, asleep_seconds: float, computed_seconds: float) -> None:
        """Bill what has run since the last look; what began later is not billed for what was before it."""
        begun = {
            number: flight for number, flight in self._flights.items() if flight.began <= looked_at
        }
        now = self._loop.time()
        for number, flight in begun.items():
            flight.bill(asleep_seconds, computed_seconds / len(begun))
            if flight.is_overdue(now):
                self.is_retired = True  # a thread cannot be stopped
                self._land(number)
                flight.give_up(_late(flight))
        if self._is_loading:
            self._bill_loading(asleep_seconds + computed_seconds)

    def _bill_loading(self, seconds: float) -> None:
        self._loading_seconds += seconds
        if self._loading_seconds > LOAD_SECONDS:
            why = f"loading it took longer than {LOAD_SECONDS:g} s"
            for flight in self._all_landed():
                flight.give_up(Lost("died", why, is_conclusive=True))
            self.retire()


def _nobody() -> None:
    """Listens to a worker that was killed."""


def _tick_seconds(limit_seconds: float) -> float:
    """How often to look: a look reads the state of every thread of the worker."""
    return max(TICK_SECONDS, min(limit_seconds * TICK_SHARE, MAX_TICK_SECONDS))


def _late(flight: _Flight) -> Lost:
    """What was before the first look behind the call's beginning is not on the bill."""
    was_asleep = 2 * flight.computed_seconds < flight.billed_seconds
    unbilled_seconds = ASYNC_GRACE_SECONDS + 2 * _tick_seconds(flight.limit_seconds)
    was_starved = flight.billed_seconds < flight.limit_seconds - unbilled_seconds
    return Lost("timeout", "it is late", is_conclusive=was_asleep and not was_starved)


# ------------------------------------------------------------------------------------------ all workers


@dataclass(slots=True, eq=False)
class _Slot:
    """Where one worker after another stands. ``num_talks`` live here or would be built here again.

    ``num_waiting`` operations wait for its worker to start.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker: Worker | None = None
    num_talks: int = 0
    num_waiting: int = 0

    @property
    def load(self) -> int:
        num_running = self.worker.num_running if self.worker is not None else 0
        return self.num_talks + self.num_waiting + num_running


class Hosts:
    """Workers for some tools and environments."""

    def __init__(
        self,
        hosted: Sequence[Hosted],
        *,
        workers: int,
        limit_seconds: float,
        max_bytes: int,
        is_local: bool,
    ) -> None:
        self._hosted = list(hosted)
        self._is_local = is_local
        self._slots = [_Slot() for _ in range(1 if is_local else workers)]
        self._limit_seconds = limit_seconds
        self._max_bytes = max_bytes
        self._alone = asyncio.Lock()
        self._numbers = itertools.count()
        self._workers: set[Worker] = set()
        self.num_lost = 0
        self.num_otherwise = 0

    def talk(self, hosted: int) -> RemoteTalk:
        """A talk that is kept from call to call."""
        return RemoteTalk(self, hosted, next(self._numbers))

    async def call(self, hosted: int, name: str, arguments: Mapping[str, Any] | str) -> Result:
        """A call of a plain tool, in whichever worker has the least to do."""
        operation = self.operation(hosted, None, "call", (name, arguments))
        return _result_of(await self.perform(operation, None))

    def operation(
        self, hosted: int, talk: int | None, method: str, arguments: Sequence[Any]
    ) -> Operation:
        return Operation(
            0,
            hosted=hosted,
            talk=talk,
            method=method,
            arguments=arguments,
            max_bytes=self._max_bytes,
        )

    async def perform(self, operation: Operation, talk: RemoteTalk | None) -> Mapping[str, Any]:
        """What an operation gave, also after a second try; raises `Lost` and `OSError`."""
        try:
            return await self._try(operation, talk)
        except Lost as lost:
            if talk is not None:
                talk.leave()
            if lost.is_conclusive or self._is_local:
                self.num_lost += 1
                raise
        return await self._try_alone(operation, talk)

    async def _try(self, operation: Operation, talk: RemoteTalk | None) -> Mapping[str, Any]:
        """In a worker with others; as often as workers are lost before it begins."""
        for attempt in itertools.count(1):
            worker = await self._worker_for(talk)
            try:
                if talk is not None:
                    await talk.move_to(worker, self._limit_seconds * SECOND_TRY)
                return await worker.perform(operation, self._limit_seconds)
            except Lost as lost:
                if lost.had_begun or attempt == MAX_STARTS:
                    raise
        raise AssertionError

    async def _try_alone(self, operation: Operation, talk: RemoteTalk | None) -> Mapping[str, Any]:
        async with self._alone:
            worker = await self._start()
            patient_seconds = self._limit_seconds * SECOND_TRY
            try:
                if talk is not None:
                    await talk.move_to(worker, patient_seconds)
                answer = await worker.perform(operation, patient_seconds)
            except Lost:
                self.num_lost += 1
                worker.kill()
                if talk is not None:
                    talk.leave()
                raise
            self._take_in(worker)
            return answer

    def _take_in(self, worker: Worker) -> None:
        """Give a worker that has proven itself the place of one that is gone; else it is not needed."""
        for slot in self._slots:
            if (slot.worker is None or not slot.worker.is_usable) and not slot.lock.locked():
                slot.worker = worker
                return
        worker.retire()

    async def _worker_for(self, talk: RemoteTalk | None) -> Worker:
        if talk is not None and talk.home is not None and talk.home.is_usable:
            return talk.home
        slot = talk.slot if talk is not None else None
        if slot is None:
            slot = min(self._slots, key=lambda slot: slot.load)
        if talk is not None:
            talk.settle_in(slot)
        slot.num_waiting += 1
        try:
            async with slot.lock:
                if slot.worker is None or not slot.worker.is_usable:
                    slot.worker = await self._start()
                return slot.worker
        finally:
            slot.num_waiting -= 1

    async def _start(self) -> Worker:
        worker = Worker(await open_line(self._hosted, self._is_local))
        gone = [worker for worker in self._workers if not (worker.is_usable or worker.num_running)]
        for lost in gone:
            lost.kill()
        self._workers = self._workers.difference(gone) | {worker}
        return worker

    def describe(self) -> list[str]:
        """Who is where, in lines for a log."""
        where = "in this process" if self._is_local else "in workers"
        running = sum(worker.num_running for worker in self._workers)
        talks = sum(slot.num_talks for slot in self._slots)
        line = f"tools and environments {where}: {many(running, 'call')} running, {many(talks, 'session')}"
        lost = f"; {many(self.num_lost, 'call')} lost" if self.num_lost else ""
        lines = [line + lost]
        if self.num_otherwise:
            lines.append(
                f"WARNING: {many(self.num_otherwise, 'turn')} had another answer when it was played again; an "
                "environment must answer the same texts alike, or a run that is resumed differs"
            )
        return lines

    def close(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            worker.kill()


# --------------------------------------------------------------------------------------------- one talk


@dataclass(frozen=True, slots=True)
class _Played:
    """An operation that was answered, and what the answer was."""

    operation: Operation
    answer: Mapping[str, Any]


class RemoteTalk:
    """The other side of one completion, wherever it is; its operations come one after another."""

    def __init__(self, hosts: Hosts, hosted: int, number: int) -> None:
        self._hosts = hosts
        self._hosted = hosted
        self._number = number
        self._played: list[_Played] = []
        self.home: Worker | None = None
        self.slot: _Slot | None = None

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        answer = await self._perform("reset", (dict(row),))
        return None if answer.get("observation") is None else _observation_of(answer)

    async def step(self, text: str) -> Observation:
        return _observation_of(await self._perform("step", (text,)))

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        return _result_of(await self._perform("call", (name, arguments)))

    async def worth(self) -> Observation:
        return _observation_of(await self._perform("worth", ()))

    async def _perform(self, method: str, arguments: Sequence[Any]) -> Mapping[str, Any]:
        operation = self._hosts.operation(self._hosted, self._number, method, arguments)
        answer = await self._hosts.perform(operation, self)
        self._played.append(_Played(operation, _without_number(answer)))
        return answer

    async def move_to(self, worker: Worker, limit_seconds: float) -> None:
        """Play what was answered again, in a worker that does not have the talk yet."""
        if self.home is worker:
            return
        self.leave()
        for played in self._played:
            answer = await worker.perform(played.operation, limit_seconds)
            self._hosts.num_otherwise += _without_number(answer) != played.answer
        self.home = worker

    def leave(self) -> None:
        """Be nowhere: what the worker has of the talk is not to be trusted any more."""
        if self.home is not None:
            self.home.forget(self._number)
        self.home = None

    def settle_in(self, slot: _Slot) -> None:
        """Count as one of a slot's."""
        if self.slot is not slot:
            self._move_out()
            slot.num_talks += 1
            self.slot = slot

    def _move_out(self) -> None:
        if self.slot is not None:
            self.slot.num_talks -= 1
            self.slot = None

    def forget(self) -> None:
        """It is over."""
        self.leave()
        self._move_out()


def _without_number(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "ended"}


def _observation_of(answer: Mapping[str, Any]) -> Observation:
    fields = dict(answer["observation"])
    results = tuple(Result(**result) for result in fields.pop("results", ()))
    return Observation(**fields, results=results)


def _result_of(answer: Mapping[str, Any]) -> Result:
    return Result(**answer["result"])
