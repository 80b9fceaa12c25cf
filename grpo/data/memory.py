"""Rows in memory, whatever kind of table holds them."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping

from grpo.data.hub import rows_of
from grpo.recipe import RecipeError


def rows_in_memory(given: Any, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a list of mappings, a `datasets.Dataset`, a pandas or polars data frame, or a pyarrow table.

    Raises `RecipeError` for others.
    """
    if _is_dict_of_splits(given):
        raise RecipeError(
            f"data: the data in memory has the splits {', '.join(map(str, given))}; give one of them"
        )
    if hasattr(given, "with_format") and hasattr(given, "__len__"):
        return rows_of(given, say)
    records = None if isinstance(given, (str, bytes)) else _records(given)
    if records is None or not hasattr(records, "__iter__"):
        raise RecipeError(
            f"data: the data in memory is {type(given).__name__}, not rows; a file is named in data.source"
        )
    rows = []
    for number, row in enumerate(records, 1):
        if not isinstance(row, Mapping):
            raise RecipeError(
                f"data: row {number} is {type(row).__name__}, not a mapping of columns"
            )
        rows.append({name: _plain(value) for name, value in row.items()})
    return rows


def _is_dict_of_splits(given: Any) -> bool:
    return isinstance(given, Mapping) and hasattr(given, "with_format")


def _records(given: Any) -> Iterable[Any]:
    """The rows of whatever kind of table `given` is; a stream of datasets gives them itself."""
    if hasattr(given, "with_format"):
        return given
    if hasattr(given, "to_pylist"):
        return given.to_pylist()
    if hasattr(given, "to_dicts"):
        return given.to_dicts()
    return given.to_dict("records") if hasattr(given, "to_dict") else given


def _plain(value: Any) -> Any:
    """`value` with arrays and numbers of numpy, as pandas reads lists from Parquet, as those of Python."""
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
