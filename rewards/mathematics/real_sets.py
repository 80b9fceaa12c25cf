"""Sets of real numbers as membership tests: one form for intervals, unions, inequalities and set-builders.

`sets_agree` samples both sets at each other's end points, close to them and between them, so that
``1 < x <= 2``, ``(1,2]`` and ``{x | 1 < x <= 2}`` are one set whatever the notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

from rewards.mathematics.expressions import (
    Budget,
    Point,
    Undecided,
    context,
    evaluate,
    fold,
    nearly_equal,
    symbols,
)
from rewards.mathematics.tree import Node

__all__ = ["ORDERS", "is_set_of_reals", "sets_agree", "variable_of"]

ORDERS = frozenset({"<", ">", "<=", ">=", "!="})
_MAX_ENDS = 40

Contains = Callable[[Any], bool]


class RealSet(NamedTuple):
    """A set: whether a number is in it, its end points, whether these are all, whether it holds integers alone."""

    contains: Contains
    ends: list[Any]
    explicit: bool = True
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """What a condition is read under: its variable, its parameters' values, and the budget of steps."""

    variable: str | None
    point: Point
    budget: Budget


def is_set_of_reals(node: Node) -> bool:
    """Tell whether a node can only mean a set of numbers: an inequality, a union, a set-builder, R."""
    if node.op in ("union", "inter", "minus", "builder", "numset"):
        return True
    if node.op == "rel":
        return all(name in ORDERS or name == "in" for name in node.value)
    if node.op == "add":
        return any(is_set_of_reals(arg) for arg in node.args)
    if node.op != "list":
        return False
    if not all(arg.op == "rel" for arg in node.args):
        return False
    is_condition = [is_set_of_reals(arg) for arg in node.args]
    is_point = [arg.value == ("=",) and arg.args[0].op == "sym" for arg in node.args]
    return any(is_condition) and all(map(any, zip(is_condition, is_point)))


# the variable


def variable_of(node: Node, others: frozenset[str]) -> str | None:
    """Return the symbol whose values a condition describes; symbols of the other answer are parameters."""
    if node.op == "builder":
        element = node.args[0].args[0] if node.args[0].op == "rel" else node.args[0]
        if element.op == "sym":
            return element.value
        return None
    if node.op == "rel":
        return _variable_of_relation(node, others)
    for arg in node.args:
        name = variable_of(arg, others) if is_set_of_reals(arg) else None
        if name:
            return name
    return None


def _variable_of_relation(node: Node, others: frozenset[str]) -> str | None:
    if node.value == ("in",) and node.args[0].op == "sym":
        return node.args[0].value
    names = symbols(node)
    alone = [arg.value for arg in node.args if arg.op == "sym"]
    unshared = [name for name in alone if name not in others]
    if unshared:
        return unshared[0]
    if alone and len(names) == 1:
        return alone[0]
    candidates = names - others or names
    if len(candidates) == 1:
        return next(iter(candidates))
    return None


# comparison


def sets_agree(left: Node, right: Node, points: list[Point], budget: Budget) -> bool:
    """Tell whether two set-like nodes hold the same numbers, for each choice of their parameters' values.

    Raises `Undecided` if an end point has no value or neither side names its end points.
    """
    left_variable = variable_of(left, symbols(right))
    right_variable = variable_of(right, symbols(left))
    num_points_with_members = 0
    for point in points:
        try:
            left_set = real_set(fold(left), Scope(left_variable, point, budget))
            right_set = real_set(fold(right), Scope(right_variable, point, budget))
        except Undecided:
            continue
        if not (left_set.explicit or right_set.explicit):
            raise Undecided("two conditions that are not solved")
        has_member = _common_members(left_set, right_set)
        if has_member is None:
            return False
        num_points_with_members += has_member
    if not num_points_with_members:
        raise Undecided("no member was found")
    return True


def _common_members(left: RealSet, right: RealSet) -> bool | None:
    """Return whether the samples hold members of both sets; None if a sample is in one set alone."""
    members = [(left.contains(x), right.contains(x)) for x in _samples(left, right)]
    if any(in_left != in_right for in_left, in_right in members):
        return None
    return any(in_left for in_left, _ in members)


def _samples(left: RealSet, right: RealSet) -> list[Any]:
    """Return all end points, numbers right next to them, between them and outside of them."""
    arithmetic = context()
    finite = {end for end in left.ends + right.ends if arithmetic.isfinite(end)}
    ends = sorted(finite)[:_MAX_ENDS]
    if not ends:
        return [arithmetic.mpf(x) for x in (-1000.5, -1, 0, 1, 1000.5)]
    lowest = ends[0]
    highest = ends[-1]
    samples = [lowest - 1, lowest - 1000, highest + 1, highest + 1000]
    for end in ends:
        step = max(abs(end), 1) * arithmetic.mpf("1e-9")
        samples += [end, end - step, end + step]
    for low, high in zip(ends, ends[1:]):
        samples += [(low + high) / 2, low + (high - low) * arithmetic.mpf("0.31415")]
    if left.whole or right.whole:
        first = int(max(lowest, -500)) - 3
        last = min(first + 60, int(min(highest, 500)) + 4)
        samples += [arithmetic.mpf(x) for x in range(first, last)]
    return samples


# from nodes to sets


def real_set(node: Node, scope: Scope) -> RealSet:
    """Return a node as a set of numbers."""
    rule = _SETS.get(node.op)
    if rule is None:
        raise Undecided(f"{node.op} is no set of numbers")
    return rule(node, scope)


