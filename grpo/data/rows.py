"""The rows of a data set under the recipe's column names, and the split into training and held-out rows.

Sources are data files (``rewards.readers``), data sets on the hub, and the procedural tasks of ``rewards.tasks``.
How a row becomes a prompt is up to ``prompts``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.data.conversation import LeftOut, question_turns
from grpo.data.leaks import check_leaks
from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, RowsSection
from rewards.readers import READERS, DataFileError, can_read, read_rows
from rewards.spelling import nearest
from rewards.tasks import TASKS, held_out, load_task

Row = dict[str, Any]
IN_MEMORY = "the data in memory"
"""What messages call rows that were passed from Python."""
Report = Callable[[str], None]
"""Receives a sentence on what was changed in the rows."""
MAX_REASON_LENGTH = 300  # characters of a hub client's error that are shown


def to_standard_error(line: str) -> None:
    """Show a sentence on the terminal, beside a command's output."""
    print(redacted(line), file=sys.stderr)


# ---- reading ----------------------------------------------------------------------------------------------------


def load_rows(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> list[Row]:
    """The data set's rows, its columns renamed as ``columns`` says.

    `given` rows in memory stand in for reading the source. Of a conversation that ends with the assistant's solution,
    that turn is left out; `report` gets a sentence about it. Raises `RecipeError` if the source cannot be read, has no
    rows, lacks a column or the text of a prompt, or if its prompts state their answers or lack the question.
    """
    source = section.source or (IN_MEMORY if given is not None else None)
    if source is None:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    rows = _read(source, section) if given is None else rows_in_memory(given)
    if not rows:
        raise RecipeError(f"data: {source} holds no rows")
    renamed = []
    left_out = LeftOut()
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {source}"
        renamed.append(rename_columns(row, where, section))
        if section.template in ("chat", "auto"):
            renamed[-1]["prompt"] = question_turns(renamed[-1]["prompt"], where, left_out)
        check_prompt(renamed[-1]["prompt"], where, section.template)
    if left_out.number:
        report(left_out.describe(len(rows)))
    check_leaks(renamed, section)
    return renamed


def rows_in_memory(given: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of a list of mappings, a `datasets.Dataset` or a pandas data frame; `RecipeError` for others."""
    if hasattr(given, "to_list"):
        given = given.to_list()
    elif hasattr(given, "to_dict"):
        given = given.to_dict("records")
    rows = []
    for number, row in enumerate(given, 1):
        if not isinstance(row, Mapping):
            raise RecipeError(
                f"data: row {number} is {type(row).__name__}, not a mapping of columns"
            )
        rows.append(dict(row))
    return rows


def _read(source: str, section: RowsSection) -> list[Row]:
    if source in TASKS:
        return _read_task(source, section)
    if section.args:
        raise RecipeError(
            f"recipe: data.args is for procedural tasks, and {source} is not one of {', '.join(TASKS)}; "
            f"take data.args out{nearest(source, TASKS)}"
        )
    if can_read(source):
        return _read_file(source)
    if Path(source).is_file():
        raise RecipeError(
            f"data: {source} is not in a supported format; its name must end in {', '.join(READERS)}"
        )
    return _read_hub(source, section)


def _read_task(name: str, section: RowsSection) -> list[Row]:
    try:
        return load_task(name).rows(**section.args)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"recipe: data.args {dict(section.args)} does not suit {name}: {error}"
        ) from None


def _read_file(source: str) -> list[Row]:
    try:
        return read_rows(source)
    except DataFileError as error:
        raise RecipeError(f"data: {error}") from None


def _read_hub(source: str, section: RowsSection) -> list[Row]:
    import datasets  # noqa: PLC0415  heavy, and only needed for data sets on the hub

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(source, section.subset, split=section.split).to_list()
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        raise RecipeError(
            f"data: {source} is not a file or task, and the hub does not provide it: "
            f"{reason[:MAX_REASON_LENGTH]}{nearest(source, TASKS)}"
        ) from None


# ---- columns ----------------------------------------------------------------------------------------------------


def rename_columns(row: Row, where: str, section: RowsSection) -> Row:
    """`row` with the columns of ``data.columns`` added under their new names; `where` names it in errors."""
    renamed = dict(row)
    for name, column in section.columns.items():
        if column in row:
            renamed[name] = row[column]
        elif "{" in column:
            renamed[name] = _fill(column, row, where, name)
        else:
            raise _missing_column(column, row, where, name)
    if "prompt" not in renamed and isinstance(renamed.get("messages"), list):
        renamed["prompt"] = renamed["messages"]
    if "prompt" not in renamed:
        raise RecipeError(
            f"data: {where} has no column prompt; its columns are {', '.join(map(str, row))}; "
            "set data.columns.prompt to one of them"
        )
    return renamed


def _fill(pattern: str, row: Row, where: str, name: str) -> str:
    """`pattern` with each ``{column}`` in it replaced by the text of that column."""

    def text_of(match: re.Match[str]) -> str:
        column = match[1]
        if column not in row:
            raise _missing_column(column, row, where, name)
        return str(row[column])

    return re.sub(r"\{([^{}]+)\}", text_of, pattern)


def _missing_column(column: str, row: Row, where: str, name: str) -> RecipeError:
    return RecipeError(
        f"data: {where} has no column {column}, which data.columns.{name} names; its columns are "
        f"{', '.join(map(str, row))}"
    )


def check_prompt(prompt: Any, where: str, template: str) -> None:
    """Refuse a prompt that is empty, not text, or not valid Unicode. Messages are for the chat template only."""
    if is_empty(prompt):
        raise RecipeError(f"data: the prompt in {where} is empty")
    is_messages = isinstance(prompt, list)
    if is_messages and template in ("chat", "auto"):
        return
    if not isinstance(prompt, str):
        hint = "; messages need data.template: chat" if is_messages else ""
        raise RecipeError(f"data: the prompt in {where} is {type(prompt).__name__}, not text{hint}")
    if has_lone_surrogate(prompt):
        raise RecipeError(
            f"data: the prompt in {where} holds half a character (a lone surrogate); fix the text"
        )


def is_empty(prompt: Any) -> bool:
    """Whether a prompt has no content: None, no messages, or blank text."""
    if isinstance(prompt, str):
        return not prompt.strip()
    return prompt is None or prompt == []


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` holds half of a UTF-16 pair, which no tokenizer can encode."""
    if text.isprintable():
        return False
    return any("\ud800" <= letter <= "\udfff" for letter in text)


# ---- held-out rows ----------------------------------------------------------------------------------------------


def split_rows(rows: Sequence[Row], num_held_out: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows); the choice depends on the prompts alone, not on a seed.

    Raises `RecipeError` if nothing would be left to train on.
    """
    try:
        return held_out(rows, num_held_out)
    except ValueError as error:
        raise RecipeError(f"recipe: data.held_out: {error}") from None
