"""Many environments at once: the pool that a trainer talks to from any thread.

Built-in tools run next to the pool's own loop, in which nothing of the user's runs; functions and classes that can be
imported run in worker processes, others in threads of this process. Who runs what, and what follows when one is stuck
or dies, is ``rewards.environments.hosts``; how a turn is read, ``rewards.environments.tool_environment``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence, TypeVar

from rewards.environments.calculator import calculator
from rewards.environments.formats import CallFormat, format_of
from rewards.environments.hosted import Hosted, Offered, maker_of, offered_by, root_of, tool_named
from rewards.environments.hosts import Hosts, Lost, RemoteTalk
from rewards.environments.python_tool import PYTHON, PythonOptions, PythonTool
from rewards.environments.tool_environment import Callee, ToolEnvironment, check_format
from rewards.environments.tools import Tool, tool_of
from rewards.environments.types import Environment, EnvironmentSpec, Observation, Result
from rewards.sandbox import SandboxOptions, open_sandbox
from rewards.service.functions import importable_name
from rewards.spelling import many, nearest
from rewards.table import run_sources, sources_of

__all__ = ["BUILT_IN_TOOLS", "EnvironmentPool", "schemas_of"]

T = TypeVar("T")

CALCULATOR = tool_of(calculator)
BUILT_IN_TOOLS: Mapping[str, Tool] = {"python": PYTHON, "calculator": CALCULATOR}
"""The tools that a recipe names without a file: what the policy is told of each."""


class EnvironmentPool:
    """The other side of many completions; any thread may use it, and its futures never raise for what a tool did.

    Raises `ValueError` for a tool or environment that cannot be loaded, and where the call format does not fit the
    tools; `IsolationError`, a ValueError, where programs cannot be confined. ``spec.format`` is a format's name;
    ``auto`` is refused where there are tools: resolve it first (``format_of(spec.format, chat_template).name``).
    ``base_dir`` is the folder of ``path/file.py:function``. Close it, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        base_dir: str | Path | None = None,
        sandbox: SandboxOptions | None = None,
    ) -> None:
        self.spec = spec
        self._plan = _plan_of(spec, root_of(base_dir))
        self._sandbox_options = sandbox or SandboxOptions()
        self._parts = _Parts()
        self._conversations: dict[Hashable, _Conversation] = {}
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run_loop, args=(self._loop,), name="tools", daemon=True)
        thread.start()
        close = functools.partial(_shut_down, self._loop, thread, self._parts)
        self._finalizer = weakref.finalize(self, close)
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._finalizer()
            raise

    async def _start(self) -> None:
        if self._plan.runs_programs:
            self._parts.sandbox = await open_sandbox(self._sandbox_options)
        hosted = self._plan.hosted
        workers = self.spec.workers or _num_cores()
        for is_local in (False, True):
            if any(one.is_local == is_local for one in hosted):
                self._parts.hosts[is_local] = Hosts(
                    [one if one.is_local == is_local else _ELSEWHERE for one in hosted],
                    workers=workers,
                    limit_seconds=self.spec.timeout_seconds,
                    max_bytes=self.spec.max_bytes,
                    is_local=is_local,
                )

    @property
    def format(self) -> CallFormat | None:
        """How calls are written; None where there are no tools."""
        return self._plan.format

    @property
    def isolation(self) -> list[str]:
        """How programs are confined, in lines for a log; none where no tool runs any."""
        sandbox = self._parts.sandbox
        return list(sandbox.lines) if sandbox is not None else []

    def schemas(self) -> list[dict[str, Any]]:
        """The tools for a chat template's ``tools``; empty where the environment offers none by name."""
        return [dict(tool.schema) for tool in self._plan.tools]

    def open(
        self, key: Hashable, row: Mapping[str, Any], texts: Sequence[str] = ()
    ) -> Future[Observation | None]:
        """Begin a session with a row, then play ``texts`` again, whose observations are not told.

        The future has what is observed behind the prompt, None where that is nothing. Where the environment could not
        begin it is `done`, with the status ``error``, ``timeout`` or ``died``. `step` may be called at once: it waits
        for this.
        """
        conversation = _Conversation(self._environment)
        opening = functools.partial(conversation.open, dict(row), tuple(texts))
        return self._submit(self._begin_anew, key, conversation, opening)

    def step(self, key: Hashable, text: str) -> Future[Observation]:
        """Answer the text of one turn; the turns of a session are answered in order.

        ``done`` where the environment says so, or where there are only tools and the turn calls none.
        """
        return self._submit(self._step, key, text)

    def forget(self, key: Hashable) -> None:
        """End a session; an answer still on its way is dropped, its future cancelled."""
        if self._finalizer.alive:
            self._loop.call_soon_threadsafe(self._forget, key)

    def describe(self) -> list[str]:
        """What waits where, in lines for a log."""
        lines = [f"environments: {many(len(self._conversations), 'completion')} open"]
        for hosts in self._parts.hosts.values():
            lines += hosts.describe()
        return lines

    @property
    def num_lost(self) -> int:
        """How many calls had no answer: they overran, or their process died."""
        return sum(hosts.num_lost for hosts in self._parts.hosts.values())

    def close(self) -> None:
        """Kill and reap the workers; futures still open are cancelled."""
        self._finalizer()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- in the pool's thread

    def _submit(self, begin: Callable[..., asyncio.Task[T]], *args: Any) -> Future[T]:
        """Call ``begin`` in the loop; its task's result, or cancellation, is the future's."""
        if not self._finalizer.alive:
            raise RuntimeError("the pool of environments is closed")
        future: Future[T] = Future()

        def link() -> None:
            task = begin(*args)
            task.add_done_callback(lambda ended: _settle(future, ended))

        self._loop.call_soon_threadsafe(link)
        return future

    def _begin_anew(
        self,
        key: Hashable,
        conversation: _Conversation,
        opening: Callable[[], Coroutine[Any, Any, Observation | None]],
    ) -> asyncio.Task[Observation | None]:
        self._forget(key)
        self._conversations[key] = conversation
        return conversation.begin(opening)

    def _step(self, key: Hashable, text: str) -> asyncio.Task[Observation]:
        conversation = self._conversations[key]
        return conversation.begin(functools.partial(conversation.step, text))

    def _forget(self, key: Hashable) -> None:
        conversation = self._conversations.pop(key, None)
        if conversation is not None:
            conversation.forget()

    def _environment(self) -> tuple[Environment, RemoteTalk | None]:
        """A new completion's other side."""
        plan = self._plan
        talk = None
        if plan.environment is not None:
            talk = self._hosts_of(plan.environment).talk(plan.environment)
        inner = _Safe(talk, self.spec.timeout_seconds) if talk is not None else None
        if plan.format is None:
            assert inner is not None
            return inner, talk
        answers = inner is not None and not plan.offered.tools
        environment = ToolEnvironment(
            [self._callee(tool, inner) for tool in plan.tools],
            plan.format,
            max_bytes=self.spec.max_bytes,
            inner=inner if answers else _rest_of(inner, plan.offered),
        )
        return environment, talk

    def _callee(self, tool: Tool, inner: _Safe | None) -> Callee:
        if tool is PYTHON:
            return PythonTool(self._parts.sandbox, self._plan.python)
        if tool in self._plan.offered.tools:
            assert inner is not None
            return _Method(tool.name, inner)
        if tool.name in self._plan.functions:
            index = self._plan.functions[tool.name]
            return _Function(tool.name, index, self._hosts_of(index), self.spec.timeout_seconds)
        return tool

    def _hosts_of(self, index: int) -> Hosts:
        return self._parts.hosts[self._plan.hosted[index].is_local]


