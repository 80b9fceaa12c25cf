"""Sets of real numbers as membership tests: intervals, unions, inequalities and set-builders meet here.

`sets_agree` samples both sets at each other's end points, close to them and between them, so that
``1 < x <= 2``, ``(1,2]`` and ``{x | 1 < x <= 2}`` are one set whatever the notation.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from rewards.mathematics.expressions import (
    Budget,
    Undecided,
    context,
    evaluate,
    fold,
    nearly_equal,
    symbols,
)
from rewards.mathematics.tree import Node

__all__ = ["is_set_of_reals", "sets_agree", "variable_of"]

ORDERS = frozenset({"<", ">", "<=", ">=", "!="})
_MOST_ENDS = 40


class RealSet(NamedTuple):
    """A set: whether a number is in it, its end points, and whether these are all there are."""

    contains: Callable[[Any], bool]
    ends: list[Any]
    explicit: bool = True
    whole: bool = False


def is_set_of_reals(node: Node) -> bool:
    """Tell whether a node can only mean a set of numbers: an inequality, a union, a set-builder, R."""
    if node.op in ("union", "inter", "minus", "builder", "numset"):
        return True
    if node.op == "rel":
        return all(name in ORDERS | {"in"} for name in node.value)
    if node.op == "add":
        return any(is_set_of_reals(arg) for arg in node.args)
    if node.op != "list" or not all(arg.op == "rel" for arg in node.args):
        return False
    conditions = [is_set_of_reals(arg) for arg in node.args]
    points = [arg.value == ("=",) and arg.args[0].op == "sym" for arg in node.args]
    return any(conditions) and all(map(any, zip(conditions, points)))


def variable_of(node: Node, others: frozenset[str]) -> str | None:
    """Return the symbol whose values a condition describes; symbols of the other answer are parameters."""
    if node.op == "builder":
        element = node.args[0].args[0] if node.args[0].op == "rel" else node.args[0]
        return element.value if element.op == "sym" else None
    if node.op == "rel":
        if node.value == ("in",) and node.args[0].op == "sym":
            return node.args[0].value
        alone = [arg.value for arg in node.args if arg.op == "sym"]
        own = [name for name in alone if name not in others] or (
            alone if len(symbols(node)) == 1 else []
        )
        if own:
            return own[0]
        free = symbols(node) - others or symbols(node)
        return next(iter(free)) if len(free) == 1 else None
    found = (variable_of(arg, others) for arg in node.args if is_set_of_reals(arg))
    return next((name for name in found if name), None)


def sets_agree(left: Node, right: Node, points: list[dict[str, Any]], budget: Budget) -> bool:
    """Tell whether two set-like nodes hold the same numbers, for each choice of their parameters' values.

    Raises `Undecided` where an end point has no value or neither side names its end points.
    """
    names = [variable_of(side, symbols(other)) for side, other in ((left, right), (right, left))]
    decided = 0
    for point in points:
        try:
            sets = [
                real_set(fold(side), name, point, budget)
                for side, name in zip((left, right), names)
            ]
        except Undecided:
            continue
        if not (sets[0].explicit or sets[1].explicit):
            raise Undecided("two conditions that are not solved")
        members = [(sets[0].contains(x), sets[1].contains(x)) for x in _samples(*sets)]
        if any(left_has != right_has for left_has, right_has in members):
            return False
        decided += any(left_has for left_has, _ in members)
    if not decided:
        raise Undecided("no member was found")
    return True


def _samples(left: RealSet, right: RealSet) -> list[Any]:
    """Return all end points, numbers right beside them, between them and outside of them."""
    arithmetic = context()
    ends = sorted({end for end in left.ends + right.ends if arithmetic.isfinite(end)})[:_MOST_ENDS]
    if not ends:
        return [arithmetic.mpf(x) for x in (-1000.5, -1, 0, 1, 1000.5)]
    samples = [ends[0] - 1, ends[0] - 1000, ends[-1] + 1, ends[-1] + 1000]
    for end in ends:
        step = max(abs(end), 1) * arithmetic.mpf("1e-9")
        samples += [end, end - step, end + step]
    for low, high in zip(ends, ends[1:]):
        samples += [(low + high) / 2, low + (high - low) * arithmetic.mpf("0.31415")]
    if left.whole or right.whole:
        first = int(max(ends[0], -500)) - 3
        samples += [
            arithmetic.mpf(x) for x in range(first, min(first + 60, int(min(ends[-1], 500)) + 4))
        ]
    return samples


def real_set(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    """Return a node as a set of numbers, its parameters having the values of `point`."""
    rule = _SETS.get(node.op)
    if rule is None:
        raise Undecided(f"{node.op} is no set of numbers")
    return rule(node, variable, point, budget)


def _end(node: Node, point: dict[str, Any], budget: Budget) -> Any:
    """Return an end point, which may be infinite."""
    negative = node.op == "neg"
    inner = node.args[0] if negative else node
    if inner.op == "const" and inner.value == "inf":
        return -context().inf if negative else context().inf
    value = evaluate(node, point, budget)
    if isinstance(value, tuple) or context().im(value) != 0:
        raise Undecided("an end point that is not real")
    return context().re(value)


def _interval(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    if len(node.args) != 2 or node.value not in ("()", "[]", "(]", "[)"):
        raise Undecided("no interval")
    low, high = (_end(arg, point, budget) for arg in node.args)
    above = _COMPARE[">=" if node.value[0] == "[" else ">"]
    below = _COMPARE["<=" if node.value[1] == "]" else "<"]
    return RealSet(lambda x: above(x, low) and below(x, high), [low, high])


def _finite(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    members = [_end(arg, point, budget) for arg in node.args]
    return RealSet(lambda x: any(nearly_equal(x, member) for member in members), members)


def _union(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    parts = [real_set(arg, variable, point, budget) for arg in node.args]
    return _combined(parts, lambda x: any(part.contains(x) for part in parts))


def _intersection(
    node: Node, variable: str | None, point: dict[str, Any], budget: Budget
) -> RealSet:
    parts = [real_set(arg, variable, point, budget) for arg in node.args]
    return _combined(parts, lambda x: all(part.contains(x) for part in parts))


def _difference(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    first, *rest = (real_set(arg, variable, point, budget) for arg in node.args)
    return _combined(
        [first, *rest], lambda x: first.contains(x) and not any(part.contains(x) for part in rest)
    )


def _combined(parts: list[RealSet], contains: Callable[[Any], bool]) -> RealSet:
    """Return a set made of parts."""
    ends = [end for part in parts for end in part.ends]
    return RealSet(
        contains, ends, all(part.explicit for part in parts), any(part.whole for part in parts)
    )


def _sum(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    """Read ``A - B`` between sets as their difference."""
    if any(arg.op != "neg" for arg in node.args[1:]):
        raise Undecided("a sum of sets")
    stripped = (node.args[0], *(arg.args[0] for arg in node.args[1:]))
    return _difference(Node("minus", stripped), variable, point, budget)


def _conditions(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    """Read a list of conditions: "or" unites, "and" and commas intersect unless nothing would be left."""
    if node.value == "or":
        return _union(node, variable, point, budget)
    both = _intersection(node, variable, point, budget)
    if node.value == "," and not any(both.contains(x) for x in _samples(both, both)):
        return _union(node, variable, point, budget)
    return both


def _builder(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    element, conditions = node.args
    inner = real_set(conditions, variable, point, budget)
    if element.op != "rel":
        return inner
    domain = real_set(element.args[1], variable, point, budget)
    return _combined([domain, inner], lambda x: domain.contains(x) and inner.contains(x))


def _condition(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    """Read a chain such as ``1 < x <= 2`` or ``x in A``."""
    if variable is None:
        raise Undecided("a condition on no variable")
    if node.value == ("in",):
        return real_set(node.args[1], variable, point, budget)
    if node.value[-1] == "in":
        outer = real_set(node.args[-1], variable, point, budget)
        inner = _condition(Node("rel", node.args[:-1], node.value[:-1]), variable, point, budget)
        return _combined([outer, inner], lambda x: outer.contains(x) and inner.contains(x))
    fixed = [None if variable in symbols(arg) else _end(arg, point, budget) for arg in node.args]
    explicit = all(value is not None or arg.op == "sym" for value, arg in zip(fixed, node.args))
    if not set(node.value) <= set(_COMPARE):
        raise Undecided("no order")
    order = [_COMPARE[name] for name in node.value]

    def contains(x: Any) -> bool:
        try:
            values = [
                evaluate(arg, {**point, variable: x}, budget) if value is None else value
                for value, arg in zip(fixed, node.args)
            ]
        except Undecided:
            return False
        if any(context().im(value) != 0 for value in values):
            return False
        values = [context().re(value) for value in values]
        return all(compare(a, b) for compare, a, b in zip(order, values, values[1:]))

    return RealSet(contains, [value for value in fixed if value is not None], explicit)


def _named_set(node: Node, variable: str | None, point: dict[str, Any], budget: Budget) -> RealSet:
    base, sign = node.value[0], node.value[1:]
    if base not in "RZN" or sign not in ("", "+", "*"):
        raise Undecided(f"no such set {node.value}")
    whole = base in "ZN"
    positive = base == "N" or sign == "+"

    def contains(x: Any) -> bool:
        return (
            (not whole or x == context().nint(x))
            and (not positive or x > 0)
            and (sign != "*" or x != 0)
        )

    return RealSet(contains, [context().zero] if positive or sign else [], whole=whole)


def _meet(a: Any, b: Any) -> bool:
    """Tell whether two finite numbers agree to 40 digits."""
    return context().isfinite(a) and context().isfinite(b) and nearly_equal(a, b)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b and not _meet(a, b),
    ">": lambda a, b: a > b and not _meet(a, b),
    "<=": lambda a, b: a <= b or _meet(a, b),
    ">=": lambda a, b: a >= b or _meet(a, b),
    "!=": lambda a, b: not _meet(a, b),
    "=": lambda a, b: _meet(a, b),
}
_SETS: dict[str, Callable[[Node, str | None, dict[str, Any], Budget], RealSet]] = {
    "group": _interval,
    "set": _finite,
    "union": _union,
    "inter": _intersection,
    "minus": _difference,
    "add": _sum,
    "list": _conditions,
    "builder": _builder,
    "rel": _condition,
    "numset": _named_set,
}
