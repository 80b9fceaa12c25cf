"""The rows in a JSON document that is read as a whole: an array of objects, or an object that holds one.

| document | rows |
|---|---|
| ``[{...}, ...]`` | its items; a list of messages becomes the column ``messages`` |
| ``{"data": [...]}``, ``{"train": [...], "test": [...]}`` | the items of that entry, of the split that is asked for |
| ``{"any name alone": [...]}`` | the items of its only entry |
| ``{"prompt": [...], "answer": [...]}`` | one for each place in the lists |
| ``{"columns": [...], "data": [[...]]}``, ``{"prompt": {"0": ...}}``, ``{"0": {...}}`` | as pandas writes them |
| any other object | the one row |

How files are found and opened is up to ``readers``.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

__all__ = ["DocumentError", "document_rows", "row_of"]

Row = dict[str, Any]
WRAPPERS = (
    "data", "rows", "examples", "instances", "records", "items", "questions", "problems", "samples",
)  # fmt: skip
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


class DocumentError(ValueError):
    """A JSON document holds no rows; the message follows the file's name."""


def row_of(value: Any) -> Row | None:
    """`value` as a row: an object, or a conversation as the column ``messages``; None for anything else."""
    if isinstance(value, dict):
        return value
    return {"messages": value} if _is_conversation(value) else None


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns, each with its speaker under ``role`` or ``from``."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)


def document_rows(document: Any, split: str) -> tuple[Sequence[Row], bool]:
    """(the rows of a document, whether its entries are splits of which `split` was taken).

    Raises `DocumentError`.
    """
    if isinstance(document, list):
        return _rows(document), False
    if not isinstance(document, dict):
        raise DocumentError("holds neither objects nor an array of them")
    splits = [name for name in SPLITS if _is_table(document.get(name))]
    if _is_table(document.get(split)) and split not in WRAPPERS:
        return _rows_of_entry(document[split]), True
    if splits:
        raise DocumentError(f"has no rows under {split}; set data.split to {' or '.join(splits)}")
    return _rows_of_object(document), False


def _is_table(value: Any) -> bool:
    """Whether a value can hold rows: a list of objects, or an object of columns."""
    if isinstance(value, list):
        return bool(value) and all(row_of(item) is not None for item in value)
    return isinstance(value, dict) and _columns(value) is not None


def _is_list_of_rows(value: Any) -> bool:
    """Whether the only entry of an object can be its rows: a list of objects, and no conversation."""
    return isinstance(value, list) and _is_table(value) and not _is_conversation(value)


def _rows_of_entry(value: Any) -> list[Row]:
    return _rows(value) if isinstance(value, list) else _rows_of_object(value)


def _rows_of_object(document: dict[str, Any]) -> list[Row]:
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        names = document["columns"]
        return [dict(zip(names, values)) for values in document["data"]]
    wrapped = [name for name in WRAPPERS if _is_table(document.get(name))]
    if len(wrapped) > 1:
        raise DocumentError(f"holds several lists of rows ({', '.join(wrapped)}); keep one of them")
    if wrapped:
        return _rows_of_entry(document[wrapped[0]])
    if len(document) == 1 and _is_list_of_rows(next(iter(document.values()))):
        return _rows(next(iter(document.values())))
    columns = _columns(document)
    if columns is not None:
        return [dict(zip(columns, values)) for values in zip(*columns.values())]
    return list(document.values()) if _is_index(document) else [document]


def _columns(document: Mapping[str, Any]) -> dict[str, Sequence[Any]] | None:
    """The columns of an object that holds a list, or pandas' mapping from row numbers, for each; else None."""
    if len(document) < 2:
        return None
    values = list(document.values())
    if all(isinstance(value, list) for value in values):
        same_length = len({len(value) for value in values}) == 1
        return dict(document) if same_length and not any(map(_is_conversation, values)) else None
    if not all(isinstance(value, dict) and value for value in values):
        return None
    numbers = list(values[0])
    is_numbered = all(name.isdigit() for name in numbers)
    if not is_numbered or any(list(value) != numbers for value in values):
        return None
    return {name: list(value.values()) for name, value in document.items()}


def _is_index(document: Mapping[str, Any]) -> bool:
    """Whether an object maps names to rows: all its entries are objects with the same keys."""
    values = list(document.values())
    if len(values) < 2 or not all(isinstance(value, dict) and value for value in values):
        return False
    return all(value.keys() == values[0].keys() for value in values)


def _rows(items: Sequence[Any]) -> list[Row]:
    rows = []
    for number, item in enumerate(items, 1):
        row = row_of(item)
        if row is None:
            raise DocumentError(f"holds {type(item).__name__} as item {number}, not an object")
        rows.append(row)
    if rows and all({"row_idx", "row"} <= row.keys() for row in rows):
        return [row["row"] for row in rows]
    return rows
