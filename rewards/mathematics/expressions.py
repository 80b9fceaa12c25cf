"""What a tree is worth: a canonical form, and 50-digit values at given points.

Nothing here reads text. Every operation is bounded before it is carried out: what would need more than
20,000 bits, or more steps than the budget, raises `Undecided`, and the caller compares structure instead. The bounds
count work, never time, so that a verdict is the same on every machine.
"""

from __future__ import annotations

import threading
import zlib
from fractions import Fraction
from typing import Any, Callable

from rewards.mathematics.exact import MAX_BITS, MINUS_ONE, ONE, exact_product, exact_sum, fold
from rewards.mathematics.tree import Node

__all__ = [
    "Budget",
    "MAX_BITS",
    "MAX_TERMS",
    "Point",
    "Undecided",
    "canonical",
    "context",
    "evaluate",
    "fold",
    "nearly_equal",
    "rename",
    "symbols",
]

MAX_STEPS = 20_000
MAX_TERMS = 300
DIGITS = 50

Point = dict[str, Any]
"""A value for each symbol, as numbers of `context`."""


class Undecided(ArithmeticError):
    """A value does not exist, or cannot be computed within the bounds."""


class Budget:
    """Counts evaluation steps; raises `Undecided` once they run out."""

    def __init__(self, num_steps: int = MAX_STEPS):
        self.left = num_steps

    def spend(self, num_steps: int) -> None:
        self.left -= num_steps
        if self.left < 0:
            raise Undecided("out of steps")


def context() -> Any:
    """Return this thread's arithmetic of 50 digits, which shares its precision with nobody."""
    arithmetic = getattr(_threads, "arithmetic", None)
    if arithmetic is None:
        from mpmath.ctx_mp import MPContext  # noqa: PLC0415  heavy; most answers need no values

        arithmetic = MPContext()
        arithmetic.dps = DIGITS
        _threads.arithmetic = arithmetic
    return arithmetic


_threads = threading.local()


# structure


def canonical(node: Node) -> str:
    """Return a string that equal structures share, whatever the order of sums, products and sets."""
    return _canonical(fold(node))


def _canonical(node: Node) -> str:
    """Return the canonical form of a folded tree."""
    op = node.op
    args = node.args
    if op == "num":
        return f"{node.value.numerator:x}/{node.value.denominator:x}"
    if op in ("sym", "const", "numset"):
        return str(node.value)
    if op == "text":
        return f'"{" ".join(node.value.lower().split())}"'
    if op == "neg":
        return _commutative("mul", [MINUS_ONE, *args])
    if op in ("add", "mul"):
        return _commutative(op, list(args))
    if op == "div":
        return _commutative("mul", [args[0], _reciprocal(args[1])])
    if op == "call" and node.value in ("sqrt", "root"):
        return _canonical(_root_as_power(args))
    if op in ("set", "union", "inter"):
        members = set(map(_canonical, args))
        return f"{op}({','.join(sorted(members))})"
    value = "call" if node.value == "call?" else node.value
    return f"{op}:{value}({','.join(map(_canonical, args))})"


def _reciprocal(node: Node) -> Node:
    return Node("pow", (node, MINUS_ONE))


def _root_as_power(args: tuple[Node, ...]) -> Node:
    index = args[1] if len(args) > 1 else Node("num", (), Fraction(2))
    return Node("pow", (args[0], fold(Node("div", (ONE, index)))))


def _commutative(op: str, args: list[Node]) -> str:
    """Return a sum or product, flattened, with its numbers combined and its operands sorted."""
    operands = _flattened(op, args)
    numbers = [operand.value for operand in operands if operand.op == "num"]
    combine = exact_sum if op == "add" else exact_product
    total = combine(numbers) if numbers else None
    if total is not None:
        operands = [operand for operand in operands if operand.op != "num"]
        neutral = 0 if op == "add" else 1
        if total != neutral or not operands:
            operands.append(Node("num", (), total))
    parts = sorted(map(_canonical, operands))
    if len(parts) == 1:
        return parts[0]
    return f"{op}({','.join(parts)})"


def _flattened(op: str, args: list[Node]) -> list[Node]:
    """Return the operands of nested sums or products; consumes ``args``."""
    operands: list[Node] = []
    while args:
        arg = args.pop()
        if arg.op == op:
            args.extend(arg.args)
        elif op == "mul" and arg.op == "neg":
            args.extend((MINUS_ONE, arg.args[0]))
        elif op == "mul" and arg.op == "div":
            args.extend((arg.args[0], _reciprocal(arg.args[1])))
        else:
            operands.append(fold(arg) if arg.op == "pow" else arg)
    return operands


