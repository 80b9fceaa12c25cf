"""What of a record and of completions goes to trackers: finite numbers, and a bounded table."""

from __future__ import annotations

import json
import math
from typing import Any, Mapping, Sequence, TypeGuard

from grpo.report.trackers.tracker import COLUMNS, Table

MAX_CELL = 8000
"""Characters of a cell; of a longer text its beginning and its end are shown."""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record but its step: neither null nor NaN nor infinite nor text.

    >>> numbers({"step": 3, "reward/mean": 0.5, "policy/kl": math.nan, "update/lr": None, "gate/level": 1})
    {'reward/mean': 0.5, 'gate/level': 1}
    """
    return {name: value for name, value in record.items() if name != "step" and is_number(value)}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def table_of(
    name: str, step: int, rows: Sequence[Mapping[str, Any]], *, at_most: int, when: float
) -> Table:
    """A table of at most so many of the `rows` of ``samples.jsonl`` or ``evaluations.jsonl``."""
    cells = [cells_of(row) for row in chosen(rows, at_most)]
    return Table(name=f"completions/{name}", step=step, rows=cells, when=when)


def cells_of(row: Mapping[str, Any]) -> list[str | float | None]:
    """The cells of a row of the table."""
    return [cell(row.get(column)) for column in COLUMNS]


def chosen(rows: Sequence[Mapping[str, Any]], number: int) -> list[Mapping[str, Any]]:
    """`number` of the rows, spread evenly from the lowest reward to the highest; those without one come first.

    >>> [row["reward"] for row in chosen([{"reward": value} for value in (1, 0, 0.5, None, 1)], 3)]
    [None, 0.5, 1]
    """
    ordered = sorted(rows, key=_reward)
    if len(ordered) <= number:
        return ordered
    if number < 2:
        return ordered[-number:] if number else []
    places = (index * (len(ordered) - 1) // (number - 1) for index in range(number))
    return [ordered[place] for place in places]


def _reward(row: Mapping[str, Any]) -> float:
    value = row.get("reward")
    return float(value) if value is not None and is_number(value) else -math.inf


def cell(value: Any) -> str | float | None:
    """A value as a tracker shows it: numbers as they are, anything else as text of bounded length."""
    if value is None or is_number(value):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # no half surrogate pairs
    if len(text) <= MAX_CELL:
        return text
    half = MAX_CELL // 2
    return f"{text[:half]} [...{len(text) - 2 * half} characters...] {text[-half:]}"


def flattened(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flattened({"seed": 0, "sample": {"prompts": 8}, "log": {}})
    {'seed': 0, 'sample.prompts': 8, 'log': {}}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{where}.{name}" if where else str(name)
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, key)
        else:
            flat[key] = value
    return flat
