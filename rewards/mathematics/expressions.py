"""What a tree is worth: exact folding, a canonical form, and 50-digit values at chosen points.

Nothing here reads text. Every operation is bounded before it is carried out: what would need more than
20,000 bits, or more steps than the budget, raises `Undecided`, and the caller compares structure instead.
"""

from __future__ import annotations

import math
import threading
import zlib
from fractions import Fraction
from typing import Any, Callable

from rewards.mathematics.tree import Node

__all__ = [
    "Budget",
    "Undecided",
    "canonical",
    "context",
    "evaluate",
    "fold",
    "nearly_equal",
    "rename",
    "symbols",
]

MOST_BITS = 20_000
MOST_STEPS = 20_000
MOST_TERMS = 300
DIGITS = 50
ONE, ZERO = Fraction(1), Fraction(0)


class Undecided(ArithmeticError):
    """A value does not exist, or cannot be had within the bounds."""


class Budget:
    """Counts evaluation steps; raises `Undecided` where they run out."""

    def __init__(self, num_steps: int = MOST_STEPS):
        self.left = num_steps

    def spend(self, num_steps: int) -> None:
        self.left -= num_steps
        if self.left < 0:
            raise Undecided("out of steps")


def context() -> Any:
    """Return this thread's arithmetic of 50 digits; it is our own, so that nobody else's precision changes."""
    arithmetic = getattr(_threads, "arithmetic", None)
    if arithmetic is None:
        from mpmath.ctx_mp import MPContext

        arithmetic = _threads.arithmetic = MPContext()
        arithmetic.dps = DIGITS
    return arithmetic


_threads = threading.local()


# exact folding


def fold(node: Node) -> Node:
    """Return the tree with every exactly rational part replaced by its value; decimals become exact."""
    if node.op == "num" or (not node.args and node.op not in ("dec", "based")):
        return node
    if node.op in ("dec", "based"):
        return Node("num", (), node.value[0])
    args = tuple(fold(arg) for arg in node.args)
    if all(arg.op == "num" for arg in args) and (rule := _EXACT.get(node.op)):
        value = rule(node, [arg.value for arg in args])
        if value is not None and _bits(value) <= MOST_BITS:
            return Node("num", (), value)
    return Node(node.op, args, node.value)


def _bits(value: Fraction) -> int:
    """Return the size of a rational in bits."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def _size(value: Fraction) -> float:
    """Return how many bits a power of a rational gains with each factor."""
    return math.log2(abs(value.numerator) or 1) + math.log2(value.denominator)


def _exact_sum(node: Node, values: list[Fraction]) -> Fraction | None:
    return sum(values, ZERO) if sum(map(_bits, values)) <= MOST_BITS else None


def _exact_product(node: Node, values: list[Fraction]) -> Fraction | None:
    return math.prod(values, start=ONE) if sum(map(_bits, values)) <= MOST_BITS else None


def _exact_quotient(node: Node, values: list[Fraction]) -> Fraction | None:
    return values[0] / values[1] if values[1] else None


def _exact_power(node: Node, values: list[Fraction]) -> Fraction | None:
    base, exponent = values
    if exponent.denominator != 1:
        return _exact_root(base, exponent)
    if base == 0:
        return ZERO if exponent > 0 else None
    if abs(base) == 1:
        return base ** int(exponent % 2)
    if _size(base) * abs(exponent) > MOST_BITS:
        return None
    return base ** int(exponent)


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return a fractional power of a rational where it is rational itself."""
    index, power = exponent.denominator, exponent.numerator
    if base < 0 or index > 64 or _size(base) * abs(power) > MOST_BITS or (base == 0 and power < 0):
        return None
    top, bottom = _whole_root(base.numerator, index), _whole_root(base.denominator, index)
    return None if top is None or bottom is None else Fraction(top, bottom) ** power


