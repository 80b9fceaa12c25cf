"""The reward service: completions in, verdicts out, from worker processes that can be killed.

`RewardService` judges each completion by every reward of a recipe and combines their scores. It can be used from
any thread, never runs a reward in the caller's thread, and returns results by index. Who is judged where, under
what deadline, is ``rewards.service.pool``; how a function is called, ``rewards.conventions``. No torch, no trainer.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import math
import os
import pickle
import sys
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Mapping, Sequence, cast

from rewards.conventions import cache_key, convention_of, fault
from rewards.sandbox import SandboxOptions, open_sandbox
from rewards.service.pool import Function, Pool, Row, ThreadRunner
from rewards.service.programs import SupervisedRunner, runs_programs
from rewards.service.worker import Assignment
from rewards.table import TABLE, load
from rewards.types import RewardSpec, Sample, Score

__all__ = ["Judged", "RewardService", "Ticket", "combine"]

Runner = Pool | ThreadRunner | SupervisedRunner
MAX_WORKERS_WHEN_IDLE = 16
"""How far the shared workers may grow in number while all of them only wait."""
CACHE_ENTRIES = 65_536


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one completion: ``score`` combines the rewards, ``parts`` holds each one's own score.

    ``seconds`` is the time that judging it took, added over the rewards; waiting in a queue is not in it.
    """

    score: Score
    parts: Mapping[str, Score]
    seconds: float


def combine(specs: Sequence[RewardSpec], parts: Mapping[str, Score]) -> Score:
    """The weighted sum of a completion's parts, under the status table's rules.

    A fault in a part of nonzero weight makes the whole a fault: it must never act like a 0 in the sum. Parts
    without a value are left out; where none has one, the completion is ``not_applicable``. A ``timeout`` counts 0
    and shows in the status. Parts of weight 0 are reported, and change nothing.
    """
    values = {spec.name: parts[spec.name].value for spec in specs}
    counted = [
        (spec, parts[spec.name]) for spec in [spec for spec in specs if spec.weight] or specs
    ]
    detail = "; ".join(f"{spec.name}: {part.detail}" for spec, part in counted if part.detail)
    statuses = {part.status for _, part in counted}
    if "fault" in statuses:
        why = "; ".join(
            f"{spec.name}: {part.detail}" for spec, part in counted if part.status == "fault"
        )
        return Score(None, parts=values, status="fault", detail=why)
    weighted = [spec.weight * part.value for spec, part in counted if part.value is not None]
    if not weighted:
        return Score(None, parts=values, status="not_applicable", detail=detail)
    status = "no_answer" if statuses <= {"no_answer", "not_applicable"} else "scored"
    status = "timeout" if "timeout" in statuses else status
    return Score(math.fsum(weighted), parts=values, status=status, detail=detail)


class Ticket:
    """A submission under way."""

    def __init__(self, specs: Sequence[RewardSpec], num_samples: int) -> None:
        self._specs = specs
        self._parts: list[dict[str, Score]] = [{} for _ in range(num_samples)]
        self._seconds = [0.0] * num_samples
        self._num_open = num_samples * len(specs)
        self.future: Future[list[Judged]] = Future()
        if not self._num_open:
            self.future.set_result([])

    def result(self, timeout: float | None = None) -> list[Judged]:
        """Wait for the verdicts, in the order of the samples; `TimeoutError` after ``timeout`` seconds."""
        try:
            return self.future.result(timeout)
        except FutureTimeoutError:
            raise TimeoutError(
                f"{self._num_open} verdicts are not there after {timeout} s"
            ) from None

    def done(self) -> bool:
        """Whether every verdict is there."""
        return self.future.done()

    @property
    def num_open(self) -> int:
        """How many verdicts are not there yet."""
        return self._num_open

    def describe(self) -> list[str]:
        """Of which rewards verdicts are missing, in a line."""
        missing = {
            spec.name: sum(spec.name not in parts for parts in self._parts) for spec in self._specs
        }
        words = [
            f"{number} of {len(self._parts)} by rewards.{name}"
            for name, number in missing.items()
            if number
        ]
        return [f"verdicts that are not there: {', '.join(words)}"] if words else []

    def _place(self, index: int, name: str, score: Score, seconds: float) -> None:
        """In the service's thread: one part of one completion is known."""
        self._parts[index][name] = score
        self._seconds[index] += seconds
        self._num_open -= 1
        if self._num_open == 0 and not self.future.done():
            self.future.set_result([self._judged(index) for index in range(len(self._parts))])

    def _judged(self, index: int) -> Judged:
        parts = {spec.name: self._parts[index][spec.name] for spec in self._specs}
        return Judged(combine(self._specs, parts), MappingProxyType(parts), self._seconds[index])


