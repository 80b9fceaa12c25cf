"""Prompts that state their own answer, or that lack the question: refused at load, named by row.

Only what is nearly certain is refused: a pattern that writes the gold column into the prompt, an answer behind a word
that announces it in nearly every row, one prompt for rows with different answers.
"""

from __future__ import annotations

import re
from typing import Any, Collection, Mapping, Sequence

from grpo.data.conversation import is_assistant, messages_in
from grpo.recipe import RecipeError, RowsSection
from rewards.conventions import TRUTH_COLUMNS, as_mapping
from rewards.gold import is_missing, stated_gold
from rewards.mathematics.extraction import bare_answer
from rewards.paths import MISSING, NotStructured, reach
from rewards.patterns import fields_of

Row = Mapping[str, Any]

MIN_ROWS = 3
NEARLY_ALL = 0.9
MAX_ROWS = 500
"""So many rows are looked at, evenly spread."""
MAX_ANSWER_CHARS = 400
MAX_SHOWN = 60

_ANSWER_NAME = re.compile(r"answer|solution|truth|gold|correct|target|label", re.IGNORECASE)
_ANNOUNCED = (
    r"(?:\\boxed\s*\{{\s*|####\s*|</think>\s*|^\s*a(?:ns)?\s*[:.]\s*(?={answer}\W*\Z)|"
    r"(?:answer|solution|response|result|output|assistant|gpt|model)\b[^\w\n]{{0,12}}(?:is\b|are\b)?[^\w]{{0,24}})"
    r"{answer}(?!\w)(?!\s*(?:,|or\b|/|\|)\s*\w)"
)
"""An answer behind a word that announces it, and not one of several that are offered."""


def gold_column(row: Row) -> str | None:
    """The column of a row that holds its gold answer, by the usual names."""
    return next((name for name in TRUTH_COLUMNS if name in row), None)


def check_leaks(rows: Sequence[Row], section: RowsSection) -> None:
    """Refuse rows whose prompts hold their gold answer or not their question. Raises `RecipeError`."""
    gold = gold_column(rows[0]) if rows else None
    if rows:
        _check_conversation_in_pattern(rows[0], section)
    if gold is None:
        return
    chosen = [(number, row) for number, row in _numbered(rows) if not is_missing(row.get(gold))]
    if not chosen:
        return
    _check_pattern(chosen, gold, section)
    _check_texts(chosen, gold, section)
    _check_questions(chosen, gold, section)


