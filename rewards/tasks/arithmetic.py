"""Arithmetic: sums, differences and products of two whole numbers."""

from __future__ import annotations

import itertools
import operator
from typing import Any, Callable, Mapping

__all__ = ["arithmetic_rows"]

Row = dict[str, Any]

OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


def arithmetic_rows(operations: str = "+-*", low: int = 1, high: int = 20) -> list[Row]:
    """``What is 12 + 7?`` for every pair of operands in the range and each of the operations."""
    unknown = set(operations) - set(OPERATORS)
    if unknown or not operations:
        raise ValueError(
            f"arithmetic: operations is {operations!r}; it can be some of {''.join(OPERATORS)}"
        )
    if low > high:
        raise ValueError(f"arithmetic: low is {low} and high is {high}; the range is empty")
    operands = range(low, high + 1)
    rows: list[Row] = []
    for sign in dict.fromkeys(operations):
        for a, b in itertools.product(operands, operands):
            answer = OPERATORS[sign](a, b)
            rows.append({"prompt": f"What is {a} {sign} {b}?", "answer": str(answer)})
    return rows
