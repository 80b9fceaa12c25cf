"""The rows of one source as it holds them, whatever kind of source it is. A further kind is a row of `KINDS`.

What ``data.columns`` makes of their columns, and which rows are taken, is up to ``rows``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

from grpo.data.hub import is_saved, read_hub, read_saved
from grpo.data.memory import rows_in_memory
from grpo.recipe import RecipeError, RowsSection
from rewards.readers import DEFAULT_SPLIT, READERS, DataFileError, can_read, read_rows
from rewards.spelling import nearest
from rewards.tasks import TASKS, load_task

Row = dict[str, Any]
Say = Callable[[str], None]
"""Receives a sentence on what was not taken as it stands."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source: what messages call it, which sources are of it, and what reads one.

    ``has_splits`` and ``has_versions`` say whether ``data.split``, and ``data.subset`` and ``data.revision``, choose in
    it.
    """

    name: str
    holds: Callable[[str], bool]
    read: Callable[[RowsSection, Say], list[Row]]
    has_splits: bool = True
    has_versions: bool = False


def read_source(
    section: RowsSection, given: Iterable[Mapping[str, Any]] | None, say: Say
) -> list[Row]:
    """All rows of the source that `section` names; `given` rows in memory stand in for reading it.

    Raises `RecipeError` if it cannot be read or holds no rows.
    """
    source = section.source
    if given is not None:
        rows = rows_in_memory(given, say)
    elif source is not None:
        kind = next(kind for kind in KINDS if kind.holds(source))
        _refuse_other_keys(section, kind)
        rows = kind.read(section, say)
    else:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    if not rows:
        raise RecipeError(f"data: {section.label} holds no rows")
    return rows


def _refuse_other_keys(section: RowsSection, kind: Kind) -> None:
    """Refuse the keys that are for sources of another kind."""
    source = section.label
    if section.args and kind.name != TASK:
        raise RecipeError(
            f"recipe: data.args is for procedural tasks, and {source} is not one of {', '.join(TASKS)}; "
            f"take data.args out{nearest(source, TASKS)}"
        )
    if section.revision is not None and not kind.has_versions:
        raise RecipeError(
            f"recipe: data.revision is {section.revision}, but {source} is {kind.name}, not a data set on the hub; "
            "take data.revision out"
        )
    if section.subset is not None and not kind.has_versions:
        raise RecipeError(
            f"recipe: data.subset is {section.subset}, but {source} is {kind.name}, which has no "
            "configurations; take data.subset out"
        )
    if section.split != DEFAULT_SPLIT and not kind.has_splits:
        raise RecipeError(
            f"recipe: data.split is {section.split}, but {source} is {kind.name}, which has no splits; "
            "take data.split out"
        )


# ---- the kinds --------------------------------------------------------------------------------------------------


def _read_task(section: RowsSection, say: Say) -> list[Row]:
    try:
        return load_task(section.label).rows(**section.args)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"recipe: data.args {dict(section.args)} does not suit {section.label}: {error}"
        ) from None


def _read_file(section: RowsSection, say: Say) -> list[Row]:
    try:
        return read_rows(section.label, split=section.split, say=say)
    except DataFileError as error:
        raise RecipeError(f"data: {error}") from None


def _refuse_file(section: RowsSection, say: Say) -> list[Row]:
    raise RecipeError(
        f"data: {section.label} is not in a supported format; its name must end in {', '.join(READERS)}"
    )


TASK = "a procedural task"
KINDS = (
    Kind(TASK, TASKS.__contains__, _read_task, has_splits=False),
    Kind("a file", can_read, _read_file),
    Kind("a file of another format", lambda source: Path(source).is_file(), _refuse_file),
    Kind("a saved data set", is_saved, read_saved),
    Kind("a data set on the hub", lambda source: True, read_hub, has_versions=True),
)
"""The first that holds a source reads it."""