def _end(node: Node, scope: Scope) -> Any:
    """Return an end point, which may be infinite."""
    is_negative = node.op == "neg"
    inner = node.args[0] if is_negative else node
    if inner.op == "const" and inner.value == "inf":
        if is_negative:
            return -context().inf
        return context().inf
    value = evaluate(node, scope.point, scope.budget)
    if isinstance(value, tuple):
        raise Undecided("an end point that is not real")
    if context().im(value) != 0:
        raise Undecided("an end point that is not real")
    return context().re(value)


def _interval(node: Node, scope: Scope) -> RealSet:
    if len(node.args) != 2:
        raise Undecided("no interval")
    if node.value not in ("()", "[]", "(]", "[)"):
        raise Undecided("no interval")
    opening, closing = node.value
    low, high = (_end(arg, scope) for arg in node.args)
    is_above = _COMPARE[">=" if opening == "[" else ">"]
    is_below = _COMPARE["<=" if closing == "]" else "<"]
    return RealSet(lambda x: is_above(x, low) and is_below(x, high), [low, high])


def _finite(node: Node, scope: Scope) -> RealSet:
    members = [_end(arg, scope) for arg in node.args]
    return RealSet(lambda x: any(nearly_equal(x, member) for member in members), members)


def _union(node: Node, scope: Scope) -> RealSet:
    parts = [real_set(arg, scope) for arg in node.args]
    return _combined(parts, lambda x: any(part.contains(x) for part in parts))


def _intersection(node: Node, scope: Scope) -> RealSet:
    parts = [real_set(arg, scope) for arg in node.args]
    return _combined(parts, lambda x: all(part.contains(x) for part in parts))


def _difference(node: Node, scope: Scope) -> RealSet:
    first, *removed = (real_set(arg, scope) for arg in node.args)

    def contains(x: Any) -> bool:
        return first.contains(x) and not any(part.contains(x) for part in removed)

    return _combined([first, *removed], contains)


def _combined(parts: list[RealSet], contains: Contains) -> RealSet:
    """Return a set made of parts."""
    return RealSet(
        contains,
        ends=[end for part in parts for end in part.ends],
        explicit=all(part.explicit for part in parts),
        whole=any(part.whole for part in parts),
    )


def _sum(node: Node, scope: Scope) -> RealSet:
    """Read ``A - B`` between sets as their difference."""
    first, *others = node.args
    if any(other.op != "neg" for other in others):
        raise Undecided("a sum of sets")
    removed = [other.args[0] for other in others]
    return _difference(Node("minus", (first, *removed)), scope)


# conditions


def _conditions(node: Node, scope: Scope) -> RealSet:
    """Read a list of conditions: "or" unites, "and" and commas intersect unless nothing would be left."""
    if node.value == "or":
        return _union(node, scope)
    both = _intersection(node, scope)
    if node.value == "," and not any(both.contains(x) for x in _samples(both, both)):
        return _union(node, scope)
    return both


def _builder(node: Node, scope: Scope) -> RealSet:
    element, conditions = node.args
    inner = real_set(conditions, scope)
    if element.op != "rel":
        return inner
    domain = real_set(element.args[1], scope)
    return _both(domain, inner)


def _both(first: RealSet, second: RealSet) -> RealSet:
    return _combined([first, second], lambda x: first.contains(x) and second.contains(x))


def _condition(node: Node, scope: Scope) -> RealSet:
    """Read a chain such as ``1 < x <= 2`` or ``x in A``."""
    if scope.variable is None:
        raise Undecided("a condition on no variable")
    if node.value == ("in",):
        return real_set(node.args[1], scope)
    if node.value[-1] == "in":
        outer = real_set(node.args[-1], scope)
        return _both(outer, _condition(Node("rel", node.args[:-1], node.value[:-1]), scope))
    return _chain(node, scope.variable, scope)


def _chain(node: Node, variable: str, scope: Scope) -> RealSet:
    """Read a chain of order signs."""
    fixed = [None if variable in symbols(arg) else _end(arg, scope) for arg in node.args]
    if not set(node.value) <= set(_COMPARE):
        raise Undecided("no order")
    comparisons = [_COMPARE[name] for name in node.value]

    def contains(x: Any) -> bool:
        values = _real_values(node.args, fixed, {**scope.point, variable: x}, scope.budget)
        if values is None:
            return False
        links = zip(comparisons, values, values[1:])
        return all(compare(low, high) for compare, low, high in links)

    is_solved = [end is not None or arg.op == "sym" for end, arg in zip(fixed, node.args)]
    return RealSet(contains, [end for end in fixed if end is not None], all(is_solved))


def _real_values(
    nodes: tuple[Node, ...], fixed: list[Any], point: Point, budget: Budget
) -> list[Any] | None:
    """Return the real values of nodes, those that are fixed as they are; None if one has none."""
    try:
        values = [
            evaluate(node, point, budget) if end is None else end for end, node in zip(fixed, nodes)
        ]
    except Undecided:
        return None
    if any(context().im(value) != 0 for value in values):
        return None
    return [context().re(value) for value in values]


def _named_set(node: Node, scope: Scope) -> RealSet:
    base = node.value[0]
    sign = node.value[1:]
    if base not in "RZN" or sign not in ("", "+", "*"):
        raise Undecided(f"no such set {node.value}")
    is_whole = base in "ZN"
    is_positive = base == "N" or sign == "+"

    def contains(x: Any) -> bool:
        if is_whole and x != context().nint(x):
            return False
        if is_positive and not x > 0:
            return False
        return sign != "*" or x != 0

    return RealSet(contains, [context().zero] if is_positive or sign else [], whole=is_whole)


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
_SETS: dict[str, Callable[[Node, Scope], RealSet]] = {
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
