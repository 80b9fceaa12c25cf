"""What a person names as a tool or an environment, as whoever runs it finds it, and in one form whatever its kind.

A tool is a function; an environment answers texts (`Environment`) or offers its methods as tools (an adapter of
``rewards.environments.adapters``). Here they become a `Talk`: the other side of one completion.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol, Sequence

from rewards.environments.tools import TOOL_ERRORS, Tool, as_text, cut, raised, tool_of
from rewards.environments.types import OBSERVATION_STATUSES, Observation, Result
from rewards.table import load

__all__ = [
    "Hosted",
    "Talk",
    "as_observation",
    "loaded_as",
    "open_talk",
    "read_hosted",
    "tools_offered",
]


@dataclass(frozen=True, slots=True)
class Hosted:
    """One tool or environment: where it is found, and what it is made with.

    ``use`` is text that a worker process can resolve, or the object itself, for what exists in this process only.
    """

    use: str | Callable[..., Any]
    is_tool: bool
    args: Mapping[str, Any] = field(default_factory=dict)
    base_dir: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this process has it."""
        return not isinstance(self.use, str)


class Talk(Protocol):
    """The other side of one completion. `is_async`: whether a method only waits, so that it needs no thread."""

    def is_async(self, method: str) -> bool: ...

    async def reset(self, row: Mapping[str, Any]) -> Observation | None: ...

    async def step(self, text: str) -> Observation: ...

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result: ...


def read_hosted(hosted: Hosted) -> Any:
    """The function or class; `ValueError`, which says what was named, if there is none."""
    noun = "tool" if hosted.is_tool else "environment"
    try:
        return load(hosted.use, base_dir=hosted.base_dir)
    except ValueError as error:
        raise ValueError(f"{noun} {str(error).removeprefix('reward ')}") from error


def loaded_as(hosted: Hosted) -> Any:
    """What `open_talk` takes: the tool, or a maker of talks."""
    loaded = read_hosted(hosted)
    if hosted.is_tool:
        return loaded if isinstance(loaded, Tool) else tool_of(loaded)
    return _maker_of(loaded, hosted)


# --------------------------------------------------------------------------------------- environments


def _maker_of(loaded: Any, hosted: Hosted) -> Callable[[], Talk]:
    """How a talk is made, by what the environment's class offers."""
    made = _class_made_by(loaded)
    args = dict(hosted.args)
    for adapter in _adapters():
        if adapter.fits(made):
            return lambda: adapter(loaded, args)
    if not (hasattr(made, "reset") and hasattr(made, "step")):
        raise ValueError(
            f"environment {hosted.use}: {made.__name__} has no methods reset and step, and none that are tools"
        )
    return lambda: _Answering(loaded, args)


def _adapters() -> Sequence[Any]:
    from rewards.environments.adapters import ADAPTERS  # noqa: PLC0415  they import this module

    return ADAPTERS


def _class_made_by(loaded: Any) -> type:
    """The class of the environments that a class or a function makes."""
    if inspect.isclass(loaded):
        return loaded
    if not inspect.isroutine(loaded) and not hasattr(loaded, "func"):
        return type(loaded)
    returned = inspect.signature(loaded, eval_str=True).return_annotation
    if not inspect.isclass(returned) or returned is inspect.Signature.empty:
        name = getattr(loaded, "__name__", loaded)
        raise ValueError(
            f"environment {name}: say which class it makes, as the type that it returns"
        )
    return returned


def tools_offered(hosted: Hosted) -> Sequence[Tool]:
    """The tools that an environment's class offers; none where it answers texts."""
    loaded = read_hosted(hosted)
    made = _class_made_by(loaded)
    for adapter in _adapters():
        if adapter.fits(made):
            return adapter.tools_of(loaded, hosted.args)
    return ()


def open_talk(loaded: Any) -> Talk:
    """The other side of one completion, for what `loaded_as` gave."""
    return _OneTool(loaded) if isinstance(loaded, Tool) else loaded()


class _OneTool:
    """A function: nothing is kept between calls."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def is_async(self, method: str) -> bool:
        return self._tool.is_async

    async def reset(self, row: Mapping[str, Any]) -> None:
        return None

    async def step(self, text: str) -> Observation:
        raise AssertionError("a tool is called by name")

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        return await self._tool.call(arguments)


class _Answering:
    """An `Environment`: a class, or what makes one. One that exists already serves a single completion at a time."""

    def __init__(self, maker: Any, args: Mapping[str, Any]) -> None:
        self._maker = maker
        self._args = args
        self._class = _class_made_by(maker)
        self._environment: Any = None

    def is_async(self, method: str) -> bool:
        return inspect.iscoroutinefunction(getattr(self._class, method))

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        self._environment = self._maker(**self._args)
        value = await _awaited(self._environment.reset(row))
        return None if value is None else as_observation(value, self._class.__name__)

    async def step(self, text: str) -> Observation:
        value = await _awaited(self._environment.step(text))
        return as_observation(value, self._class.__name__)

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        raise AssertionError("it answers texts")


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def as_observation(value: Any, name: str) -> Observation:
    """What an environment answered, checked; `TypeError` or `ValueError` for what is no observation."""
    if isinstance(value, (str, bytes)):
        return Observation(as_text(value))
    if not isinstance(value, Observation):
        raise TypeError(f"{name} answered {type(value).__name__}, not an Observation or a text")
    if value.status not in OBSERVATION_STATUSES:
        raise ValueError(f"{name} answered with the unknown status {value.status!r}")
    numbers = [value.reward, *value.parts.values()]
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} answered with a reward that is not finite")
    return replace(value, text=as_text(value.text))


# ------------------------------------------------------------------------------------------- outcomes


async def outcome(talk: Talk, method: str, arguments: Sequence[Any], max_bytes: int) -> Any:
    """What a method of a talk gave, errors as text: an `Observation`, a `Result`, or None."""
    try:
        value = await getattr(talk, method)(*arguments)
    except TOOL_ERRORS as error:
        if method == "call":
            return Result(str(arguments[0]), raised(error), "error")
        return Observation(raised(error), done=method == "reset", status="error")
    return None if value is None else replace(value, text=cut(value.text, max_bytes))


def root_of(base_dir: str | Path | None) -> str:
    """The folder that paths in ``use`` are relative to."""
    return str(Path(base_dir or ".").resolve())
