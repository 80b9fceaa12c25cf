"""Worked solutions of countdown problems, for supervised training: attempts that miss, a "no" after each, and a hit.

An attempt combines two of the numbers that are left until one is; each step stays whole and positive. Which attempts a
trace makes follows from the problem alone. What problems there are is up to ``countdown``.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

__all__ = ["TRACES", "Puzzle", "trace"]

Results = Callable[[int, int, int], dict[int, str]]
"""(a, b, largest) -> ``{value: "a op b"}``."""
Reaches = Callable[[tuple[int, ...]], bool]
TRIES = {"direct": 1, "search": 5}
"""By kind of trace, how many attempts it makes at most."""
RIGHT_AT_ONCE = 1 / 3
"""How often an attempt of a search is the one that hits."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """``3 + 5 = 8 , 8 * 7 = 56``, the same as one expression, and what it makes."""

    steps: str
    expression: str
    value: int


def _in_symbols(missed: Sequence[Attempt], hit: Attempt) -> str:
    attempts = " no ".join(attempt.steps for attempt in [*missed, hit])
    return f"{attempts} answer {hit.expression}"


def _in_words(missed: Sequence[Attempt], hit: Attempt) -> str:
    tried = [f"{attempt.steps.replace(' ,', ',')}: no." for attempt in missed]
    tried.append(f"{hit.steps.replace(' ,', ',')}: yes.")
    expression = hit.expression.replace("( ", "(").replace(" )", ")")
    return f"<think>{' '.join(tried)}</think> <answer>{expression}</answer>"


TRACES = {"symbols": _in_symbols, "words": _in_words}
"""How a trace is written, by the style of its prompt."""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers and the target they make; steps stay in 1..``largest``.

    ``results`` are those of one step, ``reaches`` tells whether numbers that are left can still make the target.
    """

    numbers: Sequence[int]
    target: int
    largest: int
    results: Results
    reaches: Reaches


def trace(puzzle: Puzzle, *, kind: str, style: str) -> str:
    """A solution of one problem; `ValueError` for an unknown `kind`."""
    if kind not in TRIES:
        raise ValueError(f"countdown: traces is {kind!r}; it can be {' or '.join(TRIES)}")
    rng = random.Random(f"{list(puzzle.numbers)}:{puzzle.target}")
    missed: list[Attempt] = []
    while len(missed) < TRIES[kind] - 1 and rng.random() >= RIGHT_AT_ONCE:
        attempt = next(_attempts(rng, puzzle, _anything))
        known = [other.steps for other in missed]
        if attempt.value != puzzle.target and attempt.steps not in known:
            missed.append(attempt)
    hits = _attempts(rng, puzzle, puzzle.reaches)
    hit = next(attempt for attempt in hits if attempt.value == puzzle.target)
    return TRACES[style](missed, hit)


def _anything(left: tuple[int, ...]) -> bool:
    return True


def _attempts(rng: random.Random, puzzle: Puzzle, may_go_on: Reaches) -> Iterator[Attempt]:
    """Random attempts without end; those that come to a dead end are begun anew."""
    while True:
        steps: list[str] = []
        left = [(number, str(number)) for number in puzzle.numbers]
        while len(left) > 1:
            choices = list(_choices(left, puzzle, may_go_on))
            if not choices:
                break
            step, left = rng.choice(choices)
            steps.append(step)
        else:
            value, expression = left[0]
            yield Attempt(" , ".join(steps), expression, value)


Left = list[tuple[int, str]]
"""The numbers that are left, each with the expression that made it."""


def _choices(left: Left, puzzle: Puzzle, may_go_on: Reaches) -> Iterator[tuple[str, Left]]:
    """(a step as text, what is left after it) for each step that can be made."""
    for i, j in itertools.combinations(range(len(left)), 2):
        first = left[i]
        second = left[j]
        others = left[:i] + left[i + 1 : j] + left[j + 1 :]
        results = puzzle.results(first[0], second[0], puzzle.largest)
        for value, text in results.items():
            remaining = [*others, (value, _expression(text, first, second))]
            if may_go_on(tuple(sorted(number for number, _ in remaining))):
                yield f"{text} = {value}", remaining


def _expression(text: str, first: tuple[int, str], second: tuple[int, str]) -> str:
    """The step ``a op b`` with the expressions of its two numbers in their place."""
    left, sign, _ = text.split()
    before, after = (first, second) if left == str(first[0]) else (second, first)
    return f"{_bracketed(before[1])} {sign} {_bracketed(after[1])}"


def _bracketed(expression: str) -> str:
    return f"( {expression} )" if " " in expression else expression
