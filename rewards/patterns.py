"""What a recipe or a command names as a column: a column, a dotted path into one, or a text put together from several.

``{Body}. {Question}`` is filled with the columns or paths in braces; ``{choices:lettered}`` and ``{answer:letter}``
say how one is printed. What a missing column means is up to ``grpo.data.columns`` and ``rewards.check``.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Mapping

from rewards.paths import MISSING, NotStructured, reach, structured

__all__ = ["FORMS", "AbsentColumn", "UnfitValue", "fields_of", "named_value"]

_FIELD = re.compile(r"\{([^{}]+)\}")
FIRST_LETTER = ord("A")
MOST_LETTERS = 26


class AbsentColumn(ValueError):
    """A pattern names a column that the row does not have."""

    def __init__(self, column: str):
        super().__init__(column)
        self.column = column


class UnfitValue(ValueError):
    """A pattern prints a column in a form that its value does not have; the message follows the column's name."""

    def __init__(self, column: str, reason: str):
        super().__init__(f"{column} {reason}")
        self.column = column
        self.reason = reason


def _nothing(column: str) -> None:
    """A blank value is of no interest."""


def named_value(
    row: Mapping[str, Any], column: str, on_blank: Callable[[str], None] = _nothing
) -> Any:
    """What `column` names in `row`: a column, a path, or a pattern filled as text.

    Where a path leads nowhere it is `MISSING`. In a pattern a value that is None or NaN is printed as nothing, and
    `on_blank` receives its column. Raises `NotStructured`, for patterns `AbsentColumn` and `UnfitValue`.

    >>> named_value({"a": {"b": 2}, "n": 1}, "a.b"), named_value({"n": 1, "q": "Which?"}, "{q} {n:letter}")
    (2, 'Which? B')
    """
    if column in row or "{" not in column:
        return reach(row, column)

    def text_of(match: re.Match[str]) -> str:
        field, form = field_of(match[1], row)
        try:
            value = reach(row, field)
        except NotStructured as error:
            raise UnfitValue(field, f"leads into a text: {error}") from None
        if value is MISSING:
            raise AbsentColumn(field)
        if _is_blank(value):
            on_blank(field)
            return ""
        try:
            return FORMS[form](value)
        except ValueError as error:
            raise UnfitValue(field, str(error)) from None

    return _FIELD.sub(text_of, column)


def fields_of(pattern: str, row: Mapping[str, Any]) -> list[str]:
    """The columns and paths in the braces of a pattern, without the forms they are printed in."""
    return [field_of(name, row)[0] for name in _FIELD.findall(pattern)]


def field_of(text: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """(the column or path, the form) that braces name."""
    column, colon, form = text.rpartition(":")
    if text in row or not colon or form not in FORMS:
        return text, ""
    return column, form


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