def symbols(node: Node) -> frozenset[str]:
    """Return the free symbols of a tree; the index of a sum or integral is not free."""
    if node.op == "sym":
        return frozenset((node.value,))
    inside: frozenset[str] = frozenset().union(*map(symbols, node.args))
    if node.op in ("sum", "prod", "int", "lim"):
        return inside - {node.value}
    return inside


def rename(node: Node, names: dict[str, str]) -> Node:
    """Return the tree with symbols renamed."""
    if node.op == "sym":
        return Node("sym", (), names.get(node.value, node.value))
    return Node(node.op, tuple(rename(arg, names) for arg in node.args), node.value)


# values


def evaluate(node: Node, point: Point, budget: Budget) -> Any:
    """Return the value of a folded tree at a point: a 50-digit number, or the rows of a matrix.

    Raises `Undecided` for what has no value there (a division by zero, text) or exceeds a bound.
    """
    budget.spend(1)
    rule = _VALUES.get(node.op)
    if rule is None:
        raise Undecided(f"no value for {node.op}")
    try:
        value = rule(node, point, budget)
    except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise Undecided(str(error)) from None
    if isinstance(value, tuple):
        return value
    return _within_bounds(value)


def nearly_equal(left: Any, right: Any) -> bool:
    """Tell whether two 50-digit values agree to 40 digits, relative to their size; zero equals only zero."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return _matrices_nearly_equal(left, right)
    if left == right:
        return True
    largest = max(abs(left), abs(right))
    return abs(left - right) <= largest * _ten_to_the(10 - DIGITS)


def _matrices_nearly_equal(left: Any, right: Any) -> bool:
    if not isinstance(left, tuple):
        return False
    if not isinstance(right, tuple):
        return False
    if [len(row) for row in left] != [len(row) for row in right]:
        return False
    cells = (pair for rows in zip(left, right) for pair in zip(*rows))
    return all(nearly_equal(a, b) for a, b in cells)


def _ten_to_the(exponent: int) -> Any:
    return context().mpf(10) ** exponent


def _within_bounds(value: Any) -> Any:
    """Return a value of ordinary size; refuse the infinite, undefined and gigantic."""
    arithmetic = context()
    if value == 0:
        return value
    if not arithmetic.isfinite(value):
        raise Undecided("out of range")
    if abs(arithmetic.mag(value)) > MAX_BITS:
        raise Undecided("out of range")
    return value


def _operands(node: Node, point: Point, budget: Budget) -> list[Any]:
    return [evaluate(arg, point, budget) for arg in node.args]


def _number(node: Node, point: Point, budget: Budget) -> Any:
    return context().mpf(node.value.numerator) / node.value.denominator


def _constant(node: Node, point: Point, budget: Budget) -> Any:
    arithmetic = context()
    if node.value in point:
        return point[node.value]
    values = {"pi": arithmetic.pi, "e": arithmetic.e, "i": arithmetic.mpc(0, 1)}
    if node.value not in values:
        raise Undecided("infinity")
    return +values[node.value]


def _symbol(node: Node, point: Point, budget: Budget) -> Any:
    if node.value not in point:
        raise Undecided(f"no value for {node.value}")
    return point[node.value]


# arithmetic


def _add(node: Node, point: Point, budget: Budget) -> Any:
    """Add; a sum that cancels to the last digits is exactly zero, one that swallows a term is refused."""
    terms = _operands(node, point, budget)
    if isinstance(terms[0], tuple):
        return _matrix_sum(terms)
    total = terms[0]
    largest = abs(terms[0])
    for term in terms[1:]:
        total = total + term
        largest = max(largest, abs(term))
    if abs(total) <= largest * _ten_to_the(8 - DIGITS):
        return context().zero
    smallest_kept = largest * _ten_to_the(12 - DIGITS)
    if any(term != 0 and abs(term) < smallest_kept for term in terms):
        raise Undecided("a term below the last digit")
    return total


def _matrix_sum(terms: list[Any]) -> tuple:
    for term in terms:
        if not isinstance(term, tuple):
            raise Undecided("a matrix and something else")
        if len(term) != len(terms[0]):
            raise Undecided("a matrix and something else")
    return tuple(_row_sum(rows) for rows in zip(*terms))


def _row_sum(rows: tuple[tuple, ...]) -> tuple:
    return tuple(sum(cells) for cells in zip(*rows))


def _multiply(node: Node, point: Point, budget: Budget) -> Any:
    product: Any = None
    for factor in _operands(node, point, budget):
        product = factor if product is None else _times(product, factor, budget)
    return product


def _times(left: Any, right: Any, budget: Budget) -> Any:
    """Multiply numbers and matrices."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return _matrix_product(left, right, budget)
    if isinstance(left, tuple):
        return _scaled(left, right)
    if isinstance(right, tuple):
        return _scaled(right, left)
    return _within_bounds(left * right)