def schemas_of(
    spec: EnvironmentSpec, *, base_dir: str | Path | None = None
) -> list[dict[str, Any]]:
    """What `EnvironmentPool.schemas` of a pool of this spec says, without opening one; the same `ValueError`s."""
    return [dict(tool.schema) for tool in _plan_of(spec, root_of(base_dir)).tools]


@dataclass(slots=True)
class _Parts:
    """What is to be closed."""

    sandbox: Any = None
    hosts: dict[bool, Hosts] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------- what there is


_ELSEWHERE = Hosted("", is_tool=True)
"""Keeps the place of what others run."""


@dataclass(slots=True)
class _Plan:
    """What a spec asks for. ``functions`` and ``environment`` are indices of ``hosted``; ``offered`` are methods."""

    tools: list[Tool] = field(default_factory=list)
    hosted: list[Hosted] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)
    offered: Offered = field(default_factory=Offered)
    environment: int | None = None
    format: CallFormat | None = None
    python: PythonOptions = field(default_factory=PythonOptions)

    @property
    def runs_programs(self) -> bool:
        return PYTHON in self.tools


def _plan_of(spec: EnvironmentSpec, base_dir: str) -> _Plan:
    _check_numbers(spec)
    plan = _Plan()
    is_built_in = isinstance(spec.use, str) and spec.use in BUILT_IN_TOOLS
    args = spec.args if is_built_in and spec.use == "python" else {}
    plan.python = PythonOptions.of(args, spec.timeout_seconds)
    names = [*([spec.use] if is_built_in and spec.use is not None else []), *spec.tools]
    for use in names:
        _add_tool(plan, use, base_dir)
    if spec.use is not None and not is_built_in:
        _add_environment(plan, spec, base_dir)
    elif spec.args and spec.use != "python":
        raise ValueError(f"environment.args: {spec.use or 'nothing'} takes none")
    if plan.environment is None and not plan.tools:
        raise ValueError("environment: there is neither an environment nor a tool")
    if plan.tools:
        plan.format = format_of(spec.format)
        check_format(plan.format, [tool.name for tool in plan.tools])
    return plan


