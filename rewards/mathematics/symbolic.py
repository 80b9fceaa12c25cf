"""The last resort: sympy, on objects built node by node from our own tree, never from text.

It is asked for what the numeric tier cannot evaluate: infinite sums and products, limits, improper integrals. What it
may do is counted in function calls, so that a slow machine reaches the same verdict as a fast one:

* sympy is imported and exercised before the first question (`warm_up`), and its cache is emptied before each one, so
  the count depends neither on what was asked before nor on whether sympy was warm;
* `MAX_CALLS` calls and returns answer the question or leave it open (`Undecided`);
* `MAX_SECONDS` of CPU time are a backstop for loops that call nothing. Reaching it is no answer at all: `OutOfTime`.

Neither bound interrupts a long call in C (gmpy2's), so sympy may only run in a process that its caller kills at a
deadline.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from fractions import Fraction
from types import FrameType
from typing import Any, Callable, Iterator

from rewards.clock import patience
from rewards.loading import loading
from rewards.mathematics.expressions import MAX_BITS, MAX_TERMS, Undecided
from rewards.mathematics.tree import Node

__all__ = ["MAX_CALLS", "MAX_SECONDS", "OutOfTime", "Work", "symbolically_equal", "warm_up"]

MAX_CALLS = 1_500_000
"""Calls and returns, of Python and of C functions, that one comparison may spend in sympy: one to two seconds of a
slow core."""
MAX_SECONDS = 8.0
"""CPU seconds after which a comparison is given up undecided, times `rewards.clock.patience`: several times what
`MAX_CALLS` take on a slow core."""

REPEAT_SECONDS = 0.25
"""How long an interruption that sympy caught holds off the next one."""


class OutOfTime(Undecided):
    """The clock ran out before the bound on the work did; the same question may be decided elsewhere."""


class _OutOfRange(Undecided):
    """A number of too many bits."""


class _Interrupted(BaseException):
    """Leaves sympy. No `Exception`, because sympy catches those."""


@dataclass(slots=True)
class Work:
    """What one comparison may still spend in sympy, over all its questions."""

    calls_left: int = MAX_CALLS
    seconds_left: float = field(default_factory=lambda: patience() * MAX_SECONDS)


def symbolically_equal(left: Node, right: Node, work: Work) -> bool:
    """Return whether sympy shows that two folded trees are equal, spending ``work``.

    Raises `Undecided` if sympy cannot be given the trees, gives up, or needs more calls than are left, and
    `OutOfTime` if the backstop stopped it.
    """
    warm_up()
    if work.seconds_left <= 0:
        raise OutOfTime("undecided: out of time")
    if work.calls_left <= 0:
        raise Undecided("the calls of sympy are used up")
    try:
        with _bounded(work):
            are_equal = _difference_vanishes(left, right)
    except _Interrupted:
        raise _reason(work) from None
    except Exception as error:  # noqa: BLE001  sympy raises almost anything on what it cannot do
        if work.calls_left <= 0 or work.seconds_left <= 0:
            raise _reason(work) from None
        raise Undecided(f"sympy gave up: {type(error).__name__}: {error}") from None
    if work.calls_left <= 0:  # sympy caught the interruption and continued
        raise _reason(work)
    return are_equal


def _reason(work: Work) -> Undecided:
    """Return why sympy was stopped; the count decides if both bounds were reached."""
    if work.calls_left <= 0:
        return Undecided(f"sympy needed more than {MAX_CALLS} calls")
    return OutOfTime("undecided: out of time")


def _difference_vanishes(left: Node, right: Node) -> bool:
    sympy = _sympy()
    difference = (_build(left, sympy) - _build(right, sympy)).doit()
    if difference.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    return sympy.simplify(difference) == 0


# loading


def _sympy() -> Any:
    """Return sympy, which takes a second to load and which most answers never need."""
    import sympy  # noqa: PLC0415  heavy, and only for workers

    return sympy


@functools.cache
def warm_up() -> None:
    """Load sympy and use once what it builds on first use: the tables of integrals, its series, its simplifiers."""
    with loading():
        sympy = _sympy()
        for expression in [*_limits(sympy), *_integrals(sympy), *_sums(sympy)]:
            sympy.simplify(expression.doit())
        x = sympy.Symbol("x")
        sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2 + sympy.log(x) + sympy.sqrt(x))


def _limits(sympy: Any) -> list[Any]:
    x = sympy.Symbol("x")
    return [
        sympy.Limit(sympy.sin(x) / x, x, 0),
        sympy.Limit((1 + 1 / x) ** x, x, sympy.oo),
    ]


def _integrals(sympy: Any) -> list[Any]:
    x = sympy.Symbol("x")
    return [
        sympy.Integral(x * sympy.exp(x), x),
        sympy.Integral(sympy.exp(-(x**2)), (x, -sympy.oo, sympy.oo)),
        sympy.Integral(1 / (1 + x**4), (x, 0, sympy.oo)),
        sympy.Integral(sympy.sin(x) / x, (x, 0, sympy.oo)),
    ]


def _sums(sympy: Any) -> list[Any]:
    x = sympy.Symbol("x")
    k = sympy.Symbol("k", integer=True)
    return [
        sympy.Sum(1 / k**2, (k, 1, sympy.oo)),
        sympy.Sum(x**k / sympy.factorial(k), (k, 0, sympy.oo)),
        sympy.Product(1 - 1 / k**2, (k, 2, sympy.oo)),
    ]


# bounds


@contextlib.contextmanager
def _bounded(work: Work) -> Iterator[None]:
    """Interrupt the body once ``work`` is used up, and take what it used off ``work``."""
    from sympy.core.cache import clear_cache  # noqa: PLC0415  heavy, and only for workers

    clear_cache()
    started = time.process_time()
    try:
        with _interrupted_after(work.seconds_left), _counted(work):
            yield
    finally:
        work.seconds_left -= time.process_time() - started


@contextlib.contextmanager
def _counted(work: Work) -> Iterator[None]:
    """Count the calls and returns of this thread, and interrupt it once there were too many."""

    def count(frame: FrameType, event: str, argument: object) -> None:
        work.calls_left -= 1
        if work.calls_left <= 0:
            _interrupt_in(REPEAT_SECONDS)
            raise _Interrupted

    profiler_before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(profiler_before)


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt the body after this much CPU time, and again if that was caught; in the main thread only."""
    if not _has_timer():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Interrupted

    handler_before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        _interrupt_in(seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.setitimer(
            signal.ITIMER_VIRTUAL, 0
        )  # again: the first may have been interrupted itself
        signal.signal(signal.SIGVTALRM, handler_before)


def _interrupt_in(seconds: float) -> None:
    """Start the timer, if there is one, whose signal interrupts sympy."""
    if _has_timer():
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, REPEAT_SECONDS)


