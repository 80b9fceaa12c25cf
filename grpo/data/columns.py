"""What ``data.columns`` says: new names for columns, dotted paths into them, and texts put together from several.

Reading a data set is up to ``reading``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, Callable, Mapping, Sequence

from grpo.recipe import RecipeError, RowsSection
from rewards.conventions import as_mapping
from rewards.paths import MISSING, NotStructured, reach, structured

Row = dict[str, Any]
_FIELD = re.compile(r"\{([^{}]+)\}")
FIRST_LETTER = ord("A")
MOST_LETTERS = 26
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        "problem",
        "question",
        "query",
        "instruction",
        "messages",
        "conversations",
        "description",
        "question_content",
        "text",
        "input",
    ),
    "answer": (
        "ground_truth",
        "final_answer",
        "expected_answer",
        "gold",
        "answerkey",
        "answer_idx",
        "solution",
        "label",
        "target",
    ),
    "numbers": ("nums",),
    "task": ("source_dataset",),
}
"""Where public data sets keep what a column here is called, in lower case."""


def rename_columns(
    rows: Sequence[Row], section: RowsSection, say: Callable[[str], None]
) -> list[Row]:
    """`rows` with the columns of ``data.columns`` added under their new names.

    A path that leads somewhere in some rows only leaves the column out in the others; `say` receives a sentence with
    their number. Raises `RecipeError` for a column that is not there, named by its row.
    """
    reader = _Reader(section)
    renamed = [
        reader.renamed(row, f"row {number} of {section.label}")
        for number, row in enumerate(rows, 1)
    ]
    reader.report(len(rows), say)
    return renamed


class _Reader:
    """Renames row by row, and counts what was not found."""

    def __init__(self, section: RowsSection) -> None:
        self._section = section
        self._absent: Counter[str] = Counter()
        self._blank: Counter[str] = Counter()
        self._first_absent: dict[str, RecipeError] = {}

    def renamed(self, row: Row, where: str) -> Row:
        """`row` with the new columns added; `where` names it in errors."""
        renamed = dict(row)
        for name, column in self._section.columns.items():
            value = self._value(row, column, where, name)
            if value is not MISSING:
                renamed[name] = value
        if "prompt" not in renamed and isinstance(renamed.get("messages"), (list, str)):
            renamed["prompt"] = renamed["messages"]
        if "prompt" not in renamed:
            raise self._first_absent.get("prompt") or RecipeError(
                f"data: {where} has no column prompt; its columns are {', '.join(map(str, row))}; "
                f"set data.columns.prompt to one of them{_example(row)}"
            )
        return renamed

    def _value(self, row: Row, column: str, where: str, name: str) -> Any:
        if column in row:
            return row[column]
        if "{" in column:
            return self._filled(column, row, where, name)
        value = _reached(row, column, where, name)
        if value is MISSING:
            error = _missing_column(column, row, where, name)
            if "." not in column:
                raise error
            self._absent[name] += 1
            self._first_absent.setdefault(name, error)
        return value

    def _filled(self, pattern: str, row: Row, where: str, name: str) -> str:
        """`pattern` with each ``{column}`` or ``{column:form}`` in it replaced by the text of that column."""

        def text_of(match: re.Match[str]) -> str:
            column, form = _field_of(match[1], row)
            value = _reached(row, column, where, name)
            if value is MISSING:
                raise _missing_column(column, row, where, name)
            if _is_blank(value):
                self._blank[column] += 1
                return ""
            try:
                return FORMS[form](value)
            except ValueError as error:
                raise RecipeError(
                    f"data: {where}: {column}, which data.columns.{name} names, {error}"
                ) from None

        return _FIELD.sub(text_of, pattern)

    def report(self, num_rows: int, say: Callable[[str], None]) -> None:
        """Refuse a path that led nowhere in any row, and say how often others did."""
        for name, number in self._absent.items():
            if number == num_rows:
                raise self._first_absent[name]
            say(
                f"{number} of {num_rows} rows have no {self._section.columns[name]}: they have no "
                f"column {name}"
            )
        for column, number in self._blank.items():
            say(
                f"{number} of {num_rows} rows have no value in {column}, which is printed as nothing"
            )


def columns_in(pattern: str, row: Mapping[str, Any]) -> list[str]:
    """The columns and paths in a text's braces, without the forms they are printed in."""
    return [_field_of(name, row)[0] for name in _FIELD.findall(pattern)]


def _field_of(text: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """(the column or path, the form) that braces name."""
    column, colon, form = text.rpartition(":")
    if text in row or not colon or form not in FORMS:
        return text, ""
    return column, form


def _reached(row: Row, column: str, where: str, name: str) -> Any:
    try:
        return reach(row, column)
    except NotStructured as error:
        raise RecipeError(
            f"data: {where}: data.columns.{name} names {column}, but {error}; name the column itself"
        ) from None


def _missing_column(column: str, row: Row, where: str, name: str) -> RecipeError:
    return RecipeError(
        f"data: {where} has no column {column}, which data.columns.{name} names; its columns are "
        f"{', '.join(map(str, row))}"
    )


def _example(row: Row) -> str:
    found = likely_column(row, "prompt")
    return f": data.columns.prompt={found}" if found else ""


def likely_column(row: Mapping[str, Any], column: str) -> str:
    """The column of a row, or the path into one, that most likely holds what `column` is to be; or nothing."""
    names = (column, *USUAL_NAMES.get(column, ()))
    own = {str(name).lower(): str(name) for name in row}
    for name in names:
        if name in own:
            return own[name]
    for name in row:
        inner = as_mapping(row[name])
        if isinstance(inner, Mapping):
            found = next((key for key in names if inner.get(key) is not None), None)
            if found:
                return f"{name}.{found}"
    return ""


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


# ---- forms of a column inside a text ----------------------------------------------------------------------------


def letter(value: Any) -> str:
    """The letter of a choice that is counted from 0, as a number or its digits; a letter stays as it is."""
    text = str(value).strip()
    if text.isdecimal() and not isinstance(value, bool) and int(text) < MOST_LETTERS:
        return chr(FIRST_LETTER + int(text))
    if len(text) == 1 and text.isalpha() and text.isascii():
        return text.upper()
    raise ValueError(
        f"holds {value!r}, which is neither the number of a choice, from 0, nor a letter"
    )


def lettered(value: Any) -> str:
    """Choices as lines: ``A. first``. They may be a list, a mapping from letters, or ``label`` and ``text``."""
    if isinstance(value, str):
        try:
            value = structured(value)
        except NotStructured:
            value = None
    pairs = _labelled(value)
    if not pairs:
        raise ValueError("holds no list of choices")
    return "\n".join(f"{label}. {text}" for label, text in pairs)


def _labelled(choices: Any) -> list[tuple[str, Any]]:
    """(label, text) of each choice."""
    if isinstance(choices, Mapping):
        if {"label", "text"} <= choices.keys():
            return list(zip(choices["label"], choices["text"]))
        return [(str(label), text) for label, text in choices.items() if text is not None]
    if not isinstance(choices, (list, tuple)):
        return []
    if choices and all(isinstance(choice, Mapping) for choice in choices):
        return [(str(choice.get("label")), choice.get("text")) for choice in choices]
    return [(letter(number), choice) for number, choice in enumerate(choices)]


FORMS: Mapping[str, Callable[[Any], str]] = {"": str, "letter": letter, "lettered": lettered}
"""How a column is printed inside a text: ``{answer:letter}``, ``{choices:lettered}``."""
