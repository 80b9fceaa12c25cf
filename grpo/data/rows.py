"""The rows of a data set as a run takes them: under the recipe's column names, selected, their prompts checked.

How a source is read is up to ``reading``, what ``data.columns`` means to ``columns``, which turns of a conversation are
shown to ``conversation``. How a row becomes a prompt of tokens is up to ``prompts``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping

from grpo.data.columns import rename_columns
from grpo.data.conversation import LeftOut, shown_prompt
from grpo.data.leaks import check_leaks
from grpo.data.reading import read_source
from grpo.data.where import matching
from grpo.monitor.redaction import redacted
from grpo.recipe import RowsSection

Row = dict[str, Any]
Report = Callable[[str], None]
"""Receives a sentence on what was not taken as it stands."""


def to_standard_error(line: str) -> None:
    """Show a sentence on the terminal, beside a command's output; of several processes the first one does."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(redacted(line), file=sys.stderr)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRows:
    """The rows of a source, and how many did not match its ``where``."""

    rows: list[Row]
    num_left_out: int = 0


def load_rows(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> LoadedRows:
    """The data set's rows that match the section's ``where``, their columns renamed as its ``columns`` says.

    `given` rows in memory stand in for reading the source. Of a conversation that ends with the assistant's solution,
    that turn is left out. `report` gets a sentence on whatever was not taken as it stands. Raises `RecipeError` if the
    source cannot be read, has no rows, lacks a column or the text of a prompt, or if its prompts state their answers or
    lack the question.
    """

    def say(sentence: str) -> None:
        report(f"data: {sentence}")

    named = rename_columns(read_source(section, given, say), section, say)
    wanted = matching(named, section.where, section.label)
    left_out = LeftOut()
    numbers = {id(row): number for number, row in enumerate(named, 1)}
    for row in wanted:
        where = f"row {numbers[id(row)]} of {section.label}"
        row["prompt"] = shown_prompt(row["prompt"], where, section.template, left_out)
    if left_out.number:
        report(left_out.describe(len(wanted)))
    check_leaks(wanted, section)
    return LoadedRows(wanted, num_left_out=len(named) - len(wanted))
