"""The rows of one source as it holds them, whatever kind of source it is. A further kind is a row of `KINDS`.

What ``data.columns`` makes of their columns, and which rows are taken, is up to ``rows``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

from grpo.data.hub import Table, is_saved, read_hub, read_saved
from grpo.data.memory import rows_in_memory
from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, RowsSection
from rewards.readers import DEFAULT_SPLIT, READERS, DataFileError, can_read, read_rows
from rewards.spelling import nearest
from rewards.tasks import TASKS, load_task

Row = dict[str, Any]
Report = Callable[[str], None]
"""Receives a sentence on what was not taken as it stands."""


def to_standard_error(line: str) -> None:
    """Show a sentence on the terminal, beside a command's output; of several processes the first one does."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(redacted(line), file=sys.stderr)


def on_data(report: Report) -> Report:
    """What gives `report` sentences on data."""
    return lambda sentence: report(f"data: {sentence}")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source: what messages call it, which sources are of it, and what reads one.

    ``has_splits`` and ``has_versions`` say whether ``data.split``, and ``data.subset`` and ``data.revision``, choose in
    it.
    """

    name: str
    holds: Callable[[str], bool]
    read: Callable[[RowsSection, Report], Table]
    has_splits: bool = True
    has_versions: bool = False


def read_table(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> Table:
    """All rows of the source that `section` names, with its own columns; `given` rows in memory stand in for it.

    `report` gets a sentence on whatever was not taken as it stands. Raises `RecipeError` if the source cannot be read
    or holds no rows.
    """
    source = section.source
    say = on_data(report)
    if given is not None:
        table = Table(rows_in_memory(given, say))
    elif source is not None:
        kind = next(kind for kind in KINDS if kind.holds(source))
        _refuse_other_keys(section, kind)
        table = kind.read(section, say)
    else:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    if not table.rows:
        raise RecipeError(f"data: {section.label} holds no rows")
    return table


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


def _read_task(section: RowsSection, say: Report) -> Table:
    try:
        return Table(load_task(section.label).rows(**section.args))
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"recipe: data.args {dict(section.args)} does not suit {section.label}: {error}"
        ) from None


def _read_file(section: RowsSection, say: Report) -> Table:
    try:
        return Table(read_rows(section.label, split=section.split, say=say))
    except DataFileError as error:
        raise RecipeError(f"data: {error}") from None


def _refuse_file(section: RowsSection, say: Report) -> Table:
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