class RewardService:
    """Judges completions by the rewards of a recipe, in processes of its own.

    ``workers`` are the processes that the rewards share; by default one a core, and up to `MAX_WORKERS_WHEN_IDLE` while
    all of them only wait. ``base_dir`` is where ``path/file.py:function`` is looked for. `ValueError` where a
    reward cannot be found or its style not recognised. Rewards that run programs do so as ``sandbox`` says, and
    `IsolationError`, a ValueError, is raised where they cannot be held; `isolation` has what a log should say of it.
    To be closed, or used in a ``with`` statement.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        *,
        workers: int | None = None,
        base_dir: str | Path | None = None,
        sandbox: SandboxOptions | None = None,
    ) -> None:
        _check(specs, workers)
        self.specs = tuple(specs)
        self._functions = [_function(spec, base_dir) for spec in specs]
        self._cache: OrderedDict[bytes, tuple[Score, float]] = OrderedDict()
        self._under_way: dict[bytes, list[Callable[[Score, float], None]]] = {}
        self._open: set[Ticket] = set()
        self.num_judged, self.num_from_cache = 0, 0
        self._workers = _num_cores() if workers is None else workers
        self._most_workers = (
            max(self._workers, MAX_WORKERS_WHEN_IDLE) if workers is None else workers
        )
        self._loop = asyncio.new_event_loop()
        self._sandbox_options = sandbox or SandboxOptions()
        self.isolation: list[str] = []
        self._runners: list[Runner] = []
        self._runner_of: dict[int, Runner] = {}
        self._thread = threading.Thread(
            target=_turn, args=(self._loop,), name="reward service", daemon=True
        )
        self._thread.start()
        self._sandboxes: list[Any] = []
        self._finalizer = weakref.finalize(
            self, _shut_down, self._loop, self._thread, self._runners, self._sandboxes
        )
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
            pool = Pool(shared, self._workers, self._most_workers)
            self._runner_of |= dict.fromkeys(shared, pool)
        self._runners.extend(dict.fromkeys(self._runner_of.values()))

    async def _open_sandbox(self) -> Any:
        """The sandbox, where a reward needs one; closed after the runners that use it."""
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
            rows = []
            for index, sample in enumerate(samples):
                place = functools.partial(ticket._place, index, spec.name)
                row = self._row(number, spec, sample, place)
                if isinstance(row, Row):
                    rows.append(row)
                else:
                    self._call(place, row, 0.0)
            self._call(self._enqueue, number, rows)
        self._call(self._remember, ticket)
        return ticket

    def judge(self, samples: Sequence[Sample]) -> list[Judged]:
        """Scorer the samples and wait for it."""
        return self.submit(samples).result()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """The combined score of each sample, in order."""
        return [judged.score for judged in self.judge(samples)]

    def set_step(self, step: int) -> None:
        """Tell rewards of TRL's style which step it is (``trainer_state.global_step``)."""
        for runner in self._runners:
            runner.step = step

    def take_metrics(self) -> dict[str, list[float]]:
        """What rewards logged by ``log_metric`` since the last call."""
        taken: dict[str, list[float]] = {}
        for runner in self._runners:
            metrics, runner.metrics = runner.metrics, {}
            for name, values in metrics.items():
                taken.setdefault(name, []).extend(values)
        return taken

    @property
    def num_open(self) -> int:
        """How many verdicts of all submissions are not there yet."""
        return sum(ticket.num_open for ticket in list(self._open))

    def describe(self) -> list[str]:
        """What waits where and what each worker does, in lines; may be asked from any thread."""
        return [line for runner in list(self._runners) for line in runner.describe()]

    @property
    def num_workers(self) -> int:
        """How many worker processes there are now."""
        return sum(runner.num_workers for runner in self._runners if isinstance(runner, Pool))

    @property
    def num_killed(self) -> int:
        """How many workers were lost so far: killed at their deadline, or dead by themselves."""
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

    # ---- from samples to rows

    def _row(
        self, number: int, spec: RewardSpec, sample: Sample, place: Callable[[Score, float], None]
    ) -> Row | Score:
        """What the reward's runner gets; or the score, where the reward need not be asked."""
        if not applies(spec.when, sample.columns):
            return Score(None, status="not_applicable")
        function = self._functions[number]
        missing = function.convention.missing(sample.columns)
        if missing:
            return fault(
                f"{function.convention.name} wants the column {missing[0]}, which the row does not have"
            )
        if function.local is not None:
            return Row(number, function.convention.trim(sample), b"", place)
        try:
            trimmed = function.convention.trim(sample)
            row = Row(number, trimmed, pickle.dumps(trimmed), place)
        except Exception as error:  # a column's own pickling can raise anything
            return fault(f"{function.convention.name}: the row cannot be sent to a worker: {error}")
        row.key = self._key(number, row)
        return row

    def _key(self, number: int, row: Row) -> bytes | None:
        """By what a verdict is remembered: the reward's own key, or all that a built-in one sees; None: not at all."""
        function, use = self._functions[number], self.specs[number].use
        key = cache_key(
            function.convention, function.inspected, row.sample, function.assignment.args
        )
        if key is not None:
            return hashlib.sha256(f"{number}:{key!r}".encode("utf-8", "surrogatepass")).digest()
        if isinstance(use, str) and use in TABLE and not function.convention.whole_list:
            return hashlib.sha256(b"%d:" % number + row.payload).digest()
        return None

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    # ---- in the service's thread

    def _remember(self, ticket: Ticket) -> None:
        if not ticket.done():
            self._open.add(ticket)
            ticket.future.add_done_callback(lambda _: self._open.discard(ticket))

    def _enqueue(self, number: int, rows: list[Row]) -> None:
        self.num_judged += len(rows)
        rows = [row for row in rows if not self._is_known(row)]
        if not rows:
            return
        whole = self._functions[number].convention.whole_list
        self._runner_of[number].put([rows] if whole else [[row] for row in rows])

    def _is_known(self, row: Row) -> bool:
        """Answer a row from memory, or let it wait for its twin; else note whom it may serve."""
        key = row.key
        if key is None:
            return False
        if key in self._cache:
            self.num_from_cache += 1
            self._cache.move_to_end(key)
            row.deliver(self._cache[key][0], 0.0)
            return True
        if key in self._under_way:
            self.num_from_cache += 1
            self._under_way[key].append(row.deliver)
            return True
        self._under_way[key] = []
        row.deliver = functools.partial(self._deliver_and_keep, key, row.deliver)
        return False

    def _deliver_and_keep(
        self, key: bytes, deliver: Callable[[Score, float], None], score: Score, seconds: float
    ) -> None:
        if score.status not in ("fault", "timeout"):
            self._cache[key] = (score, seconds)
            if len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        deliver(score, seconds)
        for twin in self._under_way.pop(key):
            twin(score, 0.0)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _shut_down(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    runners: Sequence[Runner],
    sandboxes: Sequence[Any],
) -> None:
    """Close the pools, then the loop. Apart from the service, so that it also runs when that is forgotten."""

    async def close() -> None:
        for sandbox in sandboxes:
            sandbox.begin_to_close()
        await asyncio.gather(
            *(runner.close() for runner in runners if not isinstance(runner, ThreadRunner))
        )
        await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))

    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


