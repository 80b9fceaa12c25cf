"""What ``data.columns`` says: new names for columns, dotted paths into them, and texts put together from several.

Reading a data set is up to ``rows``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.recipe import RecipeError, RowsSection
from rewards.conventions import as_mapping
from rewards.paths import MISSING, NotStructured
from rewards.patterns import AbsentColumn, UnfitValue, named_value
from rewards.spelling import agree, many

Row = dict[str, Any]
IN_MEMORY = "the data in memory"
"""What messages call rows that were passed from Python."""
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
    "completion": (
        "response",
        "output",
        "solution",
        "answer",
        "generated_solution",
        "chosen",
        "target",
    ),
    "messages": ("conversations", "conversation", "dialogue"),
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
    rows: Sequence[Row],
    section: RowsSection,
    say: Callable[[str], None],
    *,
    needs_prompt: bool = True,
) -> list[Row]:
    """`rows` with the columns of ``data.columns`` added under their new names.

    A path that leads somewhere in some rows only leaves the column out in the others; `say` receives a sentence with
    their number. Raises `RecipeError` for a column that is not there, named by its row; unless `needs_prompt` is false,
    the column prompt has to be.
    """
    reader = _Reader(section, needs_prompt)
    source = section.source or IN_MEMORY
    renamed = [reader.renamed(row, f"row {i} of {source}") for i, row in enumerate(rows, 1)]
    reader.report(len(rows), say)
    return renamed


def columns_in_common(row: Row, known: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the `known` ``data.columns`` those that add most to a row: columns that it lacks under their new name."""
    return max((_added_to(row, columns) for columns in known), key=len, default={})


def _added_to(row: Row, columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: column
        for name, column in columns.items()
        if name not in row and _is_there(row, column)
    }


def _is_there(row: Row, column: Any) -> bool:
    try:
        return named_value(row, str(column)) is not MISSING
    except ValueError:
        return False


class _Reader:
    """Renames row by row, and counts what was not found."""

    def __init__(self, section: RowsSection, needs_prompt: bool) -> None:
        self._section = section
        self._needs_prompt = needs_prompt
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
        if not self._needs_prompt:
            return renamed
        if "prompt" not in renamed and isinstance(renamed.get("messages"), (list, str)):
            renamed["prompt"] = renamed["messages"]
        if "prompt" not in renamed:
            raise self._first_absent.get("prompt") or RecipeError(
                f"data: {where} has no column prompt; its columns are {', '.join(map(str, row))}; "
                f"set data.columns.prompt to one of them{_example(row)}"
            )
        return renamed

    def _value(self, row: Row, column: str, where: str, name: str) -> Any:
        try:
            value = named_value(row, column, self._count_blank)
        except AbsentColumn as error:
            raise _missing_column(error.column, row, where, name) from None
        except NotStructured as error:
            raise RecipeError(
                f"data: {where}: data.columns.{name} names {column}, but {error}; name the column itself"
            ) from None
        except UnfitValue as error:
            raise RecipeError(
                f"data: {where}: {error.column}, which data.columns.{name} names, {error.reason}"
            ) from None
        if value is MISSING:
            missing = _missing_column(column, row, where, name)
            if "." not in column:
                raise missing
            self._absent[name] += 1
            self._first_absent.setdefault(name, missing)
        return value

    def _count_blank(self, column: str) -> None:
        self._blank[column] += 1

    def report(self, num_rows: int, say: Callable[[str], None]) -> None:
        """Refuse a path that led nowhere in any row, and say how often others did."""
        for name, number in self._absent.items():
            if number == num_rows:
                raise self._first_absent[name]
            say(
                f"{number} of {many(num_rows, 'row')} {agree(number, 'have')} no "
                f"{self._section.columns[name]}, and so no "
                f"column {name}"
            )
        for column, number in self._blank.items():
            say(
                f"{number} of {many(num_rows, 'row')} {agree(number, 'have')} no value in {column}, which is "
                "printed as nothing"
            )


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
