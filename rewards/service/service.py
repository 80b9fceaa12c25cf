"""The reward service: completions in, verdicts out, from worker processes that can be killed.

`RewardService` judges each completion by every reward of a recipe and combines their scores. It can be used from
any thread, never runs a reward in the caller's thread, and returns results by index. Which worker judges what, under
which deadline, is ``rewards.service.pool``; how a function is called, ``rewards.calling``. No torch, no trainer.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import os
import pickle
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Sequence

from rewards.calling import cache_key
from rewards.conventions import fault
from rewards.sandbox import SandboxOptions, open_sandbox
from rewards.service.functions import applies, check_specs, column_value, function_of
from rewards.service.pool import Pool
from rewards.service.programs import SupervisedRunner
from rewards.service.request import Deliver, Request, Unit
from rewards.service.threads import ThreadRunner
from rewards.service.ticket import Judged, Ticket, combine
from rewards.table import TABLE, runs_programs
from rewards.types import RewardSpec, Sample, Score

__all__ = ["Judged", "RewardService", "Ticket", "applies", "column_value", "combine"]

Runner = Pool | ThreadRunner | SupervisedRunner
MAX_WORKERS_WHEN_IDLE = 16
"""How far the shared workers may grow in number while all of them only wait."""
CACHE_ENTRIES = 65_536


class RewardService:
    """Judges completions by the rewards of a recipe, in processes of its own.

    ``workers`` are the processes that the rewards share: by default one a core, and up to `MAX_WORKERS_WHEN_IDLE` while
    all of them only wait. ``base_dir`` is the folder of ``path/file.py:function``. Raises `ValueError` if a
    reward cannot be loaded or its style not recognised. Rewards that run programs do so as ``sandbox`` says;
    `IsolationError`, a ValueError, is raised if this machine cannot confine them, and `isolation` describes how they
    are confined, in lines for a log. Close the service, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        *,
        workers: int | None = None,
        base_dir: str | Path | None = None,
        sandbox: SandboxOptions | None = None,
    ) -> None:
        check_specs(specs, workers)
        self.specs = tuple(specs)
        self.isolation: list[str] = []
        self._functions = [function_of(spec, base_dir) for spec in specs]
        self._cache = VerdictCache()
        self._open: set[Ticket] = set()
        self.num_judged = 0
        self._step: float = math.inf
        self._workers = _num_cores() if workers is None else workers
        self._max_workers = self._workers
        if workers is None:
            self._max_workers = max(self._workers, MAX_WORKERS_WHEN_IDLE)
        self._sandbox_options = sandbox or SandboxOptions()
        self._sandboxes: list[Any] = []
        self._runners: list[Runner] = []
        self._runner_of: dict[int, Runner] = {}
        self._loop = asyncio.new_event_loop()
        self._start_thread()

    def _start_thread(self) -> None:
        """Start the loop in a thread of its own, and in it everything that judges."""
        thread = threading.Thread(
            target=_run_loop, args=(self._loop,), name="reward service", daemon=True
        )
        thread.start()
        close = functools.partial(
            _shut_down, self._loop, thread, runners=self._runners, sandboxes=self._sandboxes
        )
        self._finalizer = weakref.finalize(self, close)
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._finalizer()
            raise

    async def _start(self) -> None:
        """In the service's thread: workers for all rewards that workers can import, threads for the others."""
        shared = {}
        sandbox = await self._open_sandbox()
        for number, (spec, function) in enumerate(zip(self.specs, self._functions)):
            if runs_programs(function.inspected):
                self._runner_of[number] = SupervisedRunner(function, sandbox)
            elif function.local is not None:
                self._runner_of[number] = ThreadRunner(function)
            elif spec.workers:
                self._runner_of[number] = Pool({number: function}, spec.workers, spec.workers)
            else:
                shared[number] = function
        if shared:
            pool = Pool(shared, self._workers, self._max_workers)
            self._runner_of |= dict.fromkeys(shared, pool)
        self._runners.extend(dict.fromkeys(self._runner_of.values()))

    async def _open_sandbox(self) -> Any:
        """The sandbox, if a reward needs one; closed after the runners that use it."""
        if not any(runs_programs(function.inspected) for function in self._functions):
            return None
        sandbox = await open_sandbox(self._sandbox_options)
        self.isolation = list(sandbox.lines)
        self._sandboxes.append(sandbox)
        return sandbox

    def submit(self, samples: Sequence[Sample]) -> Ticket:
        """Begin to judge the samples and return at once. Rewards that take lists get these samples as one list."""
        if not self._finalizer.alive:
            raise RuntimeError("the reward service is closed")
        ticket = Ticket(self.specs, len(samples))
        for number, spec in enumerate(self.specs):
            requests = []
            for index, sample in enumerate(samples):
                deliver = functools.partial(ticket.deliver, index, spec.name)
                request = self._request(number, spec, sample, deliver)
                if isinstance(request, Request):
                    requests.append(request)
                else:
                    self._call(deliver, request, 0.0)
            self._call(self._enqueue, number, requests)
        self._call(self._remember, ticket)
        return ticket

    def judge(self, samples: Sequence[Sample]) -> list[Judged]:
        """Judge the samples and wait for the verdicts, in order."""
        return self.submit(samples).result()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """The combined score of each sample, in order."""
        return [judged.score for judged in self.judge(samples)]

    def set_step(self, step: int | None) -> None:
        """Set ``trainer_state.global_step``, which TRL-style rewards receive; it is 0 until the first call.

        Rewards that apply from a later step on are not asked; until the first call all are. None is as before it.
        Holds for every call of a reward that starts from now on, including submissions still in a queue: set it when no
        verdict is open. Any thread may call it. Only TRL-style rewards see the step, and their verdicts are never
        cached; a cached verdict belongs to a reward that cannot depend on it.
        """
        self._step = math.inf if step is None else step
        for runner in self._runners:
            runner.step = step or 0

    @property
    def sees_step(self) -> bool:
        """Whether some reward sees the step and may log metrics."""
        return any(function.convention.style == "trl" for function in self._functions)

    def take_metrics(self) -> dict[str, list[float]]:
        """What TRL-style rewards passed to ``log_metric`` since the last call: name -> values, in order of arrival.

        The service then forgets them. The metrics of a call arrive before its verdicts, so after `Ticket.result`
        those of its submission are complete: call this when no verdict is open. Each call of a reward logs for itself,
        one for each submission, and a second try after a fault or a lost worker logs again. Rewards of the same
        metric name share one list. Cached verdicts log nothing: TRL-style verdicts are never cached.
        """
        taken: dict[str, list[float]] = {}
        for runner in self._runners:
            metrics = runner.metrics
            runner.metrics = {}
            for name, values in metrics.items():
                taken.setdefault(name, []).extend(values)
        return taken

    @property
    def num_from_cache(self) -> int:
        """How many verdicts were taken from an equal completion's instead of asking the reward."""
        return self._cache.num_hits

    @property
    def num_open(self) -> int:
        """How many verdicts of all submissions are still missing."""
        return sum(ticket.num_open for ticket in list(self._open))

    def describe(self) -> list[str]:
        """What waits where and what each worker does, in lines; any thread may ask."""
        lines: list[str] = []
        for runner in list(self._runners):
            lines += runner.describe()
        return lines

    @property
    def num_workers(self) -> int:
        """How many worker processes there are now."""
        return sum(runner.num_workers for runner in self._runners if isinstance(runner, Pool))

    @property
    def num_killed(self) -> int:
        """How many workers were lost so far: killed at their deadline, or died on their own."""
        return sum(runner.num_killed for runner in self._runners if isinstance(runner, Pool))

    def close(self) -> None:
        """Kill and reap the workers. Tickets still open fail with `RuntimeError`."""
        self._finalizer()
        for ticket in list(self._open):
            if not ticket.done():
                ticket.future.set_exception(RuntimeError("the reward service was closed"))
        self._open.clear()

    def __enter__(self) -> RewardService:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- from samples to requests

    def _request(
        self, number: int, spec: RewardSpec, sample: Sample, deliver: Deliver
    ) -> Request | Score:
        """What the reward's runner gets; or the score, if the reward need not be asked."""
        if self._step < spec.from_step or not applies(spec.when, sample.columns):
            return Score(None, status="not_applicable")
        function = self._functions[number]
        name = function.convention.name
        missing = function.convention.missing(sample.columns)
        if missing:
            return fault(f"{name} wants the column {missing[0]}, which the row does not have")
        if function.local is not None:
            return Request(number, function.convention.trim(sample), b"", deliver)
        try:
            trimmed = function.convention.trim(sample)
            payload = pickle.dumps(trimmed)
            request = Request(number, trimmed, payload, deliver)
        except Exception as error:  # noqa: BLE001  a column's own pickling can raise anything
            return fault(f"{name}: the row cannot be sent to a worker: {error}")
        request.key = self._cache_key(number, request)
        return request

    def _cache_key(self, number: int, request: Request) -> bytes | None:
        """What a verdict is cached by: the reward's own key, or all that a built-in one sees; None: not cached."""
        function = self._functions[number]
        use = self.specs[number].use
        args = function.assignment.args
        key = cache_key(function.convention, function.inspected, request.sample, args)
        if key is not None:
            return hashlib.sha256(f"{number}:{key!r}".encode("utf-8", "surrogatepass")).digest()
        if isinstance(use, str) and use in TABLE and not function.convention.whole_list:
            return hashlib.sha256(b"%d:" % number + request.payload).digest()
        return None

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    # ---- in the service's thread

    def _remember(self, ticket: Ticket) -> None:
        if not ticket.done():
            self._open.add(ticket)
            ticket.future.add_done_callback(lambda _: self._open.discard(ticket))

    def _enqueue(self, number: int, requests: list[Request]) -> None:
        self.num_judged += len(requests)
        requests = [request for request in requests if not self._cache.answers(request)]
        if not requests:
            return
        units: list[Unit] = [[request] for request in requests]
        if self._functions[number].convention.whole_list:
            units = [requests]
        self._runner_of[number].put(units)


