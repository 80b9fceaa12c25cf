"""Rows for supervised training: what a row is (a prompt and its completion, a chat, a text), checked and spelt one way.

Reading and renaming are those of ``rows`` and ``columns``. How a row becomes tokens, and which of them are learnt, is
up to ``examples``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence

from grpo.data.columns import likely_column, rename_columns
from grpo.data.conversation import all_turns, messages_in
from grpo.data.messages import readable_prompt
from grpo.data.rows import (
    Report,
    Row,
    check_prompt,
    has_lone_surrogate,
    read_source,
    source_of,
    to_standard_error,
)
from grpo.data.where import matching
from grpo.recipe import RecipeError, RowsSection
from rewards.paths import NotStructured, structured

NEEDED = {"completion": ("prompt", "completion"), "chat": ("messages",), "text": ("text",)}
"""The columns that a row of each form has, in the order in which forms are looked for."""
FORM = "sft_form"
"""The column that says what a row is."""


def load_example_rows(
    section: RowsSection,
    given: Iterable[Mapping[str, Any]] | None = None,
    report: Report = to_standard_error,
    *,
    form: str = "auto",
) -> list[Row]:
    """The rows of a source for supervised training; `form` is ``sft.form``.

    Each has the column `FORM`, and ``prompt``: of a chat the turns before the assistant's last, of a text the text
    itself, so that what is held out follows from it. Messages have the keys and roles that chat templates know. Rows
    that the section's ``where`` leaves out are returned unchecked. Raises `RecipeError` for a source that cannot be
    read, and for a row that is not of the form.
    """
    source = source_of(section, given)
    rows = read_source(section, given, report)
    renamed = rename_columns(
        rows, section, lambda sentence: report(f"data: {sentence}"), needs_prompt=False
    )
    found = _form_of(renamed[0], source) if form == "auto" else form
    wanted = matching(renamed, section.where, source)
    numbers = {id(row): number for number, row in enumerate(renamed, 1)}
    for row in wanted:
        where = f"row {numbers[id(row)]} of {source}"
        _check_columns(row, found, where)
        READERS[found](row, _Place(where, section))
        row[FORM] = found
    return renamed


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands, for errors, and how its prompt is shown."""

    name: str
    section: RowsSection

    def refuse(self, reason: str) -> RecipeError:
        return RecipeError(f"data: {reason} in {self.name}")


def _form_of(row: Mapping[str, Any], source: str) -> str:
    """What a row seems to be by its columns."""
    for form, columns in NEEDED.items():
        if all(column in row for column in columns):
            return form
    turns = all_turns(messages_in(row.get("prompt")) or [], source)
    if any(turn["role"] == "assistant" for turn in turns):
        return "chat"
    raise RecipeError(
        f"data: {source} has the columns {', '.join(map(str, row))}, which are no form of rows to learn from: those "
        "are prompt and completion, messages, or text; name them in data.columns"
        f"{_example(row)}"
    )


def _example(row: Mapping[str, Any]) -> str:
    """``: data.columns.completion=solution``, as far as columns are called so as to tell."""
    conversation = likely_column(row, "messages")
    if conversation:
        return f": data.columns.messages={conversation}"
    found = {name: likely_column(row, name) for name in ("prompt", "completion")}
    named = [f"data.columns.{name}={column}" for name, column in found.items() if column]
    return f": {' '.join(named)}" if len(named) == len(found) else ""


def _check_columns(row: Mapping[str, Any], form: str, where: str) -> None:
    if form == "chat" and "messages" not in row and "prompt" in row:
        return
    for column in NEEDED[form]:
        if column not in row:
            raise RecipeError(
                f"data: {where} has no column {column}, which rows of the form {form} need; its columns are "
                f"{', '.join(map(str, row))}; name it in data.columns, or set sft.form"
            )


# ---- the forms --------------------------------------------------------------------------------------------------


def _read_completion(row: Row, place: _Place) -> None:
    """A prompt, text or messages, and a completion: text, or the messages that follow."""
    row["prompt"] = readable_prompt(row["prompt"], place.name)
    turns = messages_in(row["prompt"])
    if turns is not None and place.section.template in ("chat", "auto"):
        row["prompt"] = all_turns(turns, f"the prompt in {place.name}")
    check_prompt(row["prompt"], place.name, place.section.template)
    messages = messages_in(row["completion"])
    if messages is not None:
        row["completion"] = _checked_turns(
            all_turns(messages, f"the completion in {place.name}"), place
        )
        return
    completion = row["completion"]
    row["completion"] = completion = "" if completion is None else completion
    if not isinstance(completion, str):
        raise place.refuse(
            f"the completion is {type(completion).__name__}, neither text nor messages,"
        )
    _check_text(completion, "completion", place)


def _read_chat(row: Row, place: _Place) -> None:
    """Messages under any of the usual spellings."""
    messages = messages_in(row.get("messages", row.get("prompt")))
    if messages is None:
        raise place.refuse("the column messages holds no messages, each with role and content,")
    turns = _checked_turns(all_turns(messages, f"the messages in {place.name}"), place)
    row["messages"] = turns
    row["prompt"] = turns[: _last_assistant(turns)]
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            row["tools"] = structured(tools) if tools.strip() else None
        except NotStructured as error:
            raise place.refuse(f"the column tools is text, but {error},") from None


def _read_text(row: Row, place: _Place) -> None:
    text = row["text"]
    row["text"] = text = "" if text is None else text
    if not isinstance(text, str):
        raise place.refuse(f"the column text holds {type(text).__name__}, not text,")
    _check_text(text, "text", place)
    row["prompt"] = text


READERS: Mapping[str, Callable[[Row, _Place], None]] = {
    "completion": _read_completion,
    "chat": _read_chat,
    "text": _read_text,
}


def _last_assistant(turns: Sequence[Mapping[str, Any]]) -> int:
    """The index of the assistant's last turn; how many turns there are if it has none."""
    indices = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    return indices[-1] if indices else len(turns)


def _checked_turns(turns: list[dict[str, Any]], place: _Place) -> list[dict[str, Any]]:
    for turn in turns:
        content = turn["content"]
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
            if kind != "text":
                raise place.refuse(
                    f"a message has a part of type {kind}, and policies here read text only,"
                )
        if isinstance(content, str):
            _check_text(content, f"{turn['role']}'s message", place)
    return turns


def _check_text(text: str, what: str, place: _Place) -> None:
    if has_lone_surrogate(text):
        raise place.refuse(f"the {what} holds half a character (a lone surrogate)")