def _whole_root(number: int, index: int) -> int | None:
    """Return the exact root of a whole number, or None; Newton's iteration on integers."""
    if number < 2:
        return number
    guess = 1 << -(-number.bit_length() // index)
    while True:
        better = ((index - 1) * guess + number // guess ** (index - 1)) // index
        if better >= guess:
            return guess if guess**index == number else None
        guess = better


def _exact_call(node: Node, values: list[Fraction]) -> Fraction | None:
    rule = _EXACT_CALLS.get(node.value)
    return rule(*values) if rule else None


def _factorial(number: Fraction) -> Fraction | None:
    if number.denominator != 1 or not 0 <= number <= 2100:
        return None
    return Fraction(math.factorial(int(number)))


def _binomial(top: Fraction, bottom: Fraction) -> Fraction | None:
    if top.denominator != 1 or bottom.denominator != 1 or top < 0 or bottom < 0:
        return None
    chosen = min(bottom, top - bottom) if bottom <= top else 0
    if chosen * top.numerator.bit_length() > MOST_BITS:
        return None
    return Fraction(math.comb(int(top), int(bottom)))


def _whole(combine: Callable[..., int]) -> Callable[..., Fraction | None]:
    """Return a rule for a function of whole numbers."""
    return lambda *values: (
        Fraction(combine(*map(int, values))) if all(v.denominator == 1 for v in values) else None
    )


_EXACT_CALLS: dict[str, Callable[..., Fraction | None]] = {
    "factorial": _factorial,
    "binom": lambda *values: _binomial(*values) if len(values) == 2 else None,
    "sqrt": lambda *values: _exact_root(values[0], Fraction(1, 2)) if len(values) == 1 else None,
    "root": lambda base, index: _signed_root(base, index),
    "abs": lambda value: abs(value),
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
}


def _signed_root(base: Fraction, index: Fraction) -> Fraction | None:
    """Return the real root of a given index where it is rational; odd roots of negatives are negative."""
    if index.denominator != 1 or not 1 <= index <= 64:
        return None
    if base < 0:
        positive = _exact_root(-base, 1 / index) if index % 2 else None
        return -positive if positive is not None else None
    return _exact_root(base, 1 / index)


_EXACT: dict[str, Callable[[Node, list[Fraction]], Fraction | None]] = {
    "add": _exact_sum,
    "mul": _exact_product,
    "div": _exact_quotient,
    "neg": lambda node, values: -values[0],
    "pow": _exact_power,
    "percent": lambda node, values: values[0] / 100,
    "call": _exact_call,
    "ratio": lambda node, values: values[0] / values[1] if len(values) == 2 and values[1] else None,
}


# structure


def canonical(node: Node) -> str:
    """Return a string that equal structures share, whatever the order of sums, products and sets."""
    return _canonical(fold(node))


def _canonical(node: Node) -> str:
    """Return the canonical form of a folded tree."""
    op, args = node.op, node.args
    if op == "num":
        return f"{node.value.numerator:x}/{node.value.denominator:x}"
    if op in ("sym", "const", "numset"):
        return str(node.value)
    if op == "text":
        return f'"{" ".join(node.value.lower().split())}"'
    if op == "neg":
        return _commutative("mul", [Node("num", (), -ONE), *args])
    if op in ("add", "mul"):
        return _commutative(op, list(args))
    if op == "div":
        return _commutative("mul", [args[0], Node("pow", (args[1], Node("num", (), -ONE)))])
    if op == "call" and node.value in ("sqrt", "root"):
        index = args[1] if len(args) > 1 else Node("num", (), Fraction(2))
        return _canonical(Node("pow", (args[0], fold(Node("div", (Node("num", (), ONE), index))))))
    if op in ("set", "union", "inter"):
        return f"{op}({','.join(sorted(set(map(_canonical, args))))})"
    value = "call" if node.value == "call?" else node.value
    return f"{op}:{value}({','.join(map(_canonical, args))})"


def _commutative(op: str, args: list[Node]) -> str:
    """Return a sum or product, flattened, with its numbers combined and its operands sorted."""
    flat: list[Node] = []
    while args:
        arg = args.pop()
        if arg.op == op:
            args.extend(arg.args)
        elif op == "mul" and arg.op == "neg":
            args.extend((Node("num", (), -ONE), arg.args[0]))
        elif op == "mul" and arg.op == "div":
            args.extend((arg.args[0], Node("pow", (arg.args[1], Node("num", (), -ONE)))))
        else:
            flat.append(fold(arg) if arg.op == "pow" else arg)
    numbers = [arg.value for arg in flat if arg.op == "num"]
    total = (_exact_sum if op == "add" else _exact_product)(flat[0], numbers) if numbers else None
    if total is not None:
        flat = [arg for arg in flat if arg.op != "num"]
        if total != (0 if op == "add" else 1) or not flat:
            flat.append(Node("num", (), total))
    parts = sorted(map(_canonical, flat))
    return parts[0] if len(parts) == 1 else f"{op}({','.join(parts)})"


def symbols(node: Node) -> frozenset[str]:
    """Return the free symbols of a tree; the index of a sum or integral is not free."""
    if node.op == "sym":
        return frozenset((node.value,))
    found = frozenset().union(*map(symbols, node.args)) if node.args else frozenset()
    return found - {node.value} if node.op in ("sum", "prod", "int", "lim") else found


def rename(node: Node, names: dict[str, str]) -> Node:
    """Return the tree with symbols renamed."""
    if node.op == "sym":
        return Node("sym", (), names.get(node.value, node.value))
    return Node(node.op, tuple(rename(arg, names) for arg in node.args), node.value)


# values


def evaluate(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return the value of a folded tree at a point (symbol to number): a 50-digit number, or rows of a matrix.

    Raises `Undecided` for what has no value there (a division by zero, text) or is out of bounds.
    """
    budget.spend(1)
    rule = _VALUES.get(node.op)
    if rule is None:
        raise Undecided(f"no value for {node.op}")
    try:
        value = rule(node, point, budget)
    except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise Undecided(str(error)) from None
    return value if isinstance(value, tuple) else _within_bounds(value)


def _within_bounds(value: Any) -> Any:
    """Return a value of ordinary size; refuse the infinite, undefined and gigantic."""
    arithmetic = context()
    if value == 0:
        return value
    if not arithmetic.isfinite(value) or abs(arithmetic.mag(value)) > MOST_BITS:
        raise Undecided("out of range")
    return value


def _operands(node: Node, point: dict[str, Any], budget: Budget) -> list[Any]:
    return [evaluate(arg, point, budget) for arg in node.args]


def _number(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    return context().mpf(node.value.numerator) / node.value.denominator


def _constant(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    arithmetic = context()
    if node.value in point:
        return point[node.value]
    values = {"pi": arithmetic.pi, "e": arithmetic.e, "i": arithmetic.mpc(0, 1)}
    if node.value not in values:
        raise Undecided("infinity")
    return +values[node.value]


def _symbol(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    if node.value not in point:
        raise Undecided(f"no value for {node.value}")
    return point[node.value]


def _add(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Add; a sum that cancels to the last digits is exactly zero, one that swallows a term is refused."""
    terms = _operands(node, point, budget)
    if isinstance(terms[0], tuple):
        return _matrix_sum(terms)
    total, largest = terms[0], abs(terms[0])
    for term in terms[1:]:
        total = total + term
        largest = max(largest, abs(term))
    if abs(total) <= largest * context().mpf(10) ** (8 - DIGITS):
        return context().zero
    if any(
        term != 0 and abs(term) < largest * context().mpf(10) ** (12 - DIGITS) for term in terms
    ):
        raise Undecided("a term below the last digit")
    return total


def _matrix_sum(terms: list[Any]) -> tuple:
    if any(not isinstance(term, tuple) or len(term) != len(terms[0]) for term in terms):
        raise Undecided("a matrix and something else")
    return tuple(tuple(sum(cells) for cells in zip(*rows)) for rows in zip(*terms))


def _multiply(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    product: Any = None
    for factor in _operands(node, point, budget):
        product = factor if product is None else _times(product, factor, budget)
    return product


def _times(left: Any, right: Any, budget: Budget) -> Any:
    """Multiply numbers and matrices."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        if len(left[0]) != len(right):
            raise Undecided("matrices that do not fit")
        budget.spend(len(left) * len(right) * len(right[0]))
        return tuple(
            tuple(sum(a * b for a, b in zip(row, column)) for column in zip(*right)) for row in left
        )
    if isinstance(left, tuple) or isinstance(right, tuple):
        matrix, scale = (left, right) if isinstance(left, tuple) else (right, left)
        return tuple(tuple(cell * scale for cell in row) for row in matrix)
    return _within_bounds(left * right)


def _divide(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    top, bottom = _operands(node, point, budget)
    if isinstance(top, tuple):
        return _times(top, 1 / bottom, budget)
    return top / bottom


def _negate(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    value = evaluate(node.args[0], point, budget)
    return (
        tuple(tuple(-cell for cell in row) for row in value) if isinstance(value, tuple) else -value
    )


def _power(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    base, exponent = _operands(node, point, budget)
    arithmetic = context()
    if base == 0:
        if arithmetic.re(exponent) > 0:
            return arithmetic.zero
        raise Undecided("zero to no positive power")
    if exponent != 0 and arithmetic.mag(exponent) > 40:
        raise Undecided("an exponent out of range")
    size = abs(arithmetic.mag(base))
    if (
        size * abs(exponent) > MOST_BITS
        and abs(arithmetic.log(abs(base), 2)) * abs(exponent) > MOST_BITS
    ):
        raise Undecided("a power out of range")
    budget.spend(10)
    return base**exponent


def _apply(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return a fixed arbitrary value for an unknown function at its arguments' values."""
    arithmetic = context()
    key = "/".join(
        [str(node.value), *(arithmetic.nstr(value, 25) for value in _operands(node, point, budget))]
    )
    return arithmetic.mpf(zlib.crc32(key.encode()) % 999_983 + 1) / 524_287


def _call(node: Node, point: dict[str, Any], budget: Budget) -> Any:
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
        if abs(result) < arithmetic.mpf(10) ** (5 - DIGITS) and abs(x) > arithmetic.mpf(10) ** -20:
            return arithmetic.zero
        if abs(result) > arithmetic.mpf(10) ** (DIGITS - 8):
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
    return arithmetic.ln(value) if base is None else arithmetic.ln(value) / arithmetic.ln(base)


def _exp(value: Any) -> Any:
    if value != 0 and (context().mag(value) > 40 or abs(value) * 1.45 > MOST_BITS):
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
    if (
        arithmetic.im(radicand) == 0
        and arithmetic.re(radicand) < 0
        and index == int(arithmetic.re(index))
        and int(index) % 2
    ):
        return -((-radicand) ** (1 / index))
    return radicand ** (1 / index) if radicand != 0 else arithmetic.zero


def _rounded(function: str) -> Callable[[Any], Any]:
    """Return floor or ceil; a value within rounding noise of a whole number is that number."""

    def value(x: Any) -> Any:
        arithmetic = context()
        nearest = arithmetic.nint(x)
        return (
            nearest
            if abs(x - nearest) < arithmetic.mpf(10) ** (10 - DIGITS)
            else getattr(arithmetic, function)(x)
        )

    return value


def _determinant(matrix: Any) -> Any:
    """Return the determinant of a matrix of at most 6 rows by expansion."""
    if not isinstance(matrix, tuple) or len(matrix) != len(matrix[0]) or len(matrix) > 6:
        raise Undecided("no determinant")
    if len(matrix) == 1:
        return matrix[0][0]
    minors = (
        tuple(row[:column] + row[column + 1 :] for row in matrix[1:])
        for column in range(len(matrix))
    )
    return sum(
        (-1) ** column * matrix[0][column] * _determinant(minor)
        for column, minor in enumerate(minors)
    )


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _snapped(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _mp(mp) for name, mp in {
        "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
        "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "Re": "re", "Im": "im", "arg": "arg", "sgn": "sign",
    }.items()},
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
}  # fmt: skip


def _matrix(node: Node, point: dict[str, Any], budget: Budget) -> tuple:
    cells = _operands(node, point, budget)
    width = node.value[1]
    return tuple(tuple(cells[start : start + width]) for start in range(0, len(cells), width))


def _big(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return a finite sum or product of at most 300 terms."""
    body, *bounds = node.args
    low, high = (_whole_number(evaluate(bound, point, budget)) for bound in bounds)
    if high - low > MOST_TERMS:
        raise Undecided("too many terms")
    total = context().mpf(0 if node.op == "sum" else 1)
    for index in range(low, high + 1):
        value = evaluate(body, {**point, node.value: context().mpf(index)}, budget)
        total = total + value if node.op == "sum" else _within_bounds(total * value)
    return total


def _whole_number(value: Any) -> int:
    """Return a value as a whole number, or refuse it."""
    if value != context().nint(context().re(value)):
        raise Undecided("a bound that is not whole")
    return int(context().re(value))


def _integral(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return a definite integral by quadrature, where its error estimate is small."""
    if len(node.args) != 3:
        raise Undecided("an antiderivative")
    body, low, high = node.args
    ends = [evaluate(low, point, budget), evaluate(high, point, budget)]
    value, error = context().quad(
        lambda x: evaluate(body, {**point, node.value: x}, budget), ends, error=True, maxdegree=5
    )
    if error > context().mpf(10) ** -42 * max(1, abs(value)):
        raise Undecided("a quadrature that does not converge")
    return value


def _unit_value(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return an angle in radians; other units have no plain value."""
    if node.value.dimensions != (("angle", 1),):
        raise Undecided("a unit")
    factor = node.value.factor
    return (
        evaluate(node.args[0], point, budget)
        * context().pi
        * factor.numerator
        / (180 * factor.denominator)
    )


_VALUES: dict[str, Callable[[Node, dict[str, Any], Budget], Any]] = {
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
    "sum": _big,
    "prod": _big,
    "int": _integral,
    "unit": _unit_value,
    "percent": lambda node, point, budget: evaluate(node.args[0], point, budget) / 100,
}


def nearly_equal(left: Any, right: Any) -> bool:
    """Tell whether two 50-digit values agree to 40 digits, relative to their size; zero equals only zero."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return (
            isinstance(left, tuple)
            and isinstance(right, tuple)
            and [len(row) for row in left] == [len(row) for row in right]
            and all(nearly_equal(a, b) for rows in zip(left, right) for a, b in zip(*rows))
        )
    return left == right or abs(left - right) <= max(abs(left), abs(right)) * context().mpf(10) ** (
        10 - DIGITS
    )
