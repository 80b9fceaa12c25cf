"""A `Talk` is the other side of one completion, whatever kind of tool or environment stands behind it."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any, Mapping, Protocol, Sequence

from rewards.environments.tools import TOOL_ERRORS, Tool, as_text, awaited, cut, raised
from rewards.environments.types import OBSERVATION_STATUSES, Observation, Result

__all__ = ["Answering", "OneTool", "Talk", "as_observation", "class_made_by", "outcome"]


class Talk(Protocol):
    """The other side of one completion. All methods are coroutines; those that block run in a thread of their own.

    There is no loop there, so what is not ours is awaited by `awaited`.
    """

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        """Whether a call only waits, so that it may run in the loop."""
        ...

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        """Begin."""
        ...

    async def step(self, text: str) -> Observation:
        """Answer a turn."""
        ...

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        """Call a tool."""
        ...

    async def worth(self) -> Observation:
        """What the turn was worth, as an observation's reward; for environments whose turns are calls."""
        ...

    async def close(self) -> None:
        """It is over."""
        ...


class OneTool:
    """A function: nothing is kept between calls."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        return self._tool.is_async

    async def reset(self, row: Mapping[str, Any]) -> None:
        return None

    async def step(self, text: str) -> Observation:
        raise AssertionError("a tool is called by name")

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        return await self._tool.call(arguments)

    async def worth(self) -> Observation:
        return Observation()

    async def close(self) -> None:
        return None


class Answering:
    """An `Environment`, made by its class or by a function."""

    def __init__(self, maker: Any, args: Mapping[str, Any]) -> None:
        self._maker = maker
        self._args = args
        self._class = class_made_by(maker)
        self._environment: Any = None

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        return inspect.iscoroutinefunction(getattr(self._class, method, None))

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        self._environment = self._maker(**self._args)
        value = await awaited(self._environment.reset(row))
        return None if value is None else as_observation(value, self._class.__name__)

    async def step(self, text: str) -> Observation:
        value = await awaited(self._environment.step(text))
        return as_observation(value, self._class.__name__)

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        raise AssertionError("it answers texts")

    async def worth(self) -> Observation:
        return Observation()

    async def close(self) -> None:
        closing = getattr(self._environment, "close", None)
        if closing is not None:
            await awaited(closing())


def class_made_by(maker: Any) -> type:
    """The class of the environments that a class or a function makes; `ValueError` where a function does not say."""
    if inspect.isclass(maker):
        return maker
    made = getattr(maker, "func", maker)  # functools.partial
    if inspect.isclass(made):
        return made
    if not inspect.isroutine(made):
        return type(made)
    returned = inspect.signature(made, eval_str=True).return_annotation
    if not inspect.isclass(returned) or returned is inspect.Signature.empty:
        raise ValueError(
            f"environment {made.__name__}: say which class it makes, as the type that it returns"
        )
    return returned


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
    return replace(value, text=as_text(value.text), done=bool(value.done), results=())


async def outcome(talk: Talk, method: str, arguments: Sequence[Any], max_bytes: int) -> Any:
    """What a method of a talk gave, errors as text: an `Observation`, a `Result`, or None."""
    try:
        value = await getattr(talk, method)(*arguments)
    except TOOL_ERRORS as error:
        if method == "call":
            return Result(str(arguments[0]), raised(error), "error")
        return Observation(raised(error), done=method == "reset", status="error")
    return None if value is None else replace(value, text=cut(value.text, max_bytes))
