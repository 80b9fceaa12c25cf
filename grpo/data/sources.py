"""The sources of a run's rows: one data set or a mixture, each divided into rows that train and rows held out.

What the rows of one source are is up to ``rows``; in which proportion prompts are drawn is up to ``stream``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.data.kept_rows import kept_rows
from grpo.data.reading import Report, to_standard_error
from grpo.data.rows import LoadedRows, load_rows
from grpo.recipe import DataSection, RecipeError, RowsSection
from rewards.spelling import agree, many, nearest
from rewards.tasks import held_out

Rows = Sequence[Mapping[str, Any]]
Load = Callable[[RowsSection, "Iterable[Mapping[str, Any]] | None", Report], LoadedRows]
"""(a section, rows given in its place, what hears of changes) -> its rows, checked: `load_rows`, say."""
GivenRows = Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]]
"""Rows in memory: a list of mappings or a `datasets.Dataset`; for a mixture, such a thing for each source's name."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceRows:
    """The rows of one source: all of them, and divided into those that train and those held out.

    ``name`` is "" for a single source. Rows of a source with a name have it in the column ``source``, for ``when:
    {source: ...}``. ``num_left_out`` rows did not match its ``where``; ``weight`` is its share of a mixture.
    """

    name: str
    section: RowsSection
    train: Rows = ()
    held_out: Rows = ()
    rows: Sequence[dict[str, Any]] = ()
    num_left_out: int = 0
    weight: float = 1.0


# ---- loading ----------------------------------------------------------------------------------------------------


def load_sources(
    data: DataSection,
    given: GivenRows | None = None,
    *,
    folder: Path | None = None,
    report: Report = to_standard_error,
    load: Load = load_rows,
) -> list[SourceRows]:
    """Every source of `data`, divided; `given` rows in memory, or those kept in a run's `folder`, stand in for reading.

    `report` gets a sentence on what was changed in the rows; `load` reads one source. Raises `RecipeError`.
    """
    given_of = _given_by_source(data, given)
    sources = []
    for name, section in data.each().items():
        given_rows = given_of.get(name)
        loaded = None
        if given_rows is None and folder is not None:
            loaded = _kept(folder, section, name)
        loaded = loaded or load(section, given_rows, report)
        sources.append(_divided(source_of(name, section, loaded), section.held_out))
    return sources


def _kept(folder: Path, section: RowsSection, name: str) -> LoadedRows | None:
    """The rows that the run in this folder began with, if it kept them."""
    rows = kept_rows(folder, section, name)
    return None if rows is None else LoadedRows(rows)


def source_of(name: str, section: RowsSection, loaded: LoadedRows) -> SourceRows:
    """The rows of one source, not divided yet."""
    rows = loaded.rows
    if name:
        rows = [{**row, "source": name} for row in rows]
    return SourceRows(
        name=name,
        section=section,
        rows=rows,
        num_left_out=loaded.num_left_out,
        weight=getattr(section, "weight", 1.0),
    )


def _not_one_source(given: Mapping[str, Any]) -> str:
    names = ", ".join(map(str, given))
    if hasattr(given, "with_format"):
        first = next(iter(given), "train")
        return f"data: a DatasetDict of the splits {names} was given; choose one, e.g. data=dataset[{first!r}]"
    return (
        f"data: a mapping was given ({names}), but the recipe has no data.sources; give a list of rows, or name the "
        "sources: Recipe(data={'sources': {'first': {}, 'second': {'weight': 2.0}}})"
    )


def _given_by_source(
    data: DataSection, given: GivenRows | None
) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    if given is None:
        return {}
    if not data.sources:
        if isinstance(given, Mapping):
            raise RecipeError(_not_one_source(given))
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


# ---- dividing ---------------------------------------------------------------------------------------------------


def split_rows(rows: Sequence[dict[str, Any]], num_held_out: int) -> tuple[Rows, Rows]:
    """(training rows, held-out rows); the choice depends on the prompts alone, not on a seed.

    Raises `RecipeError` if nothing would be left to train on.
    """
    try:
        return held_out(rows, num_held_out)
    except ValueError as error:
        raise RecipeError(f"recipe: data.held_out: {error}") from None


def _divided(source: SourceRows, num_held_out: int) -> SourceRows:
    try:
        train, held = split_rows(source.rows, num_held_out)
    except RecipeError as error:
        where = f" (data.sources.{source.name})" if source.name else ""
        raise RecipeError(f"{error}{where}") from None
    return replace(source, train=train, held_out=held)


def check_enough_rows(sources: Sequence[SourceRows], num_rows_a_step: int, key: str) -> None:
    """Refuse a step that takes more rows than there are, of all sources or of one by its share.

    `key` is the recipe's for the number of rows that a step takes.
    """
    num_rows = sum(len(source.train) for source in sources)
    if num_rows < num_rows_a_step:
        raise RecipeError(
            f"recipe: {key} is {num_rows_a_step}, but only {many(num_rows, 'row')} {agree(num_rows, 'train')}; "
            f"lower {key} or data.held_out"
        )
    total = sum(source.weight for source in sources)
    for source in sources:
        share = math.ceil(num_rows_a_step * source.weight / total)
        if len(source.train) < share:
            raise RecipeError(
                f"recipe: data.sources.{source.name} has {many(len(source.train), 'row')} to train on, but its "
                f"share of a step is {many(share, 'prompt')}; lower its weight or {key}"
            )
