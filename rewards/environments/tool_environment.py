"""An environment of tools: it reads the calls of a turn, runs them one after another, and answers with their results.

How calls are written is ``rewards.environments.formats``; where a tool runs is up to the tool.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence

from rewards.environments.formats import CallFormat, format_of
from rewards.environments.tools import cut, tool_of
from rewards.environments.types import OBSERVATION_STATUSES, Call, Environment, Observation, Result
from rewards.spelling import nearest

__all__ = ["Callee", "ToolEnvironment", "check_format", "joined"]


class Callee(Protocol):
    """What can be called in one completion."""

    @property
    def name(self) -> str: ...

    async def call(self, given: Mapping[str, Any] | str) -> Result: ...


class ToolEnvironment:
    """Answers the calls of a turn; one that calls nothing goes to ``inner``, and without one ends the completion.

    ``tools`` are functions, or what has a name and an async ``call``. ``max_bytes`` of a turn's results are kept.
    Raises `ValueError` for tools of one name, and where the format cannot call them.
    """

    def __init__(
        self,
        tools: Iterable[Callee | Callable[..., Any]],
        format: str | CallFormat,
        *,
        max_bytes: int = 16_384,
        inner: Environment | None = None,
    ) -> None:
        callees = [_callee(tool) for tool in tools]
        self._format = format_of(format) if isinstance(format, str) else format
        check_format(self._format, [tool.name for tool in callees])
        self._tools: dict[str, Callee] = {tool.name: tool for tool in callees}
        self._max_bytes = max_bytes
        self._inner = inner

    async def reset(self, row: Mapping[str, Any]) -> Observation | None:
        """Begin; what is observed is the inner environment's."""
        if self._inner is None:
            return None
        value: Any = self._inner.reset(row)
        return await value if inspect.isawaitable(value) else value

    async def step(self, text: str) -> Observation:
        """Answer one turn."""
        parsed = self._format.parse(text)
        if parsed.error:
            error = Result("", f"Error: the call cannot be read: {parsed.error}", "malformed")
            return joined([error])
        if parsed.calls:
            return await self._with_worth(joined(await self._results_of(parsed.calls)))
        if self._inner is None:
            return Observation(done=True)
        value: Any = self._inner.step(text)
        return await value if inspect.isawaitable(value) else value

    async def _with_worth(self, observation: Observation) -> Observation:
        """With the reward that the inner environment gives for calls, if it gives any."""
        worth = getattr(self._inner, "worth", None)
        if worth is None:
            return observation
        given = await worth()
        return replace(observation, reward=given.reward, parts=given.parts)

    async def _results_of(self, calls: Sequence[Call]) -> list[Result]:
        max_bytes = max(1, self._max_bytes // len(calls))
        results = []
        for call in calls:
            result = await self._result_of(call)
            results.append(replace(result, text=cut(result.text, max_bytes)))
        return results

    async def _result_of(self, call: Call) -> Result:
        tool = self._tools.get(call.name)
        if tool is None and isinstance(call.arguments, str) and len(self._tools) == 1:
            tool = next(iter(self._tools.values()))
        if tool is not None:
            return await tool.call(call.arguments)
        close = nearest(call.name, self._tools)
        known = ", ".join(self._tools)
        why = f"Error: there is no tool {call.name}{close}; there are {known}"
        return Result(call.name, why, "error")


def _callee(tool: Any) -> Callee:
    return tool if hasattr(tool, "call") else tool_of(tool)


def joined(results: Sequence[Result]) -> Observation:
    """The observation of a turn's results; its status is the gravest."""
    statuses = [result.status for result in results]
    return Observation(
        "\n".join(result.text for result in results),
        status=max(statuses, key=OBSERVATION_STATUSES.index),
        results=tuple(results),
    )


def check_format(call_format: CallFormat, names: Sequence[str]) -> None:
    """Refuse tools that the format cannot tell apart."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tools: {name} occurs twice")
    if not call_format.in_turn or len(names) < 2:
        return
    writes = call_format.parse(call_format.write(Call(names[0], "1"))).calls[0].name
    if writes not in names:
        raise ValueError(
            f"environment.format: {call_format.name} calls the tool {writes}, or the only one; found {', '.join(names)}"
        )