def _numbered(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """At most `MAX_ROWS` rows with their numbers, from 1."""
    step = max(1.0, len(rows) / MAX_ROWS)
    indices = [int(i * step) for i in range(min(len(rows), MAX_ROWS))]
    return [(index + 1, rows[index]) for index in indices]


def _check_pattern(chosen: Sequence[tuple[int, Row]], gold: str, section: RowsSection) -> None:
    """The columns that ``data.columns.prompt`` writes into the prompt must not be the one with the gold."""
    pattern = str(section.columns.get("prompt", "prompt"))
    fields = fields_of(pattern, chosen[0][1])
    for name in fields or [pattern]:
        number, row = chosen[0]
        is_hidden = name in section.columns  # another column has taken its name
        repeats = not is_hidden and _repeats_gold(chosen, name, gold)
        truth = _truth_columns(row, gold, section)
        holds = repeats or name in truth or _is_solution(row, name)
        holds = holds or bool(fields and _leads_to_gold(chosen, name, gold, truth))
        if holds or (len(fields) > 1 and name == fields[-1] and _ends_in_gold(chosen, name, gold)):
            raise RecipeError(
                f"data: gold-in-the-prompt: data.columns.prompt is {pattern!r}, and {name} holds the gold answer (row "
                f"{number} of {section.label}: {_short(row[gold])}); the policy would be shown what it has to find; "
                f"take {name} out"
            )


def _check_conversation_in_pattern(row: Row, section: RowsSection) -> None:
    """A conversation written into a text is written with all its turns."""
    for name in fields_of(str(section.columns.get("prompt", "")), row):
        if name not in section.columns and messages_in(row.get(name)):
            raise RecipeError(
                f"data: gold-in-the-prompt: data.columns.prompt writes the conversation in the column {name} as text, "
                f"its answers included (row 1 of {section.label}); name the column alone, data.columns.prompt: "
                f"{name}, with data.template: chat"
            )


def _is_solution(row: Row, name: str) -> bool:
    """Whether a path leads to what the assistant says in a conversation."""
    parent, _, _ = name.rpartition(".")
    turns = messages_in(_reached(row, parent)) if parent else None
    return turns is not None and len(turns) == 1 and is_assistant(turns[0])


def _leads_to_gold(
    chosen: Sequence[tuple[int, Row]], name: str, gold: str, truth: Collection[str]
) -> bool:
    """Whether a column holds a path to the truth, or, under an answer's name, the gold of nearly every row."""
    if any(path.startswith(f"{name}.") for path in truth):
        return True
    number = sum(_has_entry(_reached(row, name), _answer_text(row[gold])) for _, row in chosen)
    return number >= max(MIN_ROWS, NEARLY_ALL * len(chosen))


def _has_entry(value: Any, answer: str) -> bool:
    inside = as_mapping(value)
    if not isinstance(inside, Mapping):
        return False
    return any(
        _ANSWER_NAME.search(str(key)) and _answer_text(inside[key]) == answer for key in inside
    )


def _ends_in_gold(chosen: Sequence[tuple[int, Row]], name: str, gold: str) -> bool:
    """Whether a text of several words ends in the gold of nearly every row, as a worked solution does."""
    found = []
    for _, row in chosen:
        answer = _answer_text(row[gold])
        value = _reached(row, name)
        ending = rf"\w\W+(?<!\w){re.escape(answer)}\W*$"
        if answer and isinstance(value, str) and re.search(ending, value):
            found.append(answer)
    return len(found) >= NEARLY_ALL * len(chosen) and len(set(found)) >= MIN_ROWS


def _answer_text(gold: Any) -> str:
    return str(stated_gold(gold)).strip()


def _reached(row: Row, path: str) -> Any:
    try:
        return reach(row, path)
    except NotStructured:
        return MISSING


def _truth_columns(row: Row, gold: str, section: RowsSection) -> set[str]:
    """The columns of the file that hold the truth: those that the recipe maps to it, else those of the usual names."""
    mapped = {str(section.columns[name]) for name in TRUTH_COLUMNS if name in section.columns}
    if not mapped:
        return {gold, "solution"} & set(row)
    fields: set[str] = set()
    for column in mapped:
        fields |= {column, *fields_of(column, row)}
    return fields


def _repeats_gold(chosen: Sequence[tuple[int, Row]], name: str, gold: str) -> bool:
    """Whether a column holds the gold answer of nearly every row."""
    same = sum(str(row.get(name)).strip() == str(row[gold]).strip() for _, row in chosen)
    is_constant = len({str(row[gold]) for _, row in chosen}) < 2
    return same >= max(MIN_ROWS, NEARLY_ALL * len(chosen)) and not is_constant


def _check_texts(chosen: Sequence[tuple[int, Row]], gold: str, section: RowsSection) -> None:
    """Nearly every prompt announces its own answer: a text that was made for supervised training."""
    stating = [number for number, row in chosen if states_answer(row["prompt"], row[gold])]
    golds = {str(row[gold]) for _, row in chosen}
    if len(stating) < MIN_ROWS or len(stating) < NEARLY_ALL * len(chosen) or len(golds) < 2:
        return
    first = dict(chosen)[stating[0]]
    raise RecipeError(
        f"data: gold-in-the-prompt: {len(stating)} of {len(chosen)} prompts state their own gold answer (row "
        f"{stating[0]} of {section.label}: {_short(first[gold])} at the end of {_tail(first['prompt'])}); name a "
        "column with the question alone in data.columns.prompt"
    )


def states_answer(prompt: Any, gold: Any) -> bool:
    """Whether a prompt announces this gold answer: behind "answer:", in a box, behind ####."""
    text = prompt_words(prompt)
    answer = bare_answer(stated_gold(gold), lenient=True).text
    if not text or answer is None or not 0 < len(answer) <= MAX_ANSWER_CHARS:
        return False
    announced = _ANNOUNCED.format(answer=re.escape(answer.strip()))
    return re.search(announced, text, re.IGNORECASE | re.MULTILINE) is not None


def prompt_words(prompt: Any) -> str:
    """What a prompt says: a text itself, of messages the contents of all turns but the system's."""
    if isinstance(prompt, str):
        return prompt
    contents = []
    for message in prompt if isinstance(prompt, list) else ():
        if isinstance(message, Mapping) and message.get("role") != "system":
            contents.append(str(message.get("content", "")))
    return "\n".join(contents)


def _check_questions(chosen: Sequence[tuple[int, Row]], gold: str, section: RowsSection) -> None:
    """All rows have the same prompt and not the same answer: the question is in another column."""
    prompts = {str(row["prompt"]) for _, row in chosen}
    golds = {str(row[gold]) for _, row in chosen}
    if len(prompts) != 1 or len(golds) < 2:
        return
    columns = ", ".join(str(name) for name in chosen[0][1] if name != "prompt")
    raise RecipeError(
        f"data: question-missing: all {len(chosen)} prompts of {section.label} are {_short(prompts.pop())}, from row "
        f"{chosen[0][0]} on, while their answers differ; the question must be in another of its columns ({columns}): "
        "name it in data.columns.prompt"
    )


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "..."


def _tail(prompt: Any) -> str:
    return repr(prompt_words(prompt)[-MAX_SHOWN:])
