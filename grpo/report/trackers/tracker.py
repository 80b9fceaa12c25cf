"""What a tracker is to a run: opened once a life, given points and tables in the order of their steps, closed.

Each tracker of the table in ``registry`` is one class with these methods. None of them knows of threads, of other
trackers, or of what is done when it fails: ``delivery`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Protocol, Sequence

COLUMNS = (
    "step",
    "prompt_id",
    "index",
    "prompt",
    "completion",
    "reward",
    "right",
    "advantage",
    "status",
    "finish",
    "num_tokens",
    "parts",
)
"""The columns of a table of completions."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a tracker is told when a life of a run begins.

    ``former`` is the id that the run had there in its last life, None if it is new. It may be continued if
    ``may_continue``: what it holds there is then just what the run folder holds. Otherwise the run begins there anew,
    and the former one may be deleted if ``may_delete``: it was this folder's, and its values are in the folder.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    tags: Sequence[str] = ()
    former: str | None = None
    may_continue: bool = False
    may_delete: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """Finite numbers of one step, by key; ``when`` is the time in seconds since 1970."""

    step: int
    values: Mapping[str, float]
    when: float


@dataclass(frozen=True, slots=True)
class Table:
    """Completions of a step: ``name`` is ``completions/train``, or that of an evaluation's set; a row has `COLUMNS`."""

    name: str
    step: int
    rows: Sequence[Sequence[str | float | None]]
    when: float


class Tracker(Protocol):
    """A run at one tracker. Any method may raise, and may then be called again with the same."""

    id: str
    """By which the run is found again there."""
    is_new: bool
    """Whether it holds nothing yet, so that it must be given the run's history."""
    where: str
    """How to look at it, in words; may be empty."""

    def log(self, points: Sequence[Point]) -> None:
        """Take points, none of an earlier step than what it has."""

    def table(self, table: Table) -> None:
        """Take a table."""

    def keep(self, files: Sequence[Path]) -> None:
        """Take files of the run folder as they are at its end."""

    def close(self, failed: bool) -> None:
        """Take what is left and mark the run as finished, or as failed."""