def _matrix_product(left: tuple, right: tuple, budget: Budget) -> tuple:
    if len(left[0]) != len(right):
        raise Undecided("matrices that do not fit")
    budget.spend(len(left) * len(right) * len(right[0]))
    columns = list(zip(*right))
    return tuple(_row_product(row, columns) for row in left)


def _row_product(row: tuple, columns: list[tuple]) -> tuple:
    return tuple(_dot(row, column) for column in columns)


def _dot(row: tuple, column: tuple) -> Any:
    return sum(a * b for a, b in zip(row, column))


def _scaled(matrix: tuple, scale: Any) -> tuple:
    return tuple(_scaled_row(row, scale) for row in matrix)


def _scaled_row(row: tuple, scale: Any) -> tuple:
    return tuple(cell * scale for cell in row)


def _divide(node: Node, point: Point, budget: Budget) -> Any:
    top, bottom = _operands(node, point, budget)
    if isinstance(top, tuple):
        return _times(top, 1 / bottom, budget)
    return top / bottom


def _negate(node: Node, point: Point, budget: Budget) -> Any:
    value = evaluate(node.args[0], point, budget)
    if isinstance(value, tuple):
        return _scaled(value, -1)
    return -value


def _power(node: Node, point: Point, budget: Budget) -> Any:
    base, exponent = _operands(node, point, budget)
    arithmetic = context()
    if base == 0:
        if arithmetic.re(exponent) > 0:
            return arithmetic.zero
        raise Undecided("zero to no positive power")
    if exponent != 0 and arithmetic.mag(exponent) > 40:
        raise Undecided("an exponent out of range")
    rough_bits = abs(arithmetic.mag(base)) * abs(exponent)
    if rough_bits > MAX_BITS and abs(arithmetic.log(abs(base), 2)) * abs(exponent) > MAX_BITS:
        raise Undecided("a power out of range")
    budget.spend(10)
    return base**exponent


# functions


def _apply(node: Node, point: Point, budget: Budget) -> Any:
    """Return a fixed arbitrary value for an unknown function at its arguments' values."""
    arithmetic = context()
    arguments = _operands(node, point, budget)
    shown = [arithmetic.nstr(value, 25) for value in arguments]
    key = "/".join([str(node.value), *shown])
    return arithmetic.mpf(zlib.crc32(key.encode()) % 999_983 + 1) / 524_287


def _call(node: Node, point: Point, budget: Budget) -> Any:
    rule = _FUNCTIONS.get(node.value)
    if rule is None:
        raise Undecided(f"no values for {node.value}")
    budget.spend(20)
    return rule(*_operands(node, point, budget))


def _snapped(function: str) -> Callable[[Any], Any]:
    """Return a trigonometric function whose rounding noise at zeros is zero and at poles is refused."""

    def value(x: Any) -> Any:
        arithmetic = context()
        if x != 0 and arithmetic.mag(x) > 200:
            raise Undecided("an angle out of range")
        result = getattr(arithmetic, function)(x)
        if abs(result) < _ten_to_the(5 - DIGITS) and abs(x) > _ten_to_the(-20):
            return arithmetic.zero
        if abs(result) > _ten_to_the(DIGITS - 8):
            raise Undecided("a pole")
        return result

    return value


def _mp(function: str) -> Callable[..., Any]:
    """Return a function of the 50-digit context by name."""
    return lambda *values: getattr(context(), function)(*values)


def _log(value: Any, base: Any = None) -> Any:
    arithmetic = context()
    if value == 0 or base == 1:
        raise Undecided("a logarithm of zero")
    if base is None:
        return arithmetic.ln(value)
    return arithmetic.ln(value) / arithmetic.ln(base)


def _exp(value: Any) -> Any:
    if value != 0 and (context().mag(value) > 40 or abs(value) * 1.45 > MAX_BITS):
        raise Undecided("an exponential out of range")
    return context().exp(value)


def _small(rule: Callable[..., Any], limit: float) -> Callable[..., Any]:
    """Return a function that refuses arguments above a limit."""

    def value(*values: Any) -> Any:
        if any(abs(x) > limit for x in values):
            raise Undecided("an argument out of range")
        return rule(*values)

    return value


def _root(radicand: Any, index: Any) -> Any:
    """Return a root; odd roots of negative numbers are the real ones."""
    arithmetic = context()
    if index == 0 or abs(index) > 10_000:
        raise Undecided("no such root")
    is_negative = arithmetic.im(radicand) == 0 and arithmetic.re(radicand) < 0
    if is_negative and index == int(arithmetic.re(index)) and int(index) % 2:
        return -((-radicand) ** (1 / index))
    if radicand != 0:
        return radicand ** (1 / index)
    return arithmetic.zero


