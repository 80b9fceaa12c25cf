"""The rows of a data set as a run takes them: under the recipe's column names, selected, their prompts checked.

How a source is read is up to ``reading``, what ``data.columns`` means to ``columns``, which turns of a conversation are
shown to ``conversation``. How a row becomes a prompt of tokens is up to ``prompts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

from grpo.data.columns import rename_columns
from grpo.data.conversation import LeftOut, shown_prompt
from grpo.data.leaks import check_leaks
from grpo.data.reading import Report, Row, on_data, read_table, to_standard_error
from grpo.data.where import matching
from grpo.recipe import RowsSection


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
    """The data set's rows as a run takes them: `usable_rows` of `read_table`."""
    return usable_rows(read_table(section, given, report).rows, section, report)


def usable_rows(
    rows: Sequence[Row], section: RowsSection, report: Report = to_standard_error
) -> LoadedRows:
    """The rows of a table that match the section's ``where``, their columns renamed as its ``columns`` says.

    Of a conversation that ends with the assistant's solution, that turn is left out. `report` gets a sentence on
    whatever was not taken as it stands. Raises `RecipeError` if a column or the text of a prompt is missing, or if
    prompts state their answers or lack the question.
    """
    named = rename_columns(rows, section, on_data(report))
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
