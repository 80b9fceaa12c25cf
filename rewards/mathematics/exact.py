"""Exact arithmetic on trees: every rational part of an expression is replaced by its value.

Every operation is bounded before it is carried out: what would need more than 20,000 bits stays as it is written.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Callable

from rewards.mathematics.tree import Node

__all__ = ["MAX_BITS", "MINUS_ONE", "ONE", "exact_product", "exact_sum", "fold"]

MAX_BITS = 20_000
MAX_FACTORIAL = 2100
MAX_ROOT = 64
ZERO = Fraction(0)
ONE = Node("num", (), Fraction(1))
MINUS_ONE = Node("num", (), Fraction(-1))


def fold(node: Node) -> Node:
    """Return the tree with every exactly rational part replaced by its value; decimals become exact."""
    if node.op in ("dec", "based"):
        return Node("num", (), node.value[0])
    if node.op == "num" or not node.args:
        return node
    args = tuple(fold(arg) for arg in node.args)
    rule = _RULES.get(node.op)
    if rule is not None and all(arg.op == "num" for arg in args):
        value = rule(node, [arg.value for arg in args])
        if value is not None and _bits(value) <= MAX_BITS:
            return Node("num", (), value)
    return Node(node.op, args, node.value)


def _bits(value: Fraction) -> int:
    """Return the size of a rational in bits."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def _bits_per_factor(value: Fraction) -> float:
    """Return how many bits a power of a rational gains with each factor."""
    return math.log2(abs(value.numerator) or 1) + math.log2(value.denominator)


def exact_sum(values: list[Fraction]) -> Fraction | None:
    if sum(map(_bits, values)) <= MAX_BITS:
        return sum(values, ZERO)
    return None


def exact_product(values: list[Fraction]) -> Fraction | None:
    if sum(map(_bits, values)) <= MAX_BITS:
        return math.prod(values, start=Fraction(1))
    return None


def _quotient(node: Node, values: list[Fraction]) -> Fraction | None:
    if values[1]:
        return values[0] / values[1]
    return None


def _ratio(node: Node, values: list[Fraction]) -> Fraction | None:
    if len(values) == 2 and values[1]:
        return values[0] / values[1]
    return None


# powers and roots


def _power(node: Node, values: list[Fraction]) -> Fraction | None:
    base, exponent = values
    if exponent.denominator != 1:
        return _rational_power(base, exponent)
    if base == 0:
        return ZERO if exponent > 0 else None
    if abs(base) == 1:
        return base ** int(exponent % 2)
    if _bits_per_factor(base) * abs(exponent) > MAX_BITS:
        return None
    return base ** int(exponent)


def _rational_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return a fractional power of a rational if it is rational itself."""
    index = exponent.denominator
    power = exponent.numerator
    if base < 0 or index > MAX_ROOT:
        return None
    if base == 0 and power < 0:
        return None
    if _bits_per_factor(base) * abs(power) > MAX_BITS:
        return None
    top = _integer_root(base.numerator, index)
    bottom = _integer_root(base.denominator, index)
    if top is None or bottom is None:
        return None
    return Fraction(top, bottom) ** power


def _integer_root(number: int, index: int) -> int | None:
    """Return the exact root of an integer, or None; Newton's iteration on integers."""
    if number < 2:
        return number
    guess = 1 << -(-number.bit_length() // index)
    while True:
        better = ((index - 1) * guess + number // guess ** (index - 1)) // index
        if better >= guess:
            if guess**index == number:
                return guess
            return None
        guess = better


def _square_root(*values: Fraction) -> Fraction | None:
    if len(values) == 1:
        return _rational_power(values[0], Fraction(1, 2))
    return None


def _signed_root(base: Fraction, index: Fraction) -> Fraction | None:
    """Return the real root of a given index if it is rational; odd roots of negatives are negative."""
    if index.denominator != 1:
        return None
    if not 1 <= index <= MAX_ROOT:
        return None
    if base >= 0:
        return _rational_power(base, 1 / index)
    if index % 2 == 0:
        return None
    positive = _rational_power(-base, 1 / index)
    if positive is None:
        return None
    return -positive


# functions


def _call(node: Node, values: list[Fraction]) -> Fraction | None:
    rule = _FUNCTIONS.get(node.value)
    if rule:
        return rule(*values)
    return None


def _factorial(number: Fraction) -> Fraction | None:
    if number.denominator != 1:
        return None
    if not 0 <= number <= MAX_FACTORIAL:
        return None
    return Fraction(math.factorial(int(number)))


def _binomial(*values: Fraction) -> Fraction | None:
    if len(values) != 2:
        return None
    top, bottom = values
    if top.denominator != 1 or bottom.denominator != 1:
        return None
    if top < 0 or bottom < 0:
        return None
    num_factors = min(bottom, top - bottom) if bottom <= top else 0
    if num_factors * top.numerator.bit_length() > MAX_BITS:
        return None
    return Fraction(math.comb(int(top), int(bottom)))


def _of_integers(combine: Callable[..., int]) -> Callable[..., Fraction | None]:
    """Return a rule for a function that is defined on integers alone."""

    def rule(*values: Fraction) -> Fraction | None:
        if any(value.denominator != 1 for value in values):
            return None
        return Fraction(combine(*map(int, values)))

    return rule


_FUNCTIONS: dict[str, Callable[..., Fraction | None]] = {
    "factorial": _factorial,
    "binom": _binomial,
    "sqrt": _square_root,
    "root": _signed_root,
    "abs": lambda value: abs(value),
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _of_integers(math.gcd),
    "lcm": _of_integers(math.lcm),
}
_RULES: dict[str, Callable[[Node, list[Fraction]], Fraction | None]] = {
    "add": lambda node, values: exact_sum(values),
    "mul": lambda node, values: exact_product(values),
    "div": _quotient,
    "neg": lambda node, values: -values[0],
    "pow": _power,
    "percent": lambda node, values: values[0] / 100,
    "call": _call,
    "ratio": _ratio,
}