# ------------------------------------------------------------------------------------------ specs


def _num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(specs: Sequence[RewardSpec], workers: int | None) -> None:
    names = [spec.name for spec in specs]
    if workers is not None and workers < 1:
        raise ValueError(f"rewards: {workers} workers are too few; at least 1")
    if not specs:
        raise ValueError("rewards: there are none")
    for spec in specs:
        if names.count(spec.name) > 1:
            raise ValueError(f"rewards: {spec.name} occurs twice")
        if not math.isfinite(spec.weight):
            raise ValueError(f"rewards.{spec.name}.weight: {spec.weight} is not a finite number")
        if spec.workers is not None and spec.workers < 1:
            raise ValueError(f"rewards.{spec.name}.workers: {spec.workers} are too few; at least 1")
        if not spec.timeout_seconds > 0:
            raise ValueError(
                f"rewards.{spec.name}.timeout_seconds: {spec.timeout_seconds} is not above 0"
            )


def _function(spec: RewardSpec, base_dir: str | Path | None) -> Function:
    """The spec's function, inspected here once, so that mistakes show before anything is sampled."""
    loaded: Any = load(spec.use, base_dir=base_dir)
    convention = convention_of(loaded, spec.style, tuple(spec.args))
    use: str | None = spec.use if isinstance(spec.use, str) else None
    args = dict(spec.args)
    if use is None and isinstance(loaded, functools.partial) and not loaded.args:
        loaded, args = loaded.func, {**loaded.keywords, **args}
    if use is None:
        use = _address(loaded)
    folder = str(Path(base_dir or ".").resolve())
    assignment = Assignment(use or convention.name, args, spec.style, spec.timeout_seconds, folder)
    if use is not None:
        return Function(convention, assignment, loaded)
    if args.get("allow_sympy"):
        raise ValueError(
            f"rewards.{spec.name}: allow_sympy needs a process that can be killed; put it into a file"
        )
    if not inspect.isclass(loaded):
        return Function(convention, assignment, loaded, local=loaded)
    return Function(
        convention, replace(assignment, args={}), loaded, local=cast(Any, loaded)(**args)
    )


def _address(function: Any) -> str | None:
    """How a worker would import this very object; None for what only this process has."""
    module, name = (
        getattr(function, "__module__", None) or "",
        getattr(function, "__qualname__", "<"),
    )
    home = sys.modules.get(module)
    if home is None or module == "__main__" or "<" in name:
        return None
    found: Any = home
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        return None
    file = getattr(home, "__file__", None)
    if module.startswith("_reward_file_") and file:
        return f"{file}:{name}"
    return f"{module}:{name}" if getattr(home, "__spec__", None) else None


def applies(when: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether every column named has the value, or one of the values, that is asked for."""
    return all(
        columns.get(name) in wanted
        if isinstance(wanted, (list, tuple, set))
        else columns.get(name) == wanted
        for name, wanted in when.items()
    )
