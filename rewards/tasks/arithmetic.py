"""Arithmetic: sums, differences and products of two whole numbers."""

from __future__ import annotations

import itertools
from typing import Any, Callable

__all__ = ["arithmetic_rows"]

Row = dict[str, Any]


def arithmetic_rows(operations: str = "+-*", low: int = 1, high: int = 20) -> list[Row]:
    """``What is 12 + 7?`` for every pair of operands in the range and every one of the operations."""
    unknown = set(operations) - set(_ARITHMETIC)
    if unknown or not operations:
        raise ValueError(
            f"arithmetic: operations is {operations!r}; it can be some of {''.join(_ARITHMETIC)}"
        )
    if low > high:
        raise ValueError(f"arithmetic: low is {low} and high is {high}; the range is empty")
    operands = range(low, high + 1)
    return [
        {"prompt": f"What is {a} {sign} {b}?", "answer": str(_ARITHMETIC[sign](a, b))}
        for sign in dict.fromkeys(operations)
        for a, b in itertools.product(operands, operands)
    ]


_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
