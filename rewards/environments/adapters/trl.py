"""Environments of TRL's ``environment_factory``: ``reset(**row)``, public methods that are tools, ``get_reward``.

One is made for each completion, where TRL makes a few and resets them. ``get_reward``, which TRL asks once at the end,
is asked after each turn, and the turn is worth by how much it has changed: the turns of a completion sum to it.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable, Mapping, Sequence

from rewards.environments.talks import Talk, as_observation, class_made_by
from rewards.environments.tools import Tool, ToolError, awaited, methods_as_tools, tool_of
from rewards.environments.types import Observation, Result

__all__ = ["TrlAdapter"]

REWARD = "get_reward"


class TrlAdapter:
    """Any class with ``reset``, without ``step``, that has other public methods."""

    def fits(self, made: type) -> bool:
        return hasattr(made, "reset") and not hasattr(made, "step") and bool(_tool_names(made))

    def tools_of(self, maker: Any, args: Mapping[str, Any]) -> Sequence[Tool]:
        return methods_as_tools(class_made_by(maker), without=(REWARD,))

    def gives_reward(self, made: type) -> bool:
        return hasattr(made, REWARD)

    def talks(self, maker: Any, args: Mapping[str, Any]) -> Callable[[], Talk]:
        return lambda: TrlTalk(maker, args)


def _tool_names(made: type) -> list[str]:
    members = inspect.getmembers(made, inspect.isfunction)
    return [
        name for name, _ in members if not name.startswith("_") and name not in ("reset", REWARD)
    ]


class TrlTalk:
    """One completion with one such environment."""

    def __init__(self, maker: Any, args: Mapping[str, Any]) -> None:
        self._maker = maker
        self._args = args
        self._class = class_made_by(maker)
        self._environment: Any = None
        self._told = 0.0

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        asked = {"call": arguments[0] if arguments else "", "reset": "reset"}.get(method, REWARD)
        return inspect.iscoroutinefunction(getattr(self._class, asked, None))

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        self._environment = self._maker(**self._args)
        value = await awaited(self._environment.reset(**row))
        return None if value is None else as_observation(value, self._class.__name__)

    async def step(self, text: str) -> Observation:
        raise AssertionError("its tools are called by name")

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        if name not in _tool_names(self._class):
            raise ToolError(f"there is no tool {name}")
        return await tool_of(getattr(self._environment, name), name).call(arguments)

    async def worth(self) -> Observation:
        """By how much ``get_reward`` has changed since the last turn."""
        value = float(await awaited(self._environment.get_reward()))
        change = value - self._told
        self._told = value
        return as_observation(Observation(reward=change), self._class.__name__)

    async def close(self) -> None:
        return None