def _check_numbers(spec: EnvironmentSpec) -> None:
    if not spec.timeout_seconds > 0:
        raise ValueError(f"environment.timeout_seconds: {spec.timeout_seconds} is not above 0")
    if spec.workers is not None and spec.workers < 1:
        raise ValueError(f"environment.workers: {spec.workers} are too few; at least 1")
    if spec.max_bytes < 1:
        raise ValueError(f"environment.max_bytes: {spec.max_bytes} are too few; at least 1")


def _add_tool(plan: _Plan, use: str | Callable[..., Any], base_dir: str) -> None:
    if isinstance(use, str) and use in BUILT_IN_TOOLS:
        plan.tools.append(BUILT_IN_TOOLS[use])
        return
    if isinstance(use, str) and ":" not in use:
        raise ValueError(
            f"no tool is called {use!r}{nearest(use, BUILT_IN_TOOLS)}; known are {', '.join(BUILT_IN_TOOLS)}; "
            "name your own as package.module:function or path/file.py:function"
        )
    hosted = _hosted(use, {}, is_tool=True, base_dir=base_dir)
    tool = tool_named(hosted)
    plan.functions[tool.name] = len(plan.hosted)
    plan.hosted.append(hosted)
    plan.tools.append(tool)


def _add_environment(plan: _Plan, spec: EnvironmentSpec, base_dir: str) -> None:
    assert spec.use is not None
    if isinstance(spec.use, str) and ":" not in spec.use:
        raise ValueError(
            f"no environment is called {spec.use!r}{nearest(spec.use, BUILT_IN_TOOLS)}; known are "
            f"{', '.join(BUILT_IN_TOOLS)}; name your own as package.module:Class or path/file.py:Class"
        )
    hosted = _hosted(spec.use, spec.args, is_tool=False, base_dir=base_dir)
    maker_of(hosted)
    plan.environment = len(plan.hosted)
    plan.hosted.append(hosted)
    plan.offered = offered_by(hosted)
    plan.tools += plan.offered.tools


def _hosted(
    use: str | Callable[..., Any], args: Mapping[str, Any], *, is_tool: bool, base_dir: str
) -> Hosted:
    """Where it is found: by a worker if it can be imported."""
    found: str | Callable[..., Any] = use
    if isinstance(use, str):
        sources = sources_of(use, base_dir)
    else:
        found = importable_name(use) or use
        sources = run_sources(use)
    return Hosted(found, is_tool=is_tool, args=args, base_dir=base_dir, sources=sources)


# --------------------------------------------------------------------------------- answers where there are none


def _why(name: str, lost: Lost, timeout_seconds: float) -> str:
    if lost.status == "timeout":
        return f"Error: {name} did not answer within {timeout_seconds:g} s"
    return f"Error: {name} died: {lost}"


