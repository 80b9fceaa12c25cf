"""Rows of an Arrow table, with the columns that hold JSON (``arrow.json``) decoded as their values were written.

datasets 5 stores a column of mixed types as JSON: a text that happens to be JSON (``007``, ``[0, 1]``) stands there as
it was, any other text in quotes, a number like a text of digits. Decoding everything would change the texts. So where a
column holds text, whatever is not an object or a list of objects is read as text again.
"""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any, Callable, Mapping, Sequence

from rewards.spelling import agree, many

__all__ = ["has_json", "rows_of_table"]

Row = dict[str, Any]
Path = tuple[str | None, ...]
"""The names that lead to a value; None stands for the items of a list."""
JSON_TYPE = "arrow.json"


def has_json(schema: Any) -> bool:
    """Whether a ``pyarrow.Schema`` has a column, or a part of one, of the type ``arrow.json``."""
    return any(_paths(field) for field in schema)


def rows_of_table(table: Any, say: Callable[[str], None]) -> list[Row]:
    """The rows of a ``pyarrow.Table``; `say` receives a sentence for each column whose values are text again."""
    rows = table.to_pylist()
    for field in table.schema:
        for path in _paths(field):
            rows = _decoded(rows, path, say)
        if _is_written_as_text(field.type):
            rows = [{**row, field.name: _as_text(row[field.name])} for row in rows]
    return rows


def _is_written_as_text(kind: Any) -> bool:
    import pyarrow.types as types  # noqa: PLC0415  heavy, and loaded where there is a table

    return types.is_temporal(kind) or types.is_decimal(kind)


def _as_text(value: Any) -> Any:
    """A date, a time or a decimal number as the text it is written as."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value) if isinstance(value, (decimal.Decimal, datetime.timedelta)) else value


def _paths(field: Any) -> list[Path]:
    """Where a field holds JSON."""
    metadata = field.metadata or {}
    name = getattr(field.type, "extension_name", metadata.get(b"ARROW:extension:name"))
    if name in (JSON_TYPE, JSON_TYPE.encode()):
        return [(field.name,)]
    return [(field.name, *path) for path in _inner_paths(field.type)]


def _inner_paths(kind: Any) -> list[Path]:
    import pyarrow.types as types  # noqa: PLC0415  heavy, and loaded where there is a table

    paths: list[Path] = []
    if types.is_struct(kind):
        for field in kind:
            paths += _paths(field)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        paths += [(None, *path[1:]) for path in _paths(kind.value_field)]
    return paths


def _decoded(rows: Sequence[Row], path: Path, say: Callable[[str], None]) -> list[Row]:
    raws: list[str] = []
    for row in rows:
        _changed(row, path, raws.append)
    is_text = path[-1] is not None and _holds_text(raws)
    num_again = sum(not raw.lstrip().startswith('"') for raw in raws if not _is_structure(raw))
    if is_text and num_again:
        column = ".".join(name for name in path if name is not None)
        say(
            f"the column {column} has mixed types, which were stored as JSON: {num_again} of its "
            f"{many(len(raws), 'value')} (numbers, true, lists) {agree(len(raws), 'are')} read as the text in the file"
        )
    return [_changed(row, path, _text if is_text else _loaded) for row in rows]


def _changed(value: Any, path: Path, change: Callable[[str], Any]) -> Any:
    """`value` with what `path` leads to changed."""
    if value is None:
        return None
    if not path:
        return change(value)
    name, *rest = path
    if name is None:
        return [_changed(item, tuple(rest), change) for item in value]
    return {**value, name: _changed(value.get(name), tuple(rest), change)}


def _holds_text(raws: Sequence[str]) -> bool:
    """Whether a column has text, or values of several kinds, which only texts and numbers side by side can be."""
    kinds = {_kind(raw) for raw in raws} - {"structure"}
    return "text" in kinds or len(kinds) > 1


def _kind(raw: str) -> str:
    if _is_structure(raw):
        return "structure"
    value = _loaded(raw)
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, list)) or value is None:
        return type(value).__name__
    return "number"


def _is_structure(raw: str) -> bool:
    """Whether JSON is an object or a list of objects, which no text of a data set stands for."""
    value = _loaded(raw)
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _loaded(raw: str) -> Any:
    """The value of JSON; the text itself where it is none, like the number 007."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def _text(raw: str) -> Any:
    value = _loaded(raw)
    return value if isinstance(value, str) or _is_structure(raw) else raw