class VerdictCache:
    """Verdicts by key, and who waits for one that is being judged. All methods run in the service's thread."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[bytes, Score] = OrderedDict()
        self._waiting: dict[bytes, list[Deliver]] = {}
        self.num_hits = 0

    def answers(self, request: Request) -> bool:
        """Answer a request from memory, or let it wait for its twin; False if it must be judged.

        The verdict on a request that must be judged is cached, and delivered to its twins too.
        """
        key = request.key
        if key is None:
            return False
        if key in self._verdicts:
            self.num_hits += 1
            self._verdicts.move_to_end(key)
            request.deliver(self._verdicts[key], 0.0)
            return True
        if key in self._waiting:
            self.num_hits += 1
            self._waiting[key].append(request.deliver)
            return True
        self._waiting[key] = []
        request.deliver = functools.partial(self._deliver_and_keep, key, request.deliver)
        return False

    def _deliver_and_keep(self, key: bytes, deliver: Deliver, score: Score, seconds: float) -> None:
        if score.status not in ("fault", "timeout"):
            self._verdicts[key] = score
            if len(self._verdicts) > CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
        deliver(score, seconds)
        for twin in self._waiting.pop(key):
            twin(score, 0.0)


# ------------------------------------------------------------------------------------------ the thread


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _shut_down(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    *,
    runners: Sequence[Runner],
    sandboxes: Sequence[Any],
) -> None:
    """Close the pools, then the loop. Not a method, so that it also runs when the service is forgotten."""

    async def close() -> None:
        for sandbox in sandboxes:
            sandbox.begin_to_close()
        closable = [runner for runner in runners if not isinstance(runner, ThreadRunner)]
        await asyncio.gather(*(runner.close() for runner in closable))
        await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))

    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def _num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
