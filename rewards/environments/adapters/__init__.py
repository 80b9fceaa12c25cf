"""Environments as they are written for other libraries; none of those has to be installed here to import this.

Each adapter says whether a class is one of its own (`fits`), which tools it offers, and makes a `Talk` of it.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Protocol, Sequence

from rewards.environments.adapters.openenv import OpenEnvAdapter
from rewards.environments.adapters.trl import TrlAdapter
from rewards.environments.adapters.verifiers import VerifiersAdapter
from rewards.environments.talks import Talk
from rewards.environments.tools import Tool

__all__ = ["ADAPTERS", "Adapter"]


class Adapter(Protocol):
    """One library's environments."""

    def fits(self, made: type) -> bool: ...

    def tools_of(self, maker: Any, args: Mapping[str, Any]) -> Sequence[Tool]: ...

    def gives_reward(self, made: type) -> bool: ...

    def talks(self, maker: Any, args: Mapping[str, Any]) -> Callable[[], Talk]: ...


ADAPTERS: tuple[Adapter, ...] = (VerifiersAdapter(), OpenEnvAdapter(), TrlAdapter())
