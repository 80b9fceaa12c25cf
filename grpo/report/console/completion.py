"""One completion as a person reads it: the end of its prompt, what was written, its reward and why."""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping, Sequence

from grpo.report.console.ink import Glyphs, Line, folded, visible
from grpo.report.console.numbers import is_number
from grpo.report.transcript import told_by
from rewards.spelling import many

Row = Mapping[str, Any]
PROMPT_LINES = 3
MIN_LINES = 5
MAX_LINES = 14
MAX_CHARACTERS = 3_000
"""Of a text that is twice as long only the beginning and the end are looked at."""
MAX_DETAIL = 240
INDENT = "  "
MIN_RULE = 3


def completion_lines(
    row: Row, group: Sequence[float | None], *, width: int, height: int, glyphs: Glyphs
) -> Iterator[Line]:
    """A row of ``samples.jsonl`` in lines of at most `width`, fewer on a low screen.

    `group` are the rewards of its whole group.
    """
    yield Line.of("")
    yield _title(row, width, glyphs)
    room = width - len(INDENT)
    prompt = _pieces(row["prompt"], room)
    if len(prompt) > PROMPT_LINES:
        yield Line.of((f"{INDENT}{glyphs.more}", "dim"))
    for text in prompt[-PROMPT_LINES:]:
        yield Line.of((INDENT + text, "dim"))
    most = max(MIN_LINES, min(MAX_LINES, height // 3))
    told = told_by(row)
    for text in _shortened(told, room, most, glyphs):
        yield Line.of(INDENT + text)
    for text in folded(_why(row), room, indent=2):
        yield Line.of((INDENT + text, _style(row)))
    if len(group) > 1:
        values = " ".join(_value(value, glyphs) for value in group)
        yield Line.of((f"{INDENT}its group of {len(group)}: {values}", "dim")).cut(
            width, glyphs.more
        )
    yield Line.of("")


def _title(row: Row, width: int, glyphs: Glyphs) -> Line:
    reward = _value(row["reward"], glyphs)
    text = f"step {row['step']} {glyphs.dot} a completion of {row['prompt_id']} {glyphs.dot} reward {reward}"
    rule = glyphs.rule * MIN_RULE
    filled = f"{rule} {visible(text)} "
    rest = max(MIN_RULE, width - len(filled))
    return Line.of(
        (f"{rule} ", "dim"), (visible(text), _style(row)), (f" {glyphs.rule * rest}", "dim")
    ).cut(width, glyphs.rule)


def _style(row: Row) -> str:
    if row["status"] == "fault":
        return "bad"
    return "good" if is_number(row["reward"]) and row["reward"] > 0 else "warn"


def _value(value: float | None, glyphs: Glyphs) -> str:
    return f"{value:g}" if is_number(value) and value is not None else glyphs.dash


def _why(row: Row) -> str:
    """``correct 0 (no_answer): no expression in the completion; 45 tokens, stop``."""
    details = row.get("detail") or {}
    parts = []
    for name, value in row["parts"].items():
        status = row["statuses"].get(name, "scored")
        shown = "-" if value is None else f"{value:g}"
        said = f" ({status})" if status != "scored" else ""
        detail = details.get(name) if isinstance(details, dict) else None
        parts.append(f"{name} {shown}{said}" + (f": {_on_one_line(detail)}" if detail else ""))
    if isinstance(details, str) and details:
        parts.append(_on_one_line(details))
    parts.append(f"{many(row['num_tokens'], 'token')}, {row['finish']}")
    return "; ".join(parts)


def _on_one_line(detail: Any) -> str:
    text = detail if isinstance(detail, str) else json.dumps(detail, default=str)
    return visible(" ".join(text[:MAX_DETAIL].split()))


def _pieces(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` cells, without blank lines at its ends."""
    if len(text) > 2 * MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]}\n{text[-MAX_CHARACTERS:]}"
    pieces: list[str] = []
    for line in visible(text).strip("\n").replace("\t", "    ").split("\n"):
        pieces += folded(line, width)
    return pieces


def _shortened(text: str, width: int, most: int, glyphs: Glyphs) -> list[str]:
    """A text in lines; of more than `most` the first and the last."""
    lines = _pieces(text, width)
    if len(lines) <= most:
        return lines
    first = most // 2
    last = most - first - 1
    shown = [*lines[:first], *lines[-last:]]
    left_out = max(1, len(text) - sum(map(len, shown)))
    return [*shown[:first], f"{glyphs.more} {left_out} characters {glyphs.more}", *shown[first:]]


def chosen(rows: Sequence[Row], turn: int) -> tuple[Row, list[float | None]] | None:
    """The row to show of a step, with the rewards of its group; None of no rows.

    By turns it is the best and the worst of the first group whose rewards differ, or of the first group.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    if not groups:
        return None
    group = next(
        (group for group in groups.values() if _differ(group)), next(iter(groups.values()))
    )
    known = [row for row in group if is_number(row["reward"])]
    choose = min if turn % 2 else max
    row = choose(known, key=lambda one: one["reward"]) if known else group[0]
    return row, [one["reward"] for one in group]


def _differ(group: Sequence[Row]) -> bool:
    return len({row["reward"] for row in group if is_number(row["reward"])}) > 1
