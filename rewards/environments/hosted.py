"""What a person names as a tool or an environment: how it is found, which tools it offers, and how a `Talk` is made."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from rewards.environments.adapters import ADAPTERS, Adapter
from rewards.environments.talks import Answering, OneTool, Talk, class_made_by
from rewards.environments.tools import Tool, tool_of
from rewards.own_modules import Sources
from rewards.table import load

__all__ = ["Hosted", "Offered", "maker_of", "offered_by", "root_of", "tool_named"]


@dataclass(frozen=True, slots=True)
class Hosted:
    """One tool or environment: where it is found, and what it is made with.

    ``use`` is text that a worker process can resolve, or the object itself, for what exists in this process only.
    ``sources`` is what the user's files held when the pool was made: a worker that starts later runs that.
    """

    use: str | Callable[..., Any]
    is_tool: bool
    args: Mapping[str, Any] = field(default_factory=dict)
    base_dir: str | None = None
    sources: Sources | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this process has it."""
        return not isinstance(self.use, str)


@dataclass(frozen=True, slots=True)
class Offered:
    """What an environment offers by name; no ``tools`` where it answers texts. ``gives_reward``: its turns have one."""

    tools: Sequence[Tool] = ()
    gives_reward: bool = False


def maker_of(hosted: Hosted) -> Callable[[], Talk]:
    """How the other side of a completion is made; `ValueError`, in a sentence, for what can be none."""
    if hosted.is_tool:
        return functools.partial(OneTool, tool_named(hosted))
    loaded = _loaded(hosted)
    made = class_made_by(loaded)
    adapter = _adapter_of(made)
    if adapter is not None:
        return adapter.talks(loaded, hosted.args)
    if not (hasattr(made, "reset") and hasattr(made, "step")):
        raise ValueError(
            f"environment {hosted.use}: {made.__name__} has no methods reset and step, and none that are tools"
        )
    _check_args(loaded, hosted)
    return functools.partial(Answering, loaded, hosted.args)


def _check_args(maker: Any, hosted: Hosted) -> None:
    """Refuse arguments that the maker of an environment does not take, or misses."""
    try:
        signature = inspect.signature(maker)
    except ValueError:
        return  # made by what is not written in Python
    try:
        signature.bind(**hosted.args)
    except TypeError as error:
        raise ValueError(f"environment.args: {_shown(hosted.use)}{signature}: {error}") from None


def _shown(use: str | Callable[..., Any]) -> str:
    """The name of what is made."""
    return use.rpartition(":")[2] if isinstance(use, str) else getattr(use, "__name__", str(use))


def tool_named(hosted: Hosted) -> Tool:
    """The function as a tool."""
    if not isinstance(hosted.use, str) and not callable(hosted.use):
        return tool_of(hosted.use)  # which says what is wrong
    loaded: Any = _loaded(hosted)
    return loaded if isinstance(loaded, Tool) else tool_of(loaded)


def offered_by(hosted: Hosted) -> Offered:
    """What an environment offers by name."""
    loaded = _loaded(hosted)
    made = class_made_by(loaded)
    adapter = _adapter_of(made)
    if adapter is None:
        return Offered()
    return Offered(tuple(adapter.tools_of(loaded, hosted.args)), adapter.gives_reward(made))


def _loaded(hosted: Hosted) -> Any:
    noun = "tool" if hosted.is_tool else "environment"
    try:
        return load(hosted.use, base_dir=hosted.base_dir, sources=hosted.sources)
    except ValueError as error:
        raise ValueError(f"{noun} {str(error).removeprefix('reward ')}") from error


def _adapter_of(made: type) -> Adapter | None:
    return next((adapter for adapter in ADAPTERS if adapter.fits(made)), None)


def root_of(base_dir: str | Path | None) -> str:
    """The folder that paths in ``use`` are relative to."""
    return str(Path(base_dir or ".").resolve())
