"""Rewards: what a completion is worth. Knows nothing of training, torch or transformers.

A reward judges one completion: ``def reward(text: str, **columns) -> float | bool | None | Score``.
``text`` is what the policy wrote; the other parameters are the columns of the data set it wants.
This module holds the nouns and the table of built-in rewards; judging many completions in killable
worker processes is ``rewards.service``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, Mapping, Sequence

__all__ = ["RewardSpec", "Sample", "Score", "STATUSES"]

STATUSES = ("scored", "no_answer", "timeout", "not_applicable", "fault")
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one completion: a finite float, or None where nothing was judged.

    ``status`` is one of `STATUSES`: ``scored`` (a verdict), ``no_answer`` (nothing to judge, 0),
    ``timeout`` (the completion's own content exhausts the budget, 0), ``not_applicable`` (this part does
    not count for this row, None) and ``fault`` (the judge failed, None).
    ``parts`` holds named sub-scores; ``detail`` says what was found, in words.
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    status: str = "scored"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as a reward sees it: its text, the data set's columns, and where it came from."""

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    token_ids: Sequence[int] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One entry of a recipe's ``rewards``: which function, with what weight, arguments and conditions.

    ``use`` is a name from the table, ``package.module:function``, ``path/file.py:function`` or a callable.
    ``when`` maps a column to the value it must have for the reward to apply.
    """

    name: str
    use: str | Callable[..., Any]
    weight: float = 1.0
    args: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)
    style: str | None = None
    timeout_seconds: float = 10.0
