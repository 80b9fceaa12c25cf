"""Single values with their units, percent signs and roundings: the rules for when they agree."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Callable, NamedTuple

from rewards.mathematics.expressions import fold
from rewards.mathematics.measures import Dimensions
from rewards.mathematics.plain_number import PlainNumber, rational_agrees
from rewards.mathematics.tree import Node
from rewards.mathematics.units import Unit, power_of, product_of

__all__ = ["quantities_agree", "units_in", "without_shared_unit"]

_ANGLE = (("degree", 1),)
_RADIAN = (("radian", 1),)
_MONEY = (("dollar", 1),)
_POUNDS = (("sterling", 1),)
MAX_POWER = 12
_CHANGING = frozenset("non other without".split())
_PERCENT = frozenset(
    ("percent", "pct", "percentage", "percentage points", "percentage point", "percent points")
)
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
    def dimensions(self) -> Dimensions:
        if self.unit is None:
            return ()
        return self.unit.dimensions


def quantities_agree(pred: Node, gold: Node, lenient: bool, same: Compare, value: Evaluate) -> bool:
    """Tell whether two expressions agree under the rules on units, percent and rounding.

    `same` compares two folded expressions; `value` returns an expression's real value, or None.
    """
    pairs = _in_one_unit(_quantity(pred), _quantity(gold), lenient)
    return any(_values_agree(*pair, lenient=lenient, same=same, value=value) for pair in pairs)


def without_shared_unit(pred: Node, gold: Node) -> tuple[Node, Node] | None:
    """Return two sets of quantities as sets of numbers in one unit; None if there are no units or they clash."""
    units = [*units_in(pred), *units_in(gold)]
    if not units or any(unit.offset or not unit.is_certain for unit in units):
        return None
    if len({unit.dimensions for unit in units}) != 1:
        return None
    base = units[0].factor
    return _in_base(pred, base), _in_base(gold, base)


def units_in(node: Node) -> list[Unit]:
    """Return the units that a tree mentions."""
    units = [node.value] if node.op == "unit" else []
    for arg in node.args:
        units += units_in(arg)
    return units


def _in_base(node: Node, base: Fraction) -> Node:
    """Return a tree whose quantities are numbers of the unit with the factor `base`."""
    args = tuple(_in_base(arg, base) for arg in node.args)
    if node.op != "unit":
        return Node(node.op, args, node.value)
    if node.value.factor == base:
        return args[0]
    return Node("mul", (*args, Node("num", (), node.value.factor / base)))


# from trees to quantities


def _quantity(node: Node) -> Quantity:
    """Separate a value from its unit, percent sign and decimals."""
    if node.op in ("neg", "unit", "percent"):
        inner = _quantity(node.args[0])
        if node.op == "neg":
            return inner._replace(value=Node("neg", (inner.value,)))
        if node.op == "unit":
            return inner._replace(unit=_times(inner.unit, node.value))
        return inner._replace(percent=True)
    if node.op == "mul":
        return _of_product(node)
    if node.op == "add":
        return _of_sum(node)
    if node.op in ("div", "pow") and _has_unit(node):
        return _of_quotient(node) if node.op == "div" else _of_power(node)
    return Quantity(node, places=_places(node))


def _has_unit(node: Node) -> bool:
    return node.op == "unit" or any(map(_has_unit, node.args))


def _times(left: Unit | None, right: Unit | None) -> Unit | None:
    """Return the unit of a product; the zero of a scale is lost unless it stands alone."""
    if left is None or right is None:
        return left or right
    return product_of([left, right])


def _of_product(node: Node) -> Quantity:
    """Return a product of quantities, or one whose last factor is the word "percent", as a quantity."""
    *front, last = node.args
    if last.op == "text" and last.value.lower() in _PERCENT:
        if len(front) == 1:
            return Quantity(front[0], percent=True, places=_places(front[0]))
        return Quantity(Node("mul", tuple(front)), percent=True)
    if not _has_unit(node):
        return Quantity(node, places=_places(node))
    factors = [_quantity(arg) for arg in node.args]
    value = Node("mul", tuple(factor.value for factor in factors))
    units = [factor.unit for factor in factors if factor.unit is not None]
    unit = units[0] if len(units) == 1 else product_of(units)
    return Quantity(value, unit, places=_places(value))


def _of_quotient(node: Node) -> Quantity:
    top, bottom = map(_quantity, node.args)
    value = Node("div", (top.value, bottom.value))
    below = None if bottom.unit is None else power_of(bottom.unit, -1)
    return Quantity(value, _times(top.unit, below))


def _of_power(node: Node) -> Quantity:
    base = _quantity(node.args[0])
    exponent = fold(node.args[1])
    if base.unit is None or exponent.op != "num" or exponent.value.denominator != 1:
        return Quantity(node)
    if abs(exponent.value) > MAX_POWER:
        return Quantity(node)
    value = Node("pow", (base.value, node.args[1]))
    return Quantity(value, power_of(base.unit, int(exponent.value)))


def _of_sum(node: Node) -> Quantity:
    """Return a sum in its first unit (60 degrees 42 minutes, 2 m 5 cm), or a value whose last term carries the unit."""
    if not _has_unit(node):
        return Quantity(node, places=_places(node))
    terms = [_quantity(arg) for arg in node.args]
    units = [term.unit for term in terms]
    *front, last = units
    if not any(front) and last is not None:
        return Quantity(Node("add", tuple(term.value for term in terms)), last)
    first = units[0]
    if first is None:
        return Quantity(node)
    values = []
    for term in terms:
        if term.unit is None or term.dimensions != first.dimensions or term.unit.offset:
            return Quantity(node)
        ratio = Node("num", (), term.unit.factor / first.factor)
        values.append(Node("mul", (term.value, ratio)))
    return Quantity(Node("add", tuple(values)), first)


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
    measured = unit or other
    if measured is None:
        return [(left, right)]
    percent_of_other = right.percent if unit is not None else left.percent
    if not measured.is_certain or (percent_of_other and not measured.is_noun):
        return []
    pairs = [(left, right)]
    if measured.dimensions == _ANGLE:
        pairs.append((_radians(left), _radians(right)))
    return pairs


def _converted(left: Quantity, right: Quantity, lenient: bool) -> list[tuple[Quantity, Quantity]]:
    """Return two quantities with units in one unit; none if that is impossible."""
    assert left.unit is not None and right.unit is not None
    if left.percent != right.percent:
        return []
    if not (left.unit.is_certain or right.unit.is_certain) and left.unit != right.unit:
        return []  # ``2h`` and ``7200s`` may as well be products of symbols
    if left.dimensions == right.dimensions:
        if not _same_thing(left.unit.noun, right.unit.noun, lenient):
            return []
        if (left.unit.factor, left.unit.offset) == (right.unit.factor, right.unit.offset):
            return [(left, right)]
        return [(_scaled(left, left.unit), _scaled(right, right.unit))]
    if {left.dimensions, right.dimensions} == {_ANGLE, _RADIAN}:
        return [(_radians(left), _radians(right))]
    pounds = left.unit.is_pound and right.dimensions == _POUNDS
    if pounds or (right.unit.is_pound and left.dimensions == _POUNDS):
        return [(left, right)]
    return []


def _same_thing(noun: str, other: str, lenient: bool) -> bool:
    """Tell whether two names of what is counted may be one: the same, or none; leniently one with further words."""
    words = set(noun.split())
    others = set(other.split())
    further = words ^ others
    if noun == other or "per" in further:
        return noun == other
    if not noun or not other:
        return True
    return lenient and (words < others or others < words) and further.isdisjoint(_CHANGING)


def _measured(unit: Unit | None) -> Unit | None:
    """Return a unit that carries meaning; "units" and "square units" carry none."""
    if unit is None or not (unit.dimensions or unit.noun or unit.factor != 1):
        return None
    if {name for name, _ in unit.dimensions} == {"unit"}:
        return None
    return unit


def _scaled(quantity: Quantity, unit: Unit) -> Quantity:
    """Return a quantity in its base unit."""
    value = quantity.value
    if unit.factor != 1:
        value = Node("mul", (value, Node("num", (), unit.factor)))
    if unit.offset:
        value = Node("add", (value, Node("num", (), unit.offset)))
    if value is quantity.value:
        return quantity
    return Quantity(value)


def _radians(quantity: Quantity) -> Quantity:
    """Return an angle given in degrees or another unit as a number; others stay."""
    if quantity.unit is None or quantity.dimensions not in (_ANGLE, _RADIAN):
        return quantity
    scaled = _scaled(quantity, quantity.unit)
    if quantity.dimensions == _RADIAN:
        return scaled
    return Quantity(Node("mul", (scaled.value, _HALF_TURN_PER_DEGREE)))


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
