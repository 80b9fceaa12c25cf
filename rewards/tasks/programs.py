"""Small programming tasks: write a function, judged by calling it. Made by rule; the level is the number of steps.

Every task is a chain of operations on a list of whole numbers, described in English. The expected values come from the
chain itself, never from a program's text. Level 1 has one operation, level 5 has five.
"""

from __future__ import annotations

import random
from typing import Any, Callable, Mapping

__all__ = ["OPERATIONS", "program_rows", "run_chain"]

Row = dict[str, Any]
MAX_LEVEL = 5
NUM_TESTS = 3
NUM_HIDDEN_TESTS = 5
MAX_MISSES = 2000
"""This many draws in a row without a new task mean that there are hardly any left."""

_ON_LISTS: Mapping[str, tuple[str, Callable[[list[int], int], list[int]]]] = {
    "add": ("add {k} to every number", lambda xs, k: [x + k for x in xs]),
    "times": ("multiply every number by {k}", lambda xs, k: [x * k for x in xs]),
    "square": ("square every number", lambda xs, k: [x * x for x in xs]),
    "reverse": ("reverse the list", lambda xs, k: xs[::-1]),
    "sort": ("sort the list in increasing order", lambda xs, k: sorted(xs)),
    "unique": (
        "keep only the first occurrence of every number",
        lambda xs, k: list(dict.fromkeys(xs)),
    ),
    "even": ("keep only the even numbers", lambda xs, k: [x for x in xs if x % 2 == 0]),
    "above": ("keep only the numbers greater than {k}", lambda xs, k: [x for x in xs if x > k]),
    "drop": ("drop the first {k} numbers", lambda xs, k: xs[k:]),
    "every": ("keep every {k}. number, beginning with the first", lambda xs, k: xs[::k]),
    "running": (
        "replace the list by its running sums",
        lambda xs, k: [sum(xs[: i + 1]) for i in range(len(xs))],
    ),
    "rotate": ("move the first number to the end", lambda xs, k: xs[1:] + xs[:1]),
    "twice": ("append the list to itself", lambda xs, k: xs + xs),
}
_TO_A_NUMBER: Mapping[str, tuple[str, Callable[[list[int], int], int]]] = {
    "sum": ("return the sum of the numbers", lambda xs, k: sum(xs)),
    "count": ("return how many numbers there are", lambda xs, k: len(xs)),
    "largest": (
        "return the largest number, or 0 for an empty list",
        lambda xs, k: max(xs, default=0),
    ),
    "smallest": (
        "return the smallest number, or 0 for an empty list",
        lambda xs, k: min(xs, default=0),
    ),
    "negative": ("return how many numbers are negative", lambda xs, k: sum(x < 0 for x in xs)),
}
OPERATIONS = {**_ON_LISTS, **_TO_A_NUMBER}
"""What a step does, as text and as a function of the list and the step's constant."""

Chain = list[tuple[str, int]]


def run_chain(chain: Chain, numbers: list[int]) -> Any:
    """The result of applying the chain's steps to the numbers.

    >>> run_chain([("even", 2), ("sum", 2)], [1, 2, 4])
    6
    """
    value: Any = list(numbers)
    for name, constant in chain:
        value = OPERATIONS[name][1](value, constant)
    return value


def program_rows(count: int = 600, levels: int = MAX_LEVEL, seed: int = 0) -> list[Row]:
    """``count`` different tasks, equally many of each level (1 to ``levels``), each with visible and hidden calls."""
    if not 1 <= levels <= MAX_LEVEL:
        raise ValueError(f"programs: levels is {levels}; it can be 1 to {MAX_LEVEL}")
    if count < 1:
        raise ValueError(f"programs: count is {count}; it must be at least 1")
    rng = random.Random(f"programs {seed}")
    rows: dict[str, Row] = {}
    misses = 0
    while len(rows) < count:
        row = _row(rng, 1 + len(rows) % levels)
        if row is not None and row["prompt"] not in rows:
            rows[row["prompt"]] = row
            misses = 0
            continue
        misses += 1
        if misses > MAX_MISSES:
            raise ValueError(
                f"programs: found {len(rows)} tasks of {levels} levels, not {count}; ask for fewer"
            )
    return list(rows.values())


def _row(rng: random.Random, level: int) -> Row | None:
    """A task; None if its tests could not tell it from doing nothing or from a constant answer."""
    chain = _chain(rng, level)
    arguments = [_numbers(rng) for _ in range(NUM_TESTS + NUM_HIDDEN_TESTS)]
    arguments[-1] = []
    inputs = [[numbers] for numbers in arguments]
    outputs = [run_chain(chain, numbers) for numbers in arguments]
    different = {repr(output) for output in outputs[:NUM_TESTS]}
    if len(different) < NUM_TESTS or outputs[0] == arguments[0]:
        return None
    return {
        "prompt": _prompt(chain, arguments[0], outputs[0]),
        "fn_name": "solve",
        "inputs": inputs[:NUM_TESTS],
        "outputs": outputs[:NUM_TESTS],
        "hidden_inputs": inputs[NUM_TESTS:],
        "hidden_outputs": outputs[NUM_TESTS:],
        "level": level,
    }


def _chain(rng: random.Random, level: int) -> Chain:
    names = rng.sample(sorted(_ON_LISTS), level)
    if rng.random() < 0.5:
        names[-1] = rng.choice(sorted(_TO_A_NUMBER))
    return [(name, rng.randint(2, 5)) for name in names]


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-9, 20) for _ in range(rng.randint(5, 9))]


def _prompt(chain: Chain, numbers: list[int], output: Any) -> str:
    steps = "; then ".join(OPERATIONS[name][0].format(k=constant) for name, constant in chain)
    last_name, _ = chain[-1]
    ending = "" if last_name in _TO_A_NUMBER else "; then return the list"
    return (
        f"Write a Python function solve(numbers) that takes a list of whole numbers and does this: {steps}{ending}. "
        f"For example, solve({numbers}) returns {output}. Answer with the function in one code block."
    )
