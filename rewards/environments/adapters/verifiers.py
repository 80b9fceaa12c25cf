"""The ``ToolEnv`` and ``StatefulToolEnv`` of verifiers (up to 0.3; 0.4 has neither): their tools and their state.

Used are the tools' definitions, ``setup_state``, ``update_tool_args``, ``call_tool``, ``error_formatter``. Not used are
its rubrics (name them as rewards), data set, prompts, ``max_turns`` and ``stop_errors``: those are the recipe's. One
environment serves all completions of a process, each with a state of its own, as verifiers does it.
"""

from __future__ import annotations

import functools
import inspect
import json
import threading
from typing import Any, Callable, Mapping, Sequence

from rewards.environments.talks import Talk
from rewards.environments.tools import Tool, ToolError, as_text, awaited
from rewards.environments.types import Observation, Result

__all__ = ["VerifiersAdapter"]

_BY_JSON = ("integer", "number", "boolean", "array", "object")
"""Types whose arguments are read as JSON where a call format has only text for them."""


class VerifiersAdapter:
    """Any class with ``call_tool``, ``tool_defs`` and ``env_response``."""

    def fits(self, made: type) -> bool:
        return hasattr(made, "call_tool") and hasattr(made, "env_response")

    def tools_of(self, maker: Any, args: Mapping[str, Any]) -> Sequence[Tool]:
        return [_tool_of(definition) for definition in _made(maker, args).tool_defs]

    def gives_reward(self, made: type) -> bool:
        return False

    def talks(self, maker: Any, args: Mapping[str, Any]) -> Callable[[], Talk]:
        once = _Once(functools.partial(_made, maker, args))
        return lambda: VerifiersTalk(once)


def _made(maker: Any, args: Mapping[str, Any]) -> Any:
    """The environment; an object is one already."""
    is_maker = inspect.isclass(maker) or inspect.isroutine(maker) or hasattr(maker, "func")
    return maker(**args) if is_maker else maker


class _Once:
    """Makes a value when it is first wanted, by whichever thread."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: list[Any] = []

    def get(self) -> Any:
        with self._lock:
            if not self._values:
                self._values.append(self._make())
            return self._values[0]


def _tool_of(definition: Any) -> Tool:
    """A tool as verifiers defines it, in a class or a mapping, as ours; only its name and schema are of use."""
    held = definition if isinstance(definition, Mapping) else vars(definition)
    shown = {key: held[key] for key in ("name", "description", "parameters")}
    return Tool(
        name=shown["name"],
        schema={"type": "function", "function": shown},
        function=_not_called,
        hints={},
        required=frozenset(),
    )


def _not_called() -> None:
    raise AssertionError("verifiers calls its tools itself")


class VerifiersTalk:
    """One completion, by its state."""

    def __init__(self, once: _Once) -> None:
        self._once = once
        self._state: Any = None
        self._num_calls = 0

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        if method != "call":
            return False
        return inspect.iscoroutinefunction(self._once.get().tool_map.get(arguments[0]))

    async def reset(self, row: Mapping[str, Any]) -> None:
        environment = self._once.get()
        state = {"trajectory": [], "info": {}, "input": dict(row), **row}
        setup = getattr(environment, "setup_state", None)
        changed = await awaited(setup(state)) if setup is not None else None
        self._state = state if changed is None else changed

    async def step(self, text: str) -> Observation:
        raise AssertionError("its tools are called by name")

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        environment = self._once.get()
        definitions = {tool.name: tool for tool in map(_tool_of, environment.tool_defs)}
        if name not in definitions:
            raise ToolError(f"there is no tool {name}")
        given = _typed(arguments, definitions[name].schema["function"]["parameters"])
        self._num_calls += 1
        try:
            update = getattr(environment, "update_tool_args", None)
            if update is not None:
                given = await awaited(update(name, given, [], self._state))
            message = await awaited(environment.call_tool(name, given, f"call_{self._num_calls}"))
        except Exception as error:  # noqa: BLE001  it is the environment that says how an error reads
            return Result(name, str(environment.error_formatter(error)), "error")
        content = message["content"] if isinstance(message, Mapping) else message.content
        return Result(name, as_text(content))

    async def worth(self) -> Observation:
        return Observation()

    async def close(self) -> None:
        return None


def _typed(arguments: Mapping[str, Any] | str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; text is read as JSON where the schema wants something else."""
    properties = parameters.get("properties", {})
    if isinstance(arguments, str):
        arguments = {next(iter(properties), "text"): arguments}
    return {name: _read(value, properties.get(name, {})) for name, value in arguments.items()}


def _read(value: Any, schema: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or schema.get("type") not in _BY_JSON:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
