"""Equations and inequalities of expressions: multiples of each other, and the same solution."""

from __future__ import annotations

from typing import Any

from rewards.mathematics.agreement import Agreement
from rewards.mathematics.expressions import Point, Undecided, context, fold, nearly_equal, symbols
from rewards.mathematics.real_sets import ORDERS
from rewards.mathematics.tree import Node

__all__ = ["FLIPPED", "same_equation", "same_inequality", "solves"]

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~", "==": "=="}
_MAX_UNKNOWNS = 4


def same_equation(agreement: Agreement, pred: Node, gold: Node) -> bool:
    """Tell whether two equations are multiples of each other, or give a shared symbol the same value."""
    left = _difference(pred)
    right = _difference(gold)
    if _proportional(agreement, left, right, positive=False):
        return True
    return _same_root(agreement, left, right)


def same_inequality(agreement: Agreement, pred: Node, gold: Node) -> bool:
    """Tell whether one inequality of two sides is a positive multiple of the other."""
    if len(pred.value) != 1:
        return False
    if len(gold.value) != 1:
        return False
    if not {*pred.value, *gold.value} <= ORDERS - {"!="}:
        return False
    left = _as_less(pred)
    right = _as_less(gold)
    if left.value != right.value:
        return False
    return _proportional(agreement, _difference(left), _difference(right), positive=True)


def solves(agreement: Agreement, equation: Node, value: Node) -> bool:
    """Tell whether `value` is what the equation, linear in one further symbol, gives for that symbol."""
    difference = _difference(equation)
    value = fold(value)
    unknowns = symbols(difference) - symbols(value)
    if len(unknowns) != 1:
        return False
    if not symbols(value) and len(symbols(difference)) > 1:
        return False
    name = next(iter(unknowns))
    for index in range(3):
        point = agreement.point(symbols(difference) | symbols(value), index)
        root = _root(agreement, difference, name, point)
        if root is None:
            return False
        if not nearly_equal(root, agreement.evaluate(value, point)):
            return False
    return True


def _difference(equation: Node) -> Node:
    """Return left minus right side, folded."""
    return fold(Node("add", (equation.args[0], Node("neg", (equation.args[-1],)))))


def _as_less(inequality: Node) -> Node:
    """Return an inequality with its sign turned to < or <=."""
    sign = inequality.value[0]
    if sign.startswith("<"):
        return inequality
    return Node("rel", inequality.args[::-1], (FLIPPED[sign],))


def _proportional(agreement: Agreement, left: Node, right: Node, *, positive: bool) -> bool:
    """Tell whether two expressions are constant multiples of each other."""
    ratio = None
    num_points = 0
    for index in range(6):
        point = agreement.point(symbols(left) | symbols(right), index)
        try:
            top = agreement.evaluate(left, point)
            bottom = agreement.evaluate(right, point)
        except Undecided:
            continue
        if isinstance(top, tuple) or isinstance(bottom, tuple):
            return False
        if bottom == 0 or top == 0:
            return False
        if ratio is not None and not nearly_equal(top / bottom, ratio):
            return False
        ratio = top / bottom
        num_points += 1
    return num_points >= 3 and (not positive or _is_positive(ratio))


def _is_positive(value: Any) -> bool:
    return context().im(value) == 0 and context().re(value) > 0


def _same_root(agreement: Agreement, left: Node, right: Node) -> bool:
    """Tell whether two expressions vanish for the same value of one shared symbol in which they are linear."""
    names = symbols(left)
    if names != symbols(right):
        return False
    if len(names) < 2:
        return False
    unknowns = sorted(names)[:_MAX_UNKNOWNS]
    return any(_roots_agree(agreement, left, right, name) for name in unknowns)


def _roots_agree(agreement: Agreement, left: Node, right: Node, name: str) -> bool:
    """Compare the roots of two expressions that are linear in `name`, at random values of the other symbols."""
    for index in range(3):
        point = agreement.point(symbols(left), index)
        left_root = _root(agreement, left, name, point)
        right_root = _root(agreement, right, name, point)
        if left_root is None or right_root is None:
            return False
        if not nearly_equal(left_root, right_root):
            return False
    return True


def _root(agreement: Agreement, expression: Node, name: str, point: Point) -> Any:
    """Return where an expression that is linear in `name` vanishes; None if it is not linear."""
    at_1, at_2, at_4 = (
        agreement.evaluate(expression, {**point, name: context().mpf(x)}) for x in (1, 2, 4)
    )
    slope = at_2 - at_1
    if slope == 0:
        return None
    if not nearly_equal(at_4 - at_2, 2 * slope):
        return None
    return 1 - at_1 / slope
