"""Single values with their units, percent signs and roundings: the rules for when they agree."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Callable, NamedTuple

from rewards.mathematics.expressions import fold
from rewards.mathematics.plain_number import PlainNumber, rational_agrees
from rewards.mathematics.tree import Node
from rewards.mathematics.units import Unit

__all__ = ["quantities_agree"]

_ANGLE = (("angle", 1),)
_RADIAN = (("radian", 1),)
_MONEY = (("money", 1),)
_TEN = Node("num", (), Fraction(10))
_HALF_TURN_PER_DEGREE = Node("div", (Node("const", (), "pi"), Node("num", (), Fraction(180))))

Compare = Callable[[Node, Node], bool]
Evaluate = Callable[[Node], Any]


class Quantity(NamedTuple):
    """A value, its unit if any, whether a percent sign follows, and the decimals it shows (None: exact)."""

    value: Node
    unit: Unit | None = None
    percent: bool = False
    places: int | None = None

    @property
    def dimensions(self) -> tuple[tuple[str, int], ...]:
        if self.unit is None:
            return ()
        return self.unit.dimensions


def quantities_agree(pred: Node, gold: Node, lenient: bool, same: Compare, value: Evaluate) -> bool:
    """Tell whether two expressions agree under the rules on units, percent and rounding.

    `same` compares two folded expressions; `value` returns an expression's real value, or None.
    """
    pairs = _in_one_unit(_quantity(pred), _quantity(gold), lenient)
    return any(_values_agree(*pair, lenient=lenient, same=same, value=value) for pair in pairs)


# from trees to quantities


def _quantity(node: Node) -> Quantity:
    """Separate a value from its unit, percent sign and decimals."""
    if node.op in ("neg", "unit", "percent"):
        inner = _quantity(node.args[0])
        if node.op == "neg":
            return inner._replace(value=Node("neg", (inner.value,)))
        if node.op == "unit":
            return inner._replace(unit=node.value)
        return inner._replace(percent=True)
    if node.op == "mul":
        return _of_product(node)
    if node.op == "add" and all(arg.op == "unit" for arg in node.args):
        return _compound(node)
    return Quantity(node, places=_places(node))


def _of_product(node: Node) -> Quantity:
    """Return a product whose last factor is a unit or the word "percent" as a quantity."""
    *front, last = node.args
    if last.op == "text" and last.value.lower() in ("percent", "pct", "percentage"):
        if len(front) == 1:
            return Quantity(front[0], percent=True, places=_places(front[0]))
        return Quantity(Node("mul", tuple(front)), percent=True)
    if last.op == "unit":
        return Quantity(Node("mul", (*front, last.args[0])), last.value)
    return Quantity(node, places=_places(node))


def _compound(node: Node) -> Quantity:
    """Return a sum of units of one kind (60 degrees 42 minutes, 2 m 5 cm) in the first one's unit."""
    first: Unit = node.args[0].value
    terms = []
    for arg in node.args:
        unit: Unit = arg.value
        if unit.dimensions != first.dimensions:
            return Quantity(node)
        terms.append(Node("mul", (arg.args[0], Node("num", (), unit.factor / first.factor))))
    return Quantity(Node("add", tuple(terms)), first)


def _places(node: Node) -> int | None:
    """Return how many decimals a written decimal shows, also in scientific notation; None for the exact."""
    if node.op == "dec":
        return node.value[1]
    if node.op == "neg":
        return _places(node.args[0])
    if node.op != "mul":
        return None
    if len(node.args) != 2:
        return None
    if node.args[0].op != "dec":
        return None
    decimal, factor = node.args
    power = fold(factor)
    if factor.op != "pow":
        return None
    if fold(factor.args[0]) != _TEN:
        return None
    if power.op != "num":
        return None
    shift = len(str(power.value.numerator)) - len(str(power.value.denominator))
    return decimal.value[1] - shift


# units


def _in_one_unit(left: Quantity, right: Quantity, lenient: bool) -> list[tuple[Quantity, Quantity]]:
    """Return the pairs of unitless values that would make the quantities agree; none if the units clash."""
    unit = _measured(left.unit)
    other = _measured(right.unit)
    if unit is not None and other is not None:
        return _converted(left._replace(unit=unit), right._replace(unit=other), lenient)
    pairs = [(left, right)]
    measured = unit or other
    if measured is not None and measured.dimensions == _ANGLE:
        pairs.append((_radians(left), _radians(right)))
    return pairs


def _converted(left: Quantity, right: Quantity, lenient: bool) -> list[tuple[Quantity, Quantity]]:
    """Return two quantities with units in one unit; none if that is impossible."""
    assert left.unit is not None and right.unit is not None
    if left.dimensions == right.dimensions:
        if left.unit.factor == right.unit.factor:
            return [(left, right)]
        return [(_scaled(left, left.unit.factor), _scaled(right, right.unit.factor))]
    if {left.dimensions, right.dimensions} == {_ANGLE, _RADIAN}:
        return [(_radians(left), _radians(right))]
    both_count = left.unit.is_noun and right.unit.is_noun
    if lenient and both_count:
        return [(left, right)]
    return []


def _measured(unit: Unit | None) -> Unit | None:
    """Return a unit that carries meaning; "units" and "square units" carry none."""
    if unit is None:
        return None
    if {name for name, _ in unit.dimensions} == {"unit"}:
        return None
    return unit


def _scaled(quantity: Quantity, factor: Fraction) -> Quantity:
    """Return a quantity in its base unit."""
    if factor == 1:
        return quantity
    return Quantity(Node("mul", (quantity.value, Node("num", (), factor))))


def _radians(quantity: Quantity) -> Quantity:
    """Return an angle given in degrees as a number; others stay."""
    if quantity.unit is None or quantity.dimensions != _ANGLE:
        return quantity
    degrees = _scaled(quantity, quantity.unit.factor).value
    return Quantity(Node("mul", (degrees, _HALF_TURN_PER_DEGREE)))


# values


def _values_agree(
    left: Quantity, right: Quantity, *, lenient: bool, same: Compare, value: Evaluate
) -> bool:
    """Compare two unitless values under the percent and rounding rules."""
    pred = fold(left.value)
    gold = fold(right.value)
    if not (pred.op == gold.op == "num"):
        pairs = _percent_pairs(pred, gold, left.percent, right.percent)
        if any(same(*pair) for pair in pairs):
            return True
    pred_value = _rational(pred, value)
    gold_value = _rational(gold, value)
    if pred_value is None or gold_value is None:
        return False
    money = "$" if _MONEY in (left.dimensions, right.dimensions) else ""
    pred_number = PlainNumber(pred_value, left.places, left.percent, money)
    gold_number = PlainNumber(gold_value, right.places, right.percent, money)
    return rational_agrees(pred_number, gold_number, lenient)


def _percent_pairs(
    pred: Node, gold: Node, pred_percent: bool, gold_percent: bool
) -> list[tuple[Node, Node]]:
    """Return the readings of two values; one percent sign may be dropped or mean hundredths."""
    pairs = [(pred, gold)]
    if pred_percent and not gold_percent:
        pairs.append((fold(Node("percent", (pred,))), gold))
    if gold_percent and not pred_percent:
        pairs.append((pred, fold(Node("percent", (gold,)))))
    return pairs


def _rational(node: Node, value: Evaluate) -> Fraction | None:
    """Return a value as a fraction: exact, or to the digits of the numeric evaluation; None if it has none."""
    if node.op == "num":
        return node.value
    number = value(node)
    if number is None:
        return None
    sign, mantissa, exponent, _ = number._mpf_
    magnitude = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -magnitude if sign else magnitude
