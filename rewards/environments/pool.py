"""Many environments at once: who runs them, under which deadline, and what follows when one is stuck or dies.

(The interface; the body follows.)
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, Hashable, Mapping, Sequence

from rewards.environments.types import EnvironmentSpec, Observation
from rewards.sandbox import SandboxOptions

__all__ = ["EnvironmentPool"]


class EnvironmentPool:
    """The other side of many completions; any thread may use it, and its futures never raise for what a tool did.

    Raises `ValueError` for a tool or environment that cannot be loaded, and where the call format does not fit the
    tools. ``spec.format`` is a format's name; ``auto`` is refused here where there are tools: resolve it first
    (``format_of(spec.format, chat_template).name``).
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        base_dir: str | Path | None = None,
        sandbox: SandboxOptions | None = None,
    ) -> None:
        raise NotImplementedError

    def open(
        self, key: Hashable, row: Mapping[str, Any], texts: Sequence[str] = ()
    ) -> Future[Observation | None]:
        """Begin a session with a row, then play ``texts`` again, whose observations are not told.

        The future has what is observed behind the prompt, None where that is nothing. It has status ``died`` or
        ``timeout``, and `done`, where the environment could not begin. `step` may be called at once: it waits for this.
        """
        raise NotImplementedError

    def step(self, key: Hashable, text: str) -> Future[Observation]:
        """Answer the text of one turn; the turns of a session are answered in order.

        ``done`` where the environment says so, or where there are only tools and the turn calls none.
        """
        raise NotImplementedError

    def forget(self, key: Hashable) -> None:
        """End a session; an answer still on its way is dropped, its future cancelled."""
        raise NotImplementedError

    def schemas(self) -> list[dict[str, Any]]:
        """The tools for a chat template's ``tools``; empty where the environment offers none by name."""
        raise NotImplementedError

    def try_tools(self, row: Mapping[str, Any]) -> dict[str, Observation]:
        """Call each tool once with arguments made from its schema, for a check before a run: name -> what it gave."""
        raise NotImplementedError

    def describe(self) -> list[str]:
        """What waits where, in lines for a log."""
        raise NotImplementedError

    def close(self) -> None:
        """Kill and reap the workers; what waits is cancelled."""
        raise NotImplementedError
