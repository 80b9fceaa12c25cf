"""Arithmetic: sums, differences and products of whole numbers."""

from __future__ import annotations

import itertools
import operator
import random
from typing import Any, Callable, Iterable, Mapping, Sequence

__all__ = ["arithmetic_rows"]

Row = dict[str, Any]
Question = tuple[tuple[str, ...], tuple[int, ...]]
"""The signs, and the operands: one more than signs."""

OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
MAX_TERMS = 5
MAX_ROWS = 1_000_000


def arithmetic_rows(
    operations: str = "+-*",
    low: int = 1,
    high: int = 20,
    terms: int = 2,
    count: int | None = None,
) -> list[Row]:
    """``What is 12 + 7?`` for all operands in the range and each of the operations; products come before sums.

    `terms` operands stand in each question. Without `count` every question of the range is returned; with it, that
    many drawn by a fixed rule.
    """
    signs = list(dict.fromkeys(operations))
    if set(signs) - set(OPERATORS) or not signs:
        raise ValueError(
            f"arithmetic: operations is {operations!r}; it can be some of {''.join(OPERATORS)}"
        )
    if low > high:
        raise ValueError(f"arithmetic: low is {low} and high is {high}; the range is empty")
    if not 2 <= terms <= MAX_TERMS:
        raise ValueError(f"arithmetic: terms is {terms}; it can be 2 to {MAX_TERMS}")
    operands = range(low, high + 1)
    number = len(signs) ** (terms - 1) * len(operands) ** terms
    if count is None:
        if number > MAX_ROWS:
            raise ValueError(
                f"arithmetic: these ranges hold {number:,} questions; set count to draw so many of them"
            )
        return _rows(_every_question(signs, operands, terms))
    if not 0 < count <= number:
        raise ValueError(f"arithmetic: count is {count}; these ranges hold {number:,} questions")
    return _rows(_draw(count, signs, operands, terms))


def _every_question(signs: Sequence[str], operands: range, terms: int) -> Iterable[Question]:
    of_signs = itertools.product(signs, repeat=terms - 1)
    return itertools.product(of_signs, itertools.product(operands, repeat=terms))


def _draw(count: int, signs: Sequence[str], operands: range, terms: int) -> Iterable[Question]:
    """That many different questions, drawn by a fixed rule."""
    rng = random.Random("arithmetic")
    drawn: dict[Question, bool] = {}
    while len(drawn) < count:
        of_signs = rng.choices(signs, k=terms - 1)
        drawn[tuple(of_signs), tuple(rng.choices(operands, k=terms))] = True
    return drawn


def _rows(questions: Iterable[Question]) -> list[Row]:
    return [_row(signs, operands) for signs, operands in questions]


def _row(signs: Sequence[str], operands: Sequence[int]) -> Row:
    text = str(operands[0])
    for sign, operand in zip(signs, operands[1:]):
        text += f" {sign} {operand}"
    return {"prompt": f"What is {text}?", "answer": str(_value(signs, operands))}


def _value(signs: Sequence[str], operands: Sequence[int]) -> int:
    """The value of a chain of operations, products before sums and differences."""
    total = 0
    summand = operands[0]
    for sign, operand in zip(signs, operands[1:]):
        if sign == "*":
            summand *= operand
        else:
            total += summand
            summand = OPERATORS[sign](0, operand)
    return total + summand
