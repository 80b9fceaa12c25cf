"""The tool ``calculator``: exact arithmetic of bounded work, on a syntax tree; nothing is evaluated by Python."""

from __future__ import annotations

import ast
import math
import operator
import re
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Callable, Mapping

from rewards.environments.tools import ToolError

__all__ = ["calculator"]

MAX_CHARS = 1000
MAX_DEPTH = 100
MAX_BITS = 20_000
MAX_FACTORIAL = 2000
MAX_DIGITS = 30
ROOT_DIGITS = 20
LONG_BITS = 100
"""A fraction of larger numbers is shown as a decimal number alone."""

_WRITTEN_OTHERWISE = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "^"})
_WARNED_OF = re.compile(r"\\|[0-9a-fA-F_jJ.](?:and|else|for|if|in|is|or|not)")
"""What Python's parser prints a warning about: escapes in strings, and keywords right behind a number."""


def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression exactly.

    It knows + - * / // % ** (also written ^), parentheses, and abs, ceil, comb, factorial, floor, gcd, lcm, max, min,
    round, sqrt.

    Args:
        expression: The expression, such as 37 * (48 - 3)

    Returns:
        The value; a fraction with its decimal value where that has no end
    """
    return shown(value_of(expression))


def value_of(expression: str) -> Fraction:
    """The value of an expression; `ToolError` if it has none."""
    text = (
        expression.translate(_WRITTEN_OTHERWISE)
        .replace("^", "**")
        .strip()
        .removesuffix("=")
        .strip()
    )
    if len(text) > MAX_CHARS:
        raise ToolError(f"the expression is longer than {MAX_CHARS} characters")
    if _WARNED_OF.search(text):
        raise ToolError("this is no arithmetic expression")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError("this is no arithmetic expression") from None
    return _value(tree.body, text, MAX_DEPTH)


def shown(value: Fraction) -> str:
    """A value in digits.

    >>> shown(Fraction(7, 2)), shown(Fraction(6)), shown(Fraction(1, 3))
    ('3.5', '6', '1/3 (about 0.333333333333)')
    """
    if value.denominator == 1:
        return _digits(value.numerator)
    with localcontext() as context:
        context.prec = MAX_DIGITS
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
        if Fraction(decimal) == value:
            return f"{decimal:f}" if abs(decimal.adjusted()) <= MAX_DIGITS else f"{decimal}"
        context.prec = 12
        about = +decimal
    if value.numerator.bit_length() > LONG_BITS or value.denominator.bit_length() > LONG_BITS:
        return f"about {about.normalize()}"
    return f"{value.numerator}/{value.denominator} (about {about})"


def _digits(number: int) -> str:
    """An integer in digits, whatever the interpreter's limit on their number."""
    if number.bit_length() <= 10_000:
        return str(number)
    sign = "-" if number < 0 else ""
    digits: list[str] = []
    rest = abs(number)
    while rest:
        rest, low = divmod(rest, 10**1000)
        digits.append(str(low).rjust(1000, "0"))
    return sign + "".join(reversed(digits)).lstrip("0")


# ------------------------------------------------------------------------------------------- operations


