"""Worked solutions of the task `programs`: each step of a task's description as a line of Python."""

from __future__ import annotations

import re
from typing import Any, Mapping

from rewards.tasks.programs import OPERATIONS, program_rows

LINES: Mapping[str, str] = {
    "add": "numbers = [x + {k} for x in numbers]",
    "times": "numbers = [x * {k} for x in numbers]",
    "square": "numbers = [x * x for x in numbers]",
    "reverse": "numbers = numbers[::-1]",
    "sort": "numbers = sorted(numbers)",
    "unique": "numbers = list(dict.fromkeys(numbers))",
    "even": "numbers = [x for x in numbers if x % 2 == 0]",
    "above": "numbers = [x for x in numbers if x > {k}]",
    "drop": "numbers = numbers[{k}:]",
    "every": "numbers = numbers[::{k}]",
    "running": "numbers = [sum(numbers[: i + 1]) for i in range(len(numbers))]",
    "rotate": "numbers = numbers[1:] + numbers[:1]",
    "twice": "numbers = numbers + numbers",
    "sum": "return sum(numbers)",
    "count": "return len(numbers)",
    "largest": "return max(numbers, default=0)",
    "smallest": "return min(numbers, default=0)",
    "negative": "return sum(x < 0 for x in numbers)",
}
TRAIN_SEED, HELD_OUT_SEED = 0, 1


def line_of(step: str) -> str:
    """The line of Python for one step of a description; `ValueError` for one that is not known."""
    if step == "return the list":
        return "return numbers"
    for name, (says, _) in OPERATIONS.items():
        found = re.fullmatch(re.escape(says).replace(r"\{k\}", r"(?P<k>\d+)"), step)
        if found:
            return LINES[name].format(**found.groupdict())
    raise ValueError(f"programs: no line for {step!r}")


def solution(prompt: str) -> str:
    """A completion that solves the task of a prompt.

    >>> print(solution("... and does this: square every number; then return the list. For example, ..."))
    ```python
    def solve(numbers):
        numbers = [x * x for x in numbers]
        return numbers
    ```
    """
    described = prompt.partition("does this: ")[2].partition(". For example")[0]
    lines = [f"    {line_of(step)}" for step in described.split("; then ")]
    return "\n".join(["```python", "def solve(numbers):", *lines, "```"])


def trained(number: int) -> list[dict[str, Any]]:
    """Tasks with their solutions."""
    rows = program_rows(count=number, levels=3, seed=TRAIN_SEED)
    return [{**row, "completion": solution(row["prompt"])} for row in rows]


def held_out(number: int) -> list[dict[str, Any]]:
    """Further tasks, none of which trains."""
    known = {row["prompt"] for row in program_rows(count=600, levels=3, seed=TRAIN_SEED)}
    rows = program_rows(count=number + 100, levels=3, seed=HELD_OUT_SEED)
    return [row for row in rows if row["prompt"] not in known][:number]
