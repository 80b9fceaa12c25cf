"""The rows of a data set under the recipe's column names, and the split into training and held-out rows.

Sources are data files (``rewards.readers``), data sets on the hub (``hub``) or saved by the package datasets, and the
procedural tasks of ``rewards.tasks``. What ``data.columns`` means is in ``columns``, what messages may look like in
``messages``. How a row becomes a prompt is up to ``prompts``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.data.columns import IN_MEMORY, rename_columns
from grpo.data.conversation import LeftOut, messages_in, question_turns
from grpo.data.hub import load_hub, not_provided
from grpo.data.leaks import check_leaks
from grpo.data.messages import readable_prompt
from grpo.data.where import matching
from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, RowsSection
from rewards.arrow_rows import has_json, rows_of_table
from rewards.readers import DEFAULT_SPLIT, READERS, DataFileError, can_read, read_rows
from rewards.spelling import nearest
from rewards.tasks import TASKS, held_out, load_task

Row = dict[str, Any]
Report = Callable[[str], None]
"""Receives a sentence on what was not taken as it stands."""
FILE = "a file"
SAVED_TO_DISK = ("dataset_dict.json", "state.json")
"""What is in a folder that datasets' ``save_to_disk`` wrote."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows as their source has them, and the commit of the hub that they are of, None for other sources."""

    rows: list[Row]
    revision: str | None = None


def to_standard_error(line: str) -> None:
    """Show a sentence on the terminal, beside a command's output; of several processes the first one does."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(redacted(line), file=sys.stderr)


# ---- reading ----------------------------------------------------------------------------------------------------


def load_rows(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> list[Row]:
    """The data set's rows, its columns renamed as ``columns`` says: `usable_rows` of `read_table`."""
    return usable_rows(read_table(section, given, report).rows, section, report)


def read_table(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> Table:
    """The data set's rows with its own columns; `given` rows in memory stand in for reading the source.

    `report` gets a sentence on whatever was not taken as it stands. Raises `RecipeError` if the source cannot be read
    or has no rows.
    """
    source = source_of(section, given)
    say = _saying(report)
    if given is None:
        table = _read(source, section, say)
    else:
        table = Table(rows_in_memory(given, say))
    if not table.rows:
        raise RecipeError(f"data: {source} holds no rows")
    return table


def usable_rows(
    rows: Sequence[Row], section: RowsSection, report: Report = to_standard_error
) -> list[Row]:
    """The rows of a table, its columns renamed as ``columns`` says, checked.

    Of a conversation that ends with the assistant's solution, that turn is left out. Rows that the section's ``where``
    leaves out are returned unchecked. `report` gets a sentence on whatever was not taken as it stands. Raises
    `RecipeError` if a column or the text of a prompt is missing, or if prompts state their answers or lack the
    question.
    """
    source = section.source or IN_MEMORY
    renamed = rename_columns(rows, section, _saying(report))
    left_out = LeftOut()
    wanted = matching(renamed, getattr(section, "where", {}), source)
    numbers = {id(row): number for number, row in enumerate(renamed, 1)}
    for row in wanted:
        number = numbers[id(row)]
        where = f"row {number} of {source}"
        row["prompt"] = readable_prompt(row["prompt"], where)
        if section.template in ("chat", "auto"):
            row["prompt"] = question_turns(row["prompt"], where, left_out)
        check_prompt(row["prompt"], where, section.template)
    if left_out.number:
        report(left_out.describe(len(wanted)))
    check_leaks(wanted, section)
    return renamed


def read_source(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
) -> list[Row]:
    """The rows of a section's source, or those `given`, under the data set's own names; `RecipeError` for none."""
    return read_table(section, given, report).rows


def source_of(section: RowsSection, given: Any = None) -> str:
    """What messages call the source of a section; `RecipeError` where it names none and no rows are `given`."""
    source = section.source or (IN_MEMORY if given is not None else None)
    if source is None:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    return source


def _saying(report: Report) -> Report:
    return lambda sentence: report(f"data: {sentence}")


def rows_in_memory(given: Any, report: Report = to_standard_error) -> list[Row]:
    """The rows of a list of mappings, a `datasets.Dataset`, a pandas or polars data frame, or a pyarrow table.

    Raises `RecipeError` for others.
    """
    if _is_dict_of_splits(given):
        raise RecipeError(
            f"data: the data in memory has the splits {', '.join(map(str, given))}; give one of them"
        )
    if hasattr(given, "with_format") and hasattr(given, "__len__"):
        return _rows_of(given, report)
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


def _read(source: str, section: RowsSection, report: Report) -> Table:
    if source in TASKS:
        _refuse_hub_keys(source, section, "a procedural task")
        return Table(_read_task(source, section))
    if section.args:
        raise RecipeError(
            f"recipe: data.args is for procedural tasks, and {source} is not one of {', '.join(TASKS)}; "
            f"take data.args out{nearest(source, TASKS)}"
        )
    if can_read(source):
        return Table(_read_file(source, section, report))
    path = Path(source)
    if path.is_file():
        raise RecipeError(
            f"data: {source} is not in a supported format; its name must end in {', '.join(READERS)}"
        )
    if any((path / name).is_file() for name in SAVED_TO_DISK):
        return Table(_read_saved(source, section, report))
    return _read_hub(source, section, report)


def _refuse_hub_keys(source: str, section: RowsSection, kind: str) -> None:
    """Refuse a subset and a revision, and a split of what has none."""
    if section.revision is not None:
        raise RecipeError(
            f"recipe: data.revision is {section.revision}, but {source} is {kind}, not a data set on the hub; take "
            "data.revision out"
        )
    if section.subset is not None:
        raise RecipeError(
            f"recipe: data.subset is {section.subset}, but {source} is {kind}, which has no "
            "configurations; take data.subset out"
        )
    if kind != FILE and section.split != DEFAULT_SPLIT:
        raise RecipeError(
            f"recipe: data.split is {section.split}, but {source} is {kind}, which has no splits; "
            "take data.split out"
        )


def _read_task(name: str, section: RowsSection) -> list[Row]:
    try:
        return load_task(name).rows(**section.args)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"recipe: data.args {dict(section.args)} does not suit {name}: {error}"
        ) from None


