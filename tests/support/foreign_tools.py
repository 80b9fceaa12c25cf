"""Environments in the shapes that TRL, verifiers and OpenEnv give them, without those libraries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from light_tools import Basket

Action = TypeVar("Action")
Observed = TypeVar("Observed")
State = TypeVar("State")


def baskets(size: int) -> Basket:
    """A factory, as TRL takes it."""
    basket = Basket()
    basket.size = size  # type: ignore[attr-defined]
    return basket


# ------------------------------------------------------------------------------------------ verifiers


def lookup(key: str, table: dict) -> str:
    """Looks a key up."""
    return str(table[key])


async def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


class StatefulToolEnv:
    """As verifiers 0.3 has it: hidden arguments come from the rollout's state."""

    num_made = 0

    def __init__(self, **kwargs: Any) -> None:
        type(self).num_made += 1
        self.tool_map = {"lookup": lookup, "double": double}
        key = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
        number = {"type": "object", "properties": {"number": {"type": "integer"}}}
        self.tool_defs = [
            SimpleNamespace(
                name="lookup", description="Looks a key up.", parameters=key, strict=None
            ),
            SimpleNamespace(name="double", description="Doubles.", parameters=number, strict=None),
        ]
        self.error_formatter = lambda error: f"failed: {type(error).__name__}"

    async def setup_state(self, state: dict) -> None:
        state["table"] = {"a": state["info"]["start"]}

    def update_tool_args(
        self, name: str, args: dict, messages: list, state: dict, **kwargs: Any
    ) -> dict:
        if name != "lookup":
            return args
        state["table"]["calls"] = state["table"].get("calls", 0) + 1
        return {**args, "table": state["table"]}

    async def call_tool(self, name: str, args: dict, call_id: str, **kwargs: Any) -> Any:
        value = self.tool_map[name](**args)
        return SimpleNamespace(
            role="tool", content=str(await value if asyncio.iscoroutine(value) else value)
        )

    async def env_response(self, messages: list, state: dict) -> list:
        raise AssertionError("it is asked call by call")


def load_environment(**kwargs: Any) -> StatefulToolEnv:
    return StatefulToolEnv(**kwargs)


# -------------------------------------------------------------------------------------------- OpenEnv


@dataclass
class Result:
    """As OpenEnv's StepResult."""

    observation: Any
    reward: float | None = None
    done: bool = False


class EnvClient(Generic[Action, Observed, State]):
    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def _step_payload(self, action: Any) -> dict:
        return {}

    def _parse_result(self, payload: dict) -> Any:
        return payload


class Message:
    """As a pydantic model with one required text."""

    model_fields = {
        "message": SimpleNamespace(annotation=str, is_required=lambda: True),
        "metadata": SimpleNamespace(annotation=dict, is_required=lambda: False),
    }

    def __init__(self, message: str) -> None:
        self.message = message


class Seen:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, mode: str) -> dict:
        return {**self.fields, "done": False, "reward": None, "metadata": {}}


class EchoClient(EnvClient[Message, Seen, dict]):
    """A session that echoes, and is closed."""

    async def reset(self, seed: int = 0) -> Result:
        self.number = seed
        return Result(Seen(echoed=f"{self.base_url} {seed}"))

    async def step(self, action: Message) -> Result:
        self.number += 1
        return Result(
            Seen(echoed=action.message, length=len(action.message)), 0.25, self.number == 9
        )

    async def close(self) -> None:
        with open(self.base_url, "a") as file:
            file.write("closed\n")


class AnyClient(EnvClient[dict[str, Any], dict, dict]):
    """As OpenEnv's GenericEnvClient, whose actions are mappings."""

    async def reset(self) -> Result:
        return Result({"screen": "ready"})

    async def step(self, action: dict) -> Result:
        return Result(dict(action), None, False)

    async def close(self) -> None:
        return None
