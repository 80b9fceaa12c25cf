"""The last resort: sympy, on objects built node by node from our own tree, never from text.

It is asked for what the numeric tier cannot evaluate: infinite sums and products, limits, improper integrals. It is
given `SECONDS` of CPU time, after which the question stays open. That stops what runs in the interpreter and not a
long call in C (gmpy2's), so it may only run in a process that the caller kills on a deadline.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Callable, Iterator

from rewards.mathematics.expressions import MOST_BITS, MOST_TERMS, Undecided
from rewards.mathematics.tree import Node

__all__ = ["symbolically_equal"]


SECONDS = 0.6


class _TooLong(BaseException):
    """The time is over. No `Exception`, so that sympy does not take it for one of its own."""


def symbolically_equal(left: Node, right: Node, seconds: float = SECONDS) -> bool:
    """Return whether sympy shows that two trees are equal; raises `Undecided` for what it cannot be given.

    ``seconds`` of CPU time are what it may use; loading it is not counted.
    """
    import sympy

    if seconds <= 0:
        raise Undecided("the time for sympy is used up")
    try:
        with _limited(seconds):
            difference = (_build(left, sympy) - _build(right, sympy)).doit()
            if difference.has(sympy.nan, sympy.zoo, sympy.oo):
                return False
            return sympy.simplify(difference) == 0
    except _TooLong:
        raise Undecided(f"sympy took longer than {seconds:.1f} s") from None
    except (
        Exception
    ) as error:  # sympy raises almost anything on what it cannot do; a fault of ours it is not
        raise Undecided(f"sympy gave up: {type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Interrupt the body after so much CPU time, and again where that was swallowed; in the main thread only."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "ITIMER_VIRTUAL"
    ):
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, SECONDS / 4)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _build(node: Node, sympy: Any) -> Any:
    """Return the sympy object of a folded tree."""
    rule = _RULES.get(node.op)
    if rule is None:
        raise Undecided(f"no sympy object for {node.op}")
    return rule(node, sympy)


def _arguments(node: Node, sympy: Any) -> list[Any]:
    return [_build(arg, sympy) for arg in node.args]


def _constant(node: Node, sympy: Any) -> Any:
    return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}[node.value]


def _power(node: Node, sympy: Any) -> Any:
    base, exponent = _arguments(node, sympy)
    if exponent.is_number and not base.is_number and abs(exponent) > MOST_TERMS:
        raise Undecided("a polynomial of too high a degree")
    if base.is_number and exponent.is_number and exponent.is_finite:
        size = abs(sympy.log(abs(base), 2).evalf(10)) if base != 0 else 0
        if size > MOST_BITS or abs(exponent.evalf(10)) * size > MOST_BITS:
            raise Undecided("a power out of range")
    return base**exponent


def _call(node: Node, sympy: Any) -> Any:
    arguments = _arguments(node, sympy)
    name = _NAMES.get(node.value)
    if name is None or any(argument.is_number and abs(argument) > 1000 for argument in arguments):
        raise Undecided(f"no sympy function for {node.value}")
    return getattr(sympy, name)(*arguments)


def _root(node: Node, sympy: Any) -> Any:
    radicand, index = _arguments(node, sympy)
    return sympy.root(radicand, index)


def _big(node: Node, sympy: Any) -> Any:
    body, low, high = _arguments(node, sympy)
    if (
        low.is_finite
        and high.is_finite
        and high.is_number
        and low.is_number
        and abs(high - low) > MOST_TERMS
    ):
        raise Undecided("too many terms")
    whole = sympy.Symbol(node.value, integer=True)
    body = body.subs(sympy.Symbol(node.value), whole)
    return (sympy.Sum if node.op == "sum" else sympy.Product)(body, (whole, low, high))


def _integral(node: Node, sympy: Any) -> Any:
    body, *bounds = _arguments(node, sympy)
    variable = sympy.Symbol(node.value)
    return sympy.Integral(body, (variable, *bounds) if bounds else variable)


def _limit(node: Node, sympy: Any) -> Any:
    body, towards = _arguments(node, sympy)
    return sympy.Limit(body, sympy.Symbol(node.value), towards)


_NAMES = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: name for name in ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    "log": "log", "exp": "exp", "sqrt": "sqrt", "abs": "Abs", "floor": "floor", "ceil": "ceiling",
    "factorial": "factorial", "binom": "binomial", "max": "Max", "min": "Min", "Re": "re", "Im": "im", "sgn": "sign",
}  # fmt: skip
_RULES: dict[str, Callable[[Node, Any], Any]] = {
    "num": lambda node, sympy: sympy.Rational(node.value.numerator, node.value.denominator),
    "sym": lambda node, sympy: sympy.Symbol(node.value),
    "const": _constant,
    "add": lambda node, sympy: sympy.Add(*_arguments(node, sympy)),
    "mul": lambda node, sympy: sympy.Mul(*_arguments(node, sympy)),
    "div": lambda node, sympy: sympy.Mul(
        _build(node.args[0], sympy), sympy.Pow(_build(node.args[1], sympy), -1)
    ),
    "neg": lambda node, sympy: -_build(node.args[0], sympy),
    "percent": lambda node, sympy: _build(node.args[0], sympy) / 100,
    "pow": _power,
    "call": lambda node, sympy: _root(node, sympy) if node.value == "root" else _call(node, sympy),
    "sum": _big,
    "prod": _big,
    "int": _integral,
    "lim": _limit,
}
