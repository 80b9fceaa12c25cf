"""The nouns of scoring: a sample, its score, and the recipe entry that says which reward computes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

__all__ = ["STATUSES", "RewardSpec", "Sample", "Score"]

STATUSES = ("scored", "no_answer", "timeout", "not_applicable", "fault")


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one completion: a finite float, or None where nothing was judged.

    ``status`` is one of `STATUSES`: ``scored`` (a verdict), ``no_answer`` (nothing to judge, 0),
    ``timeout`` (the completion's own content exhausts the budget, 0), ``not_applicable`` (this part does
    not count for this row, None) and ``fault`` (the judge failed, None).
    ``parts`` holds named sub-scores, ``detail`` an explanation for people, and ``extracted`` the piece of the
    completion that was judged, if the reward extracts one.
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    status: str = "scored"
    detail: str = ""
    extracted: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as a reward sees it: its text, the row's columns, and where it came from.

    ``prompt`` is what the model was shown, rendered; ``group`` is the same for all completions of one prompt;
    ``finish`` is why the completion ended; ``turns`` are those that tools or an environment answered, each a mapping
    with the fields of `rewards.environments.Turn`.
    """

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    token_ids: Sequence[int] = ()
    group: str = ""
    finish: str | None = None
    turns: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One entry of a recipe's ``rewards``: which function, with which weight, arguments and conditions.

    ``use`` is a name from the table, ``package.module:function``, ``path/file.py:function`` or a callable.
    ``when`` maps a column to the value (or list of values) it must have for the reward to apply, and it applies
    ``from_step`` on.
    ``timeout_seconds`` bounds one call, counted from the start of its execution; None means the default of its
    kind, `rewards.table.default_timeout_seconds`. ``workers`` gives the reward that many processes of its own, for
    rewards that hold state or a model; None shares the common ones.
    """

    name: str
    use: str | Callable[..., Any]
    weight: float = 1.0
    args: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)
    style: str | None = None
    timeout_seconds: float | None = None
    workers: int | None = None
    from_step: int = 0