class _Safe:
    """A talk whose failures are observations."""

    def __init__(self, talk: RemoteTalk, timeout_seconds: float) -> None:
        self._talk = talk
        self._timeout_seconds = timeout_seconds

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        try:
            return await self._talk.reset(row)
        except (Lost, OSError) as error:
            return self._observation(error, is_over=True)

    async def step(self, text: str) -> Observation:
        try:
            return await self._talk.step(text)
        except (Lost, OSError) as error:
            return self._observation(error, is_over=False)

    async def worth(self) -> Observation:
        try:
            return await self._talk.worth()
        except (Lost, OSError) as error:
            return self._observation(error, is_over=False)

    async def call(self, name: str, given: Mapping[str, Any] | str) -> Result:
        try:
            return await self._talk.call(name, given)
        except (Lost, OSError) as error:
            lost = _as_lost(error)
            return Result(name, _why(name, lost, self._timeout_seconds), lost.status)

    def _observation(self, error: Exception, is_over: bool) -> Observation:
        lost = _as_lost(error)
        why = _why("the environment", lost, self._timeout_seconds)
        return Observation(why, done=is_over, status=lost.status)


def _rest_of(inner: _Safe | None, offered: Offered) -> Environment | None:
    if inner is None:
        return None
    return _Rewarding(inner) if offered.gives_reward else _OnlyBegins(inner)


class _OnlyBegins:
    """What is left of an environment that offers tools: it begins, and a turn that calls none ends the completion."""

    def __init__(self, inner: _Safe) -> None:
        self._inner = inner

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        return await self._inner.reset(row)

    async def step(self, text: str) -> Observation:
        return Observation(done=True)


class _Rewarding:
    """As `_OnlyBegins`, where the turns have a reward, also the last, which calls nothing."""

    def __init__(self, inner: _Safe) -> None:
        self._inner = inner

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        return await self._inner.reset(row)

    async def step(self, text: str) -> Observation:
        return replace(await self._inner.worth(), done=True)

    async def worth(self) -> Observation:
        return await self._inner.worth()


@dataclass(frozen=True, slots=True)
class _Method:
    """A tool that a completion's own environment offers."""

    name: str
    inner: _Safe

    async def call(self, given: Mapping[str, Any] | str) -> Result:
        return await self.inner.call(self.name, given)


@dataclass(frozen=True, slots=True)
class _Function:
    """A plain function, wherever it runs."""

    name: str
    index: int
    hosts: Hosts
    timeout_seconds: float

    async def call(self, given: Mapping[str, Any] | str) -> Result:
        try:
            return await self.hosts.call(self.index, self.name, given)
        except (Lost, OSError) as error:
            lost = _as_lost(error)
            return Result(self.name, _why(self.name, lost, self.timeout_seconds), lost.status)


def _as_lost(error: Exception) -> Lost:
    return error if isinstance(error, Lost) else Lost("died", f"no worker can be started: {error}")


# -------------------------------------------------------------------------------------- one completion


class _Conversation:
    """One completion's other side, and the turns that wait for it."""

    def __init__(self, make: Callable[[], tuple[Environment, RemoteTalk | None]]) -> None:
        self._make = make
        self._environment: Any = None
        self._talk: RemoteTalk | None = None
        self._turn: asyncio.Lock | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, answer: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run it behind those that were begun earlier."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        task = asyncio.ensure_future(self._in_turn(self._turn, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_turn(self, turn: asyncio.Lock, answer: Callable[[], Awaitable[T]]) -> T:
        async with turn:
            return await answer()

    async def open(self, row: Mapping[str, Any], texts: Sequence[str]) -> Observation | None:
        self._environment, self._talk = self._make()
        observed = await self._environment.reset(row)
        for text in texts:
            await self._environment.step(text)
        return observed

    async def step(self, text: str) -> Observation:
        return await self._environment.step(text)

    def forget(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._talk is not None:
            self._talk.forget()


# ------------------------------------------------------------------------------------------ the thread


def _settle(future: Future[T], task: asyncio.Task[T]) -> None:
    """Pass the end of a task on. An exception is a mistake of ours: what environments do has become an observation."""
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()
    elif not future.set_running_or_notify_cancel():
        return
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _shut_down(loop: asyncio.AbstractEventLoop, thread: threading.Thread, parts: _Parts) -> None:
    """Close everything, then the loop. Not a method, so that it also runs when the pool is forgotten."""

    async def close() -> None:
        if parts.sandbox is not None:
            parts.sandbox.begin_to_close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for hosts in parts.hosts.values():
            hosts.close()
        if parts.sandbox is not None:
            await parts.sandbox.close()

    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def _num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
