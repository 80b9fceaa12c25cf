"""The nouns of environments: an observation, the turn it belongs to, and the recipe entry that says who answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Mapping, Protocol, Sequence

__all__ = [
    "OBSERVATION_STATUSES",
    "Call",
    "Environment",
    "EnvironmentSpec",
    "Observation",
    "Result",
    "Turn",
]

OBSERVATION_STATUSES = ("ok", "error", "malformed", "refused", "timeout", "died")
"""What became of a turn: answered; the tool raised, and the policy reads its error; the call could not be read; it was
beyond the budget of calls; it overran its deadline; its process died."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the policy wrote: the tool's ``name`` and its ``arguments``.

    ``arguments`` are a mapping, or a text where the format has no names for them (``<calc>2 + 2</calc>``, a code
    block): the tool's only parameter, or the first.
    """

    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Result:
    """What one call gave: the ``text`` that the policy reads, and a status of `OBSERVATION_STATUSES`.

    ``name`` is the tool's; empty where no call could be read.
    """

    name: str
    text: str
    status: str = "ok"


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment answers to a turn of the policy.

    ``text`` is what the policy reads next. ``done`` ends the completion, and the text is then not read. ``reward`` is
    a finite float for this turn, None where it has none; ``parts`` are named sub-scores. ``status`` is one of
    `OBSERVATION_STATUSES`. ``results`` are those of the turn's calls, in their order, where tools answered: a call
    format writes them as the policy is to read them (`CallFormat.answer`), and ``text`` is their texts joined by
    newlines. Without results, ``text`` stands as it is.
    """

    text: str = ""
    done: bool = False
    reward: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    status: str = "ok"
    results: tuple[Result, ...] = ()

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the tools that the turn called."""
        return tuple(result.name for result in self.results if result.name)


class Environment(Protocol):
    """One conversation's other side; a new instance for each completion. Both methods may be ``async``.

    It has to be repeatable: the same row and the same texts give the same observations. A run that is resumed in
    the middle of a completion plays its turns again.
    """

    def reset(self, row: Mapping[str, Any]) -> Observation | None | Awaitable[Observation | None]:
        """Begin with a row of the data; what is observed, if anything, stands behind the prompt."""
        ...

    def step(self, text: str) -> Observation | Awaitable[Observation]:
        """Answer the text of one turn of the policy, without the token that ended it."""
        ...


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Who answers: the ``environment`` and ``tools`` of a recipe.

    ``use`` is a name from the table, ``package.module:Class``, ``path/file.py:Class`` or a callable that makes an
    `Environment`, with ``args``; None where the policy only calls ``tools``. Each of those is a name from the table
    (``python``, ``calculator``), ``package.module:function``, ``path/file.py:function`` or a function. ``format`` is
    how calls are written. ``timeout_seconds`` bounds one answer, from when it begins. ``workers`` processes hold the
    environments; None: one a core. ``max_bytes`` of an observation's text are kept.
    """

    use: str | Callable[..., Any] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[str | Callable[..., Any]] = ()
    format: str = "auto"
    timeout_seconds: float = 10.0
    workers: int | None = None
    max_bytes: int = 16_384


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the policy that was answered: the ``text`` it wrote and what it ``observed``.

    ``calls`` are the names of the tools that it called. ``observed`` is None where the completion ended instead.
    """

    text: str
    observed: str | None = None
    status: str = "ok"
    calls: tuple[str, ...] = ()
    reward: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, but for the seconds: they differ between two equal runs."""
        return {
            "text": self.text,
            "observed": self.observed,
            "status": self.status,
            "calls": list(self.calls),
            "reward": self.reward,
            "parts": dict(self.parts),
        }