def _value(node: ast.expr, text: str, depth: int) -> Fraction:
    if depth == 0:
        raise ToolError("the expression is too deeply nested")
    if isinstance(node, ast.Constant):
        return _number(node, text)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        operand = _value(node.operand, text, depth - 1)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left = _value(node.left, text, depth - 1)
        right = _value(node.right, text, depth - 1)
        return _bounded(_OPERATIONS[type(node.op)](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        args = [_value(arg, text, depth - 1) for arg in node.args]
        return _bounded(_called(node.func.id, args))
    raise ToolError(f"{_source(node, text)} is no arithmetic")


def _source(node: ast.expr, text: str) -> str:
    return (ast.get_source_segment(text, node) or "this")[:60]


def _number(node: ast.Constant, text: str) -> Fraction:
    """A number as it is written: 0.1 is one tenth."""
    if type(node.value) not in (int, float):
        raise ToolError(f"{_source(node, text)} is no number")
    written = (ast.get_source_segment(text, node) or "").replace("_", "").lower()
    if isinstance(node.value, int):
        return Fraction(node.value)
    _, _, exponent = written.partition("e")
    if len(exponent) > 5 or abs(int(exponent or 0)) * 4 > MAX_BITS:
        raise ToolError("the number is too large")
    return Fraction(written)


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise ToolError("the value has too many digits")
    return value


def _divided(left: Fraction, right: Fraction) -> Fraction:
    if right == 0:
        raise ToolError("division by zero")
    return left / right


def _divided_down(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(math.floor(_divided(left, right)))


def _remainder(left: Fraction, right: Fraction) -> Fraction:
    return left - right * _divided_down(left, right)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 2:
        return _power(_root(base), Fraction(exponent.numerator))
    if exponent.denominator != 1:
        raise ToolError("an exponent is a whole number or a half")
    if base in (0, 1, -1):
        return _power_of_unit(base, exponent.numerator)
    if abs(exponent) * max(_bits(base) - 2, 1) > MAX_BITS:
        raise ToolError("the value has too many digits")
    return base**exponent.numerator


def _power_of_unit(base: Fraction, exponent: int) -> Fraction:
    if base == 0 and exponent < 0:
        raise ToolError("division by zero")
    if base == 0:
        return Fraction(exponent == 0)
    return base if exponent % 2 else Fraction(1)


def _root(value: Fraction) -> Fraction:
    """The square root: exact where there is one, else to `ROOT_DIGITS` digits."""
    if value < 0:
        raise ToolError("the square root of a negative number is not real")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root == value:
        return root
    with localcontext() as context:
        context.prec = ROOT_DIGITS + _bits(value) // 3
        precise = (Decimal(value.numerator) / Decimal(value.denominator)).sqrt()
        context.prec = ROOT_DIGITS
        return Fraction(+precise)


def _factorial(value: Fraction) -> Fraction:
    if value > MAX_FACTORIAL:
        raise ToolError("the value has too many digits")
    return Fraction(math.factorial(_whole(value)))


def _comb(total: Fraction, chosen: Fraction) -> Fraction:
    if total > MAX_FACTORIAL:
        raise ToolError("the value has too many digits")
    return Fraction(math.comb(_whole(total), _whole(chosen)))


def _whole(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise ToolError(f"{shown(value)} is no natural number")
    return value.numerator


def _round(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    """Half to even, as Python's ``round`` does with exact numbers."""
    if digits.denominator != 1 or abs(digits) > 1000:
        raise ToolError("round takes a whole number of digits")
    return Fraction(round(value, digits.numerator))


def _gcd(*values: Fraction) -> Fraction:
    return Fraction(math.gcd(*(_whole(abs(value)) for value in values)))


def _lcm(*values: Fraction) -> Fraction:
    product = Fraction(1)
    for value in values:
        product = _bounded(Fraction(math.lcm(product.numerator, _whole(abs(value)))))
    return product


def _called(name: str, args: list[Fraction]) -> Fraction:
    if name not in _FUNCTIONS:
        raise ToolError(f"there is no function {name}; there are {', '.join(sorted(_FUNCTIONS))}")
    at_least, at_most, function = _FUNCTIONS[name]
    if not at_least <= len(args) <= at_most:
        raise ToolError(f"{name} does not take {len(args)} values")
    return function(*args)


_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divided,
    ast.FloorDiv: _divided_down,
    ast.Mod: _remainder,
    ast.Pow: _power,
}
_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Fraction]]] = {
    "abs": (1, 1, abs),
    "ceil": (1, 1, lambda value: Fraction(math.ceil(value))),
    "comb": (2, 2, _comb),
    "factorial": (1, 1, _factorial),
    "floor": (1, 1, lambda value: Fraction(math.floor(value))),
    "gcd": (1, 100, _gcd),
    "lcm": (1, 100, _lcm),
    "max": (1, 100, max),
    "min": (1, 100, min),
    "round": (1, 2, _round),
    "sqrt": (1, 1, _root),
}
"""Each function with the least and the most values that it takes."""
