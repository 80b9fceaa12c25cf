"""Clients of OpenEnv servers: a WebSocket session for each completion, the text of a turn as the action.

A plain HTTP server of OpenEnv makes a new environment at every step, so only its client's sessions are of use, and the
server has to allow as many at once as completions are sampled at once (``max_concurrent_envs``).
"""

from __future__ import annotations

import json
import typing
from typing import Any, Callable, Mapping, Sequence

from rewards.environments.talks import Talk, as_observation, class_made_by
from rewards.environments.tools import Tool, as_text, awaited
from rewards.environments.types import Observation, Result

__all__ = ["OpenEnvAdapter"]

OWN_ARGS = ("action_field", "observation_fields", "reset_columns")
NOT_SHOWN = ("done", "reward", "metadata")


class OpenEnvAdapter:
    """Any class with ``_step_payload`` and ``_parse_result``: a subclass of OpenEnv's ``EnvClient``.

    ``args`` are the client's (``base_url``), and three of ours: ``action_field`` takes the policy's text (needed where
    the action has not just one text field without a default), ``observation_fields`` are shown (all but done, reward,
    metadata), and ``reset_columns`` of the row are handed to ``reset``.
    """

    def fits(self, made: type) -> bool:
        return hasattr(made, "_step_payload") and hasattr(made, "_parse_result")

    def tools_of(self, maker: Any, args: Mapping[str, Any]) -> Sequence[Tool]:
        return ()

    def gives_reward(self, made: type) -> bool:
        return False

    def talks(self, maker: Any, args: Mapping[str, Any]) -> Callable[[], Talk]:
        as_action = _action_maker(class_made_by(maker), args.get("action_field"))
        return lambda: OpenEnvTalk(maker, args, as_action)


def _action_maker(client: type, field: str | None) -> Callable[[str], Any]:
    """How a text becomes an action; `ValueError` where that cannot be told."""
    action = _action_class(client)
    if action is None:
        if field is None:
            raise ValueError(
                f"environment {client.__name__}: its actions are mappings; name the key that takes the text as "
                "environment.args.action_field"
            )
        return lambda text: {field: text}
    names = [field] if field is not None else _text_fields(action)
    if len(names) != 1:
        raise ValueError(
            f"environment {client.__name__}: {action.__name__} has {len(names)} required text fields; name the one "
            "that takes the text as environment.args.action_field"
        )
    return lambda text: action(**{names[0]: text})


def _action_class(client: type) -> Any:
    """The first parameter of ``EnvClient[Action, Observation, State]``; None for plain mappings."""
    for base in client.__mro__:
        for generic in vars(base).get("__orig_bases__", ()):
            found = typing.get_args(generic)
            if len(found) == 3 and isinstance(found[0], type):
                return found[0]
    return None


def _text_fields(action: Any) -> list[str]:
    fields = getattr(action, "model_fields", {})
    return [
        name for name, field in fields.items() if field.annotation is str and field.is_required()
    ]


class OpenEnvTalk:
    """One session."""

    def __init__(
        self, maker: Any, args: Mapping[str, Any], as_action: Callable[[str], Any]
    ) -> None:
        own = {name: args[name] for name in OWN_ARGS if name in args}
        self._maker = maker
        self._args = {name: value for name, value in args.items() if name not in OWN_ARGS}
        self._fields: Sequence[str] = own.get("observation_fields", ())
        self._columns: Sequence[str] = own.get("reset_columns", ())
        self._as_action = as_action
        self._client: Any = None

    def is_async(self, method: str, arguments: Sequence[Any]) -> bool:
        return True

    async def reset(self, row: Mapping[str, Any]) -> Observation:
        self._client = self._maker(**self._args)
        given = {name: row[name] for name in self._columns if name in row}
        return self._observation(await awaited(self._client.reset(**given)))

    async def step(self, text: str) -> Observation:
        return self._observation(await awaited(self._client.step(self._as_action(text))))

    def _observation(self, result: Any) -> Observation:
        reward = None if result.reward is None else float(result.reward)
        text = self._text(result.observation)
        return as_observation(Observation(text, done=bool(result.done), reward=reward), "OpenEnv")

    def _text(self, observation: Any) -> str:
        """The observation's only text, or its fields as JSON."""
        held = observation
        if hasattr(observation, "model_dump"):
            held = observation.model_dump(mode="json")
        if not isinstance(held, Mapping):
            return as_text(held)
        wanted = self._fields or [name for name in held if name not in NOT_SHOWN]
        shown = {name: held[name] for name in wanted if name in held}
        texts = [value for value in shown.values() if isinstance(value, str)]
        if len(shown) == 1 and texts:
            return texts[0]
        return json.dumps(shown, ensure_ascii=False, default=str)

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        raise AssertionError("it answers texts")

    async def worth(self) -> Observation:
        return Observation()

    async def close(self) -> None:
        if self._client is not None:
            await awaited(self._client.close())