def _has_timer() -> bool:
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and hasattr(signal, "ITIMER_VIRTUAL")


# from our tree to sympy's objects


def _build(node: Node, sympy: Any) -> Any:
    """Return the sympy object of a folded tree."""
    rule = _RULES.get(node.op)
    if rule is None:
        raise Undecided(f"no sympy object for {node.op}")
    return rule(node, sympy)


def _arguments(node: Node, sympy: Any) -> list[Any]:
    return [_build(arg, sympy) for arg in node.args]


def _number(node: Node, sympy: Any) -> Any:
    value: Fraction = node.value
    return sympy.Rational(value.numerator, value.denominator)


def _constant(node: Node, sympy: Any) -> Any:
    return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}[node.value]


def _quotient(node: Node, sympy: Any) -> Any:
    top, bottom = _arguments(node, sympy)
    return sympy.Mul(top, sympy.Pow(bottom, -1))


def _power(node: Node, sympy: Any) -> Any:
    base, exponent = _arguments(node, sympy)
    if exponent.is_number and not base.is_number and abs(exponent) > MAX_TERMS:
        raise Undecided("a polynomial of too high a degree")
    if base.is_number and exponent.is_number and exponent.is_finite:
        if abs(exponent.evalf(10)) * _bits(base, sympy) > MAX_BITS:
            raise _OutOfRange("a power out of range")
    return base**exponent


def _bits(base: Any, sympy: Any) -> Any:
    """Return how many bits a power of a number gains with each factor; of a fraction, in both its terms."""
    if base == 0:
        return 0
    bits = abs(sympy.log(abs(base), 2).evalf(10))
    if bits > MAX_BITS:
        raise _OutOfRange("a base out of range")
    if base.is_Rational:
        return max(bits, (abs(base.p) - 1).bit_length() + (base.q - 1).bit_length())
    return bits


def _call(node: Node, sympy: Any) -> Any:
    arguments = _arguments(node, sympy)
    if node.value == "root":
        radicand, index = arguments
        return sympy.root(radicand, index)
    name = _NAMES.get(node.value)
    if name is None or any(argument.is_number and abs(argument) > 1000 for argument in arguments):
        raise Undecided(f"no sympy function for {node.value}")
    return getattr(sympy, name)(*arguments)


def _sum_or_product(node: Node, sympy: Any) -> Any:
    body, low, high = _arguments(node, sympy)
    is_finite = low.is_finite and high.is_finite
    if is_finite and high.is_number and low.is_number:
        if abs(high - low) > MAX_TERMS:
            raise Undecided("too many terms")
        _check_end_terms(node, sympy)
    index = sympy.Symbol(node.value, integer=True)
    body = body.subs(sympy.Symbol(node.value), index)
    kind = sympy.Sum if node.op == "sum" else sympy.Product
    return kind(body, (index, low, high))


def _check_end_terms(node: Node, sympy: Any) -> None:
    """Refuse a finite sum whose first or last term has a power out of range, before sympy writes it out."""
    body, *bounds = node.args
    for bound in bounds:
        try:
            _build(_substituted(body, node.value, bound), sympy)
        except _OutOfRange:
            raise
        except Undecided:
            continue


def _substituted(node: Node, name: str, value: Node) -> Node:
    """Return a tree with a symbol, or a constant's letter, replaced by a value."""
    if node.op in ("sym", "const") and node.value == name:
        return value
    return Node(node.op, tuple(_substituted(arg, name, value) for arg in node.args), node.value)


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
    "log": "log",
    "exp": "exp",
    "sqrt": "sqrt",
    "abs": "Abs",
    "floor": "floor",
    "ceil": "ceiling",
    "factorial": "factorial",
    "binom": "binomial",
    "max": "Max",
    "min": "Min",
    "Re": "re",
    "Im": "im",
    "sgn": "sign",
}
_RULES: dict[str, Callable[[Node, Any], Any]] = {
    "num": _number,
    "sym": lambda node, sympy: sympy.Symbol(node.value),
    "const": _constant,
    "add": lambda node, sympy: sympy.Add(*_arguments(node, sympy)),
    "mul": lambda node, sympy: sympy.Mul(*_arguments(node, sympy)),
    "div": _quotient,
    "neg": lambda node, sympy: -_build(node.args[0], sympy),
    "percent": lambda node, sympy: _build(node.args[0], sympy) / 100,
    "pow": _power,
    "call": _call,
    "sum": _sum_or_product,
    "prod": _sum_or_product,
    "int": _integral,
    "lim": _limit,
}