def _rounded(function: str) -> Callable[[Any], Any]:
    """Return floor or ceil; a value within rounding noise of an integer is that integer."""

    def value(x: Any) -> Any:
        arithmetic = context()
        nearest = arithmetic.nint(x)
        if abs(x - nearest) < _ten_to_the(10 - DIGITS):
            return nearest
        return getattr(arithmetic, function)(x)

    return value


def _determinant(matrix: Any) -> Any:
    """Return the determinant of a matrix of at most 6 rows by expansion."""
    if not isinstance(matrix, tuple):
        raise Undecided("no determinant")
    if len(matrix) != len(matrix[0]):
        raise Undecided("no determinant")
    if len(matrix) > 6:
        raise Undecided("no determinant")
    if len(matrix) == 1:
        return matrix[0][0]
    first, *others = matrix
    total: Any = 0
    for column, cell in enumerate(first):
        minor = tuple(row[:column] + row[column + 1 :] for row in others)
        total = total + (-1) ** column * cell * _determinant(minor)
    return total


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _snapped(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{
        name: _mp(mp)
        for name, mp in {
            "arcsin": "asin",
            "arccos": "acos",
            "arctan": "atan",
            "arccot": "acot",
            "arcsec": "asec",
            "arccsc": "acsc",
            "asinh": "asinh",
            "acosh": "acosh",
            "atanh": "atanh",
            "Re": "re",
            "Im": "im",
            "arg": "arg",
            "sgn": "sign",
        }.items()
    },
    **{name: _small(_mp(name), 10_000.0) for name in ("sinh", "cosh", "tanh")},
    "log": _log,
    "exp": _exp,
    "sqrt": lambda value: context().sqrt(value),
    "root": _root,
    "abs": lambda value: abs(value),
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "det": _determinant,
    "factorial": _small(lambda value: context().gamma(value + 1), 2100.0),
    "binom": _small(lambda top, bottom: context().binomial(top, bottom), 2100.0),
}


# matrices, sums, integrals, units


def _matrix(node: Node, point: Point, budget: Budget) -> tuple:
    cells = _operands(node, point, budget)
    width = node.value[1]
    return tuple(tuple(cells[start : start + width]) for start in range(0, len(cells), width))


def _sum_or_product(node: Node, point: Point, budget: Budget) -> Any:
    """Return a finite sum or product of at most 300 terms."""
    body, *bounds = node.args
    low, high = (_integer(evaluate(bound, point, budget)) for bound in bounds)
    if high - low > MAX_TERMS:
        raise Undecided("too many terms")
    total = context().mpf(0 if node.op == "sum" else 1)
    for index in range(low, high + 1):
        value = evaluate(body, {**point, node.value: context().mpf(index)}, budget)
        total = total + value if node.op == "sum" else _within_bounds(total * value)
    return total


def _integer(value: Any) -> int:
    """Return a value as an integer, or refuse it."""
    if value != context().nint(context().re(value)):
        raise Undecided("a bound that is not whole")
    return int(context().re(value))


def _integral(node: Node, point: Point, budget: Budget) -> Any:
    """Return a definite integral by quadrature, if its error estimate is small."""
    if len(node.args) != 3:
        raise Undecided("an antiderivative")
    body, low, high = node.args
    ends = [evaluate(low, point, budget), evaluate(high, point, budget)]

    def integrand(x: Any) -> Any:
        return evaluate(body, {**point, node.value: x}, budget)

    value, error = context().quad(integrand, ends, error=True, maxdegree=5)
    if error > _ten_to_the(-42) * max(1, abs(value)):
        raise Undecided("a quadrature that does not converge")
    return value


def _angle(node: Node, point: Point, budget: Budget) -> Any:
    """Return an angle in radians; other units have no plain value."""
    if node.value.dimensions != (("degree", 1),):
        raise Undecided("a unit")
    factor = node.value.factor
    half_turns = evaluate(node.args[0], point, budget) * context().pi
    return half_turns * factor.numerator / (180 * factor.denominator)


_VALUES: dict[str, Callable[[Node, Point, Budget], Any]] = {
    "num": _number,
    "const": _constant,
    "sym": _symbol,
    "add": _add,
    "mul": _multiply,
    "div": _divide,
    "ratio": _divide,
    "neg": _negate,
    "pow": _power,
    "apply": _apply,
    "call": _call,
    "matrix": _matrix,
    "sum": _sum_or_product,
    "prod": _sum_or_product,
    "int": _integral,
    "unit": _angle,
    "percent": lambda node, point, budget: evaluate(node.args[0], point, budget) / 100,
}