def _read_file(source: str, section: RowsSection, report: Report) -> list[Row]:
    _refuse_hub_keys(source, section, FILE)
    try:
        return read_rows(source, split=section.split, say=report)
    except DataFileError as error:
        raise RecipeError(f"data: {error}") from None


def _read_saved(source: str, section: RowsSection, report: Report) -> list[Row]:
    """A folder that ``save_to_disk`` of datasets wrote."""
    import datasets  # noqa: PLC0415  heavy, and only needed here

    saved = datasets.load_from_disk(source)
    if not isinstance(saved, datasets.DatasetDict):
        _refuse_hub_keys(source, section, "a saved data set without splits")
        return _rows_of(saved, report)
    _refuse_hub_keys(source, section, FILE)
    if section.split not in saved:
        raise RecipeError(
            f"data: {source} has no split {section.split}; set data.split to {' or '.join(saved)}"
        )
    return _rows_of(saved[section.split], report)


def _read_hub(source: str, section: RowsSection, report: Report) -> Table:
    dataset, commit = load_hub(source, section)
    try:
        rows = _rows_of(dataset, report)
    except Exception as error:  # noqa: BLE001  columns with images or sound want packages that may be missing
        raise not_provided(source, error) from None
    if commit is not None and commit != section.revision:
        report(
            f"{source} was read at commit {commit}; set data.revision to it to have the same rows again"
        )
    return Table(rows, commit)


def _rows_of(dataset: Any, report: Report) -> list[Row]:
    """The rows of a data set of the package datasets; columns of mixed types as they were written."""
    table = dataset.with_format("arrow")[:]
    return rows_of_table(table, report) if has_json(table.schema) else dataset.to_list()


# ---- prompts ----------------------------------------------------------------------------------------------------


def check_prompt(prompt: Any, where: str, template: str) -> None:
    """Refuse a prompt that is empty, not text, or not valid Unicode. Messages are for the chat template only."""
    if is_empty(prompt):
        raise RecipeError(f"data: the prompt in {where} is empty")
    is_messages = isinstance(prompt, list) and messages_in(prompt) is not None
    if is_messages and template in ("chat", "auto"):
        return
    if not isinstance(prompt, str):
        hint = ""
        if is_messages:
            hint = "; messages need data.template: chat"
        elif isinstance(prompt, list):
            hint = " and not a list of messages, each with role and content; name one item: prompt.0, say"
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
