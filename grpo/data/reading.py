"""The rows of one source as it holds them: a file, a data set on the hub or saved, a procedural task, rows in memory.

What ``data.columns`` makes of their columns, and which rows are taken, is up to ``rows``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

from grpo.data.hub import is_saved, read_hub, read_saved, refuse_hub_keys
from grpo.data.memory import rows_in_memory
from grpo.recipe import RecipeError, RowsSection
from rewards.readers import READERS, DataFileError, can_read, read_rows
from rewards.spelling import nearest
from rewards.tasks import TASKS, load_task

Row = dict[str, Any]
Say = Callable[[str], None]
"""Receives a sentence on what was not taken as it stands."""


def read_source(
    section: RowsSection, given: Iterable[Mapping[str, Any]] | None, say: Say
) -> list[Row]:
    """All rows of the source that `section` names; `given` rows in memory stand in for reading it.

    Raises `RecipeError` if it cannot be read or holds no rows.
    """
    if given is not None:
        rows = rows_in_memory(given, say)
    elif section.source is None:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    elif section.source in TASKS:
        rows = _read_task(section)
    else:
        rows = _read_stored(section, say)
    if not rows:
        raise RecipeError(f"data: {section.label} holds no rows")
    return rows


def _read_task(section: RowsSection) -> list[Row]:
    refuse_hub_keys(section, "a procedural task", has_splits=False)
    try:
        return load_task(section.label).rows(**section.args)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"recipe: data.args {dict(section.args)} does not suit {section.label}: {error}"
        ) from None


def _read_stored(section: RowsSection, say: Say) -> list[Row]:
    """The rows of a file, a folder or a data set on the hub."""
    source = section.label
    if section.args:
        raise RecipeError(
            f"recipe: data.args is for procedural tasks, and {source} is not one of {', '.join(TASKS)}; "
            f"take data.args out{nearest(source, TASKS)}"
        )
    if can_read(source):
        return _read_file(section, say)
    if Path(source).is_file():
        raise RecipeError(
            f"data: {source} is not in a supported format; its name must end in {', '.join(READERS)}"
        )
    return read_saved(section, say) if is_saved(Path(source)) else read_hub(section, say)


def _read_file(section: RowsSection, say: Say) -> list[Row]:
    refuse_hub_keys(section, "a file", has_splits=True)
    try:
        return read_rows(section.label, split=section.split, say=say)
    except DataFileError as error:
        raise RecipeError(f"data: {error}") from None
