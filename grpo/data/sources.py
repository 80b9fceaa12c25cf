"""The sources of a run's rows: one data set or a mixture, each divided into rows that train and rows held out.

How one source is read is up to ``rows``; in which proportion prompts are drawn is up to ``mixture``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.data.columns import IN_MEMORY
from grpo.data.kept_rows import kept_rows
from grpo.data.rows import (
    Report,
    Row,
    load_rows,
    split_rows,
    to_standard_error,
)
from grpo.data.where import matching
from grpo.recipe import DataSection, RecipeError, RowsSection, SourceSection
from rewards.spelling import nearest

Rows = Sequence[Mapping[str, Any]]
Load = Callable[[RowsSection, "Iterable[Mapping[str, Any]] | None", Report], "list[Row]"]
"""(a section, rows given in its place, what hears of changes) -> its rows, checked: `load_rows`, say."""
GivenRows = Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]]
"""Rows in memory: a list of mappings or a `datasets.Dataset`; for a mixture, such a thing for each source's name."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceRows:
    """The rows of one source, in all, and divided. ``name`` is "" for a single one.

    ``num_left_out`` rows did not match its ``where``.
    In a mixture each row has the column ``source`` with the source's name, for ``when: {source: ...}``.
    """

    name: str
    section: RowsSection
    train: Rows = ()
    held_out: Rows = ()
    rows: Rows = ()
    num_left_out: int = 0
    weight: float = 1.0


def load_sources(
    data: DataSection,
    given: GivenRows | None = None,
    *,
    folder: Path | None = None,
    report: Report = to_standard_error,
    load: Load = load_rows,
) -> list[SourceRows]:
    """Every source of `data`; `given` rows in memory, or those kept in a run's `folder`, stand in for reading them.

    `report` gets a sentence on what was changed in the rows; `load` reads one source. Raises `RecipeError`.
    """
    given_of = _given_by_source(data, given)
    sources = []
    for name, section in data.each().items():
        rows = given_of.get(name)
        loaded = None
        if rows is None and folder is not None:
            loaded = kept_rows(folder, section, name)
        sources.append(_divided(name, section, loaded or load(section, rows, report)))
    return sources


def _divided(name: str, section: DataSection | SourceSection, loaded: list[Row]) -> SourceRows:
    rows = matching(loaded, section.where, section.source or IN_MEMORY)
    if name:
        rows = [{**row, "source": name} for row in rows]
    try:
        train, held_out = split_rows(rows, section.held_out)
    except RecipeError as error:
        raise RecipeError(f"{error} (data.sources.{name})" if name else str(error)) from None
    return SourceRows(
        name=name,
        section=section,
        train=train,
        held_out=held_out,
        num_left_out=len(loaded) - len(rows),
        rows=rows,
        weight=getattr(section, "weight", 1.0),
    )


def _given_by_source(
    data: DataSection, given: GivenRows | None
) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    if given is None:
        return {}
    if not data.sources:
        if isinstance(given, Mapping):
            raise RecipeError(
                "data: rows by source were given, but the recipe has no data.sources; give a list"
            )
        return {"": given}
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"data: the recipe mixes {', '.join(data.sources)}; give the rows of each by its name"
        )
    for name in given:
        if name not in data.sources:
            raise RecipeError(
                f"data: rows of {name} were given, which is not one of data.sources"
                f"{nearest(str(name), data.sources)}"
            )
    return given
