"""Single values with their units, percent signs and roundings: the rules for when they agree."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Callable, NamedTuple

from rewards.mathematics.expressions import fold
from rewards.mathematics.plain_number import PlainNumber, rational_agrees
from rewards.mathematics.tree import Node
from rewards.mathematics.units import Unit

__all__ = ["quantities_agree"]

_ANGLE, _RADIAN = (("angle", 1),), (("radian", 1),)


class Quantity(NamedTuple):
    """A value, its unit if any, whether a percent sign follows, and the decimals it shows (None: exact)."""

    value: Node
    unit: Unit | None = None
    percent: bool = False
    places: int | None = None


def quantities_agree(
    pred: Node,
    gold: Node,
    lenient: bool,
    same: Callable[[Node, Node], bool],
    value: Callable[[Node], Any],
) -> bool:
    """Tell whether two expressions agree under the rules on units, percent and rounding.

    `same` compares two folded expressions; `value` returns an expression's real value, or None.
    """
    left, right = _quantity(pred), _quantity(gold)
    return any(
        _values_agree(a, b, lenient, same, value) for a, b in _in_one_unit(left, right, lenient)
    )


def _quantity(node: Node) -> Quantity:
    """Take the unit, sign and decimals off a value."""
    if node.op == "neg":
        inner = _quantity(node.args[0])
        return inner._replace(value=Node("neg", (inner.value,)))
    if node.op == "unit":
        inner = _quantity(node.args[0])
        return inner._replace(unit=node.value)
    if node.op == "percent":
        inner = _quantity(node.args[0])
        return inner._replace(percent=True)
    if (
        node.op == "mul"
        and node.args[-1].op == "text"
        and node.args[-1].value.lower() in ("percent", "pct", "percentage")
    ):
        rest = node.args[:-1]
        return Quantity(
            rest[0] if len(rest) == 1 else Node("mul", rest),
            None,
            True,
            _places(rest[0]) if len(rest) == 1 else None,
        )
    if node.op == "mul" and node.args[-1].op == "unit":
        *front, last = node.args
        return Quantity(Node("mul", (*front, last.args[0])), last.value)
    if node.op == "add" and all(arg.op == "unit" for arg in node.args):
        return _compound(node)
    return Quantity(node, None, False, _places(node))


def _compound(node: Node) -> Quantity:
    """Return a sum of units of one kind (60 degrees 42 minutes, 2 m 5 cm) in the first one's unit."""
    first: Unit = node.args[0].value
    if any(arg.value.dimensions != first.dimensions for arg in node.args):
        return Quantity(node)
    terms = tuple(
        Node("mul", (arg.args[0], Node("num", (), arg.value.factor / first.factor)))
        for arg in node.args
    )
    return Quantity(Node("add", terms), first)


def _places(node: Node) -> int | None:
    """Return how many decimals a written decimal shows, also in scientific notation; None for the exact."""
    if node.op == "dec":
        return node.value[1]
    if node.op == "neg":
        return _places(node.args[0])
    if node.op == "mul" and len(node.args) == 2 and node.args[0].op == "dec":
        power = fold(node.args[1])
        ten = node.args[1].op == "pow" and fold(node.args[1].args[0]) == Node(
            "num", (), Fraction(10)
        )
        if ten and power.op == "num":
            shift = len(str(power.value.numerator)) - len(str(power.value.denominator))
            return node.args[0].value[1] - shift
    return None


def _in_one_unit(left: Quantity, right: Quantity, lenient: bool) -> list[tuple[Quantity, Quantity]]:
    """Return the pairs of unitless values that would make the quantities agree; none where units clash."""
    a, b = _measured(left.unit), _measured(right.unit)
    if a is None and b is None:
        return [(left, right)]
    if a is not None and b is not None:
        if a.dimensions == b.dimensions:
            return (
                [(left, right)]
                if a.factor == b.factor
                else [(_scaled(left, a.factor), _scaled(right, b.factor))]
            )
        if {a.dimensions, b.dimensions} == {_ANGLE, _RADIAN}:
            return [(_radians(left), _radians(right))]
        return [(left, right)] if lenient and a.is_noun and b.is_noun else []
    pairs = [(left, right)]
    if _ANGLE in [unit.dimensions for unit in (a, b) if unit is not None]:
        pairs.append((_radians(left), _radians(right)))
    return pairs


def _measured(unit: Unit | None) -> Unit | None:
    """Return a unit that says something; "units" and "square units" say nothing."""
    return None if unit is None or {name for name, _ in unit.dimensions} == {"unit"} else unit


def _scaled(quantity: Quantity, factor: Fraction) -> Quantity:
    """Return a quantity in its base unit."""
    return (
        quantity
        if factor == 1
        else Quantity(Node("mul", (quantity.value, Node("num", (), factor))))
    )


def _radians(quantity: Quantity) -> Quantity:
    """Return an angle given in degrees as a number; others stay."""
    if quantity.unit is None or quantity.unit.dimensions != _ANGLE:
        return quantity
    half_turn = Node("div", (Node("const", (), "pi"), Node("num", (), Fraction(180))))
    return Quantity(Node("mul", (_scaled(quantity, quantity.unit.factor).value, half_turn)))


def _values_agree(
    left: Quantity,
    right: Quantity,
    lenient: bool,
    same: Callable[[Node, Node], bool],
    value: Callable[[Node], Any],
) -> bool:
    """Compare two unitless values under the percent and rounding rules."""
    pred, gold = fold(left.value), fold(right.value)
    if not (pred.op == gold.op == "num"):
        if left.percent == right.percent and same(pred, gold):
            return True
        if left.percent != right.percent and any(
            same(*pair) for pair in _percent_pairs(left, right, pred, gold)
        ):
            return True
    claimed, true = _rational(pred, value), _rational(gold, value)
    if claimed is None or true is None:
        return False
    is_money = any(
        side.unit is not None and side.unit.dimensions == (("money", 1),) for side in (left, right)
    )
    money = "$" if is_money else ""
    return rational_agrees(
        PlainNumber(claimed, left.places, left.percent, money),
        PlainNumber(true, right.places, right.percent, money),
        lenient,
    )


def _percent_pairs(
    left: Quantity, right: Quantity, pred: Node, gold: Node
) -> list[tuple[Node, Node]]:
    """Return the readings of two values of which one has a percent sign: as it stands, and as hundredths."""
    if left.percent:
        return [(pred, gold), (fold(Node("percent", (pred,))), gold)]
    return [(pred, gold), (pred, fold(Node("percent", (gold,))))]


def _rational(node: Node, value: Callable[[Node], Any]) -> Fraction | None:
    """Return a value as a fraction: exact, or to the digits of the numeric evaluation; None where there is none."""
    if node.op == "num":
        return node.value
    number = value(node)
    if number is None:
        return None
    sign, mantissa, exponent, _ = number._mpf_
    mantissa = -int(mantissa) if sign else int(mantissa)
    return Fraction(mantissa) * Fraction(2) ** int(exponent)
