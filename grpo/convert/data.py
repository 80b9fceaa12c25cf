"""Data sets of another trainer's configuration: one source or a mixture to train on, and sets to evaluate on.

TRL and verl lay their data sets end to end and shuffle the rows, so a source's share is its share of the rows.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.convert.values import Draft, rows_of
from grpo.recipe.shorthands import HELD_OUT

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file or a data set of the hub; ``share`` of its rows is used, ``columns`` are new names with the old ones."""

    source: str
    subset: str | None = None
    split: str | None = None
    share: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """Its keys in a recipe's source or evaluation set."""
        keys = {
            "source": self.source,
            "subset": self.subset,
            "split": self.split,
            "columns": dict(self.columns) or None,
        }
        return {name: value for name, value in keys.items() if value is not None}

    def rows(self) -> list[dict[str, Any]]:
        """Its rows under the new names of their columns too, if it is a file that is here; else none."""
        renamed = []
        for row in rows_of(self.source):
            new = {new: row[old] for new, old in self.columns.items() if old in row}
            renamed.append({**row, **new})
        return renamed

    def num_rows(self) -> int:
        """Its rows, if it is a file that is here; else 0."""
        return len(rows_of(self.source))


def set_training_data(draft: Draft, parts: Sequence[DataSet], *origin: str) -> None:
    """``data.source`` with its keys, or ``data.sources`` with weights in proportion to the rows."""
    if len(parts) == 1:
        for name, value in parts[0].keys().items():
            draft.set(f"data.{name}", value, *origin)
    else:
        draft.set("data.sources", _mixture(draft, parts), *origin)
    if any(part.share != 1 for part in parts):
        draft.lost[origin[0]] = (
            "the fraction of a data set became its weight: it is drawn that often, from all of its rows"
        )


def _mixture(draft: Draft, parts: Sequence[DataSet]) -> dict[str, Any]:
    sources = {name: part.keys() for name, part in zip(names_of(parts), parts)}
    counts = [part.num_rows() for part in parts]
    is_known = all(counts)
    for keys, part, count in zip(sources.values(), parts, counts):
        keys["weight"] = float(count * part.share) if is_known else part.share
    if not is_known:
        rows = "rows x fraction" if any(part.share != 1 for part in parts) else "number of rows"
        draft.to_do.append(
            f"data.sources: set each weight to the source's {rows}: the data sets were laid end to end, and what "
            "is not a file here could not be counted"
        )
    return sources


def set_evaluation_sets(
    draft: Draft, parts: Sequence[DataSet], *origin: str, **further: Any
) -> None:
    """``evaluate.sets`` with one set for each of `parts`; `further` keys hold for each."""
    given = {name: value for name, value in further.items() if value not in (None, {})}
    sets = {name: {**part.keys(), **deepcopy(given)} for name, part in zip(names_of(parts), parts)}
    draft.set("evaluate.sets", sets, *origin)


def names_of(parts: Sequence[DataSet]) -> list[str]:
    """A name for each data set, all different: its own, with its folder or subset if that tells it apart.

    >>> names_of([DataSet("data/gsm8k/train.parquet"), DataSet("data/math/train.parquet")])
    ['gsm8k_train', 'math_train']
    """
    short = [_name(part.source) for part in parts]
    longer = [_longer_name(part) for part in parts]
    names = short if len(set(short)) == len(parts) else longer
    if len(set(names)) == len(parts):
        return names
    return [f"{name}_{number}" for number, name in enumerate(names, 1)]


def _name(text: str) -> str:
    last = Path(text).name.split(".")[0]
    name = NOT_IN_NAMES.sub("_", last).strip("_-") or "rows"
    return f"{name}_rows" if name == HELD_OUT else name


def _longer_name(part: DataSet) -> str:
    if part.subset is not None:
        return f"{_name(part.source)}_{_name(part.subset)}"
    folder = Path(part.source).parent.name
    return f"{_name(folder)}_{_name(part.source)}" if folder else _name(part.source)
