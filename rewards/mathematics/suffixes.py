"""What follows a base: exponents, degree signs, subscripts, the base of a number."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from rewards.mathematics.digits import number
from rewards.mathematics.tokens import APPLIED, CLOSING, END
from rewards.mathematics.tree import Node, ParseError, plain_name
from rewards.mathematics.units import unit_of

if TYPE_CHECKING:
    from rewards.mathematics.latex import Parser

__all__ = ["degrees", "power", "subscripted"]


def power(parser: Parser, base: Node) -> Node:
    """Return `base` raised to the exponent that follows, or an angle where that is a degree sign."""
    parser.expect("^")
    if parser.next is END or parser.next.value in CLOSING:
        if parser.lenient and base.op == "num":
            return parser.node("unit", (base,), unit_of("degree"))
        raise ParseError("no exponent")
    if parser.accept("\\circ", "\\degree", "\\textcirc"):
        return degrees(parser, base)
    if (
        parser.next.value == "{"
        and parser.peek().value in ("\\circ", "\\degree")
        and parser.peek(2).value == "}"
    ):
        parser.position += 3
        return degrees(parser, base)
    if parser.accept("\\prime", "'"):
        return parser.node("sym", (), f"{base.value}'")
    exponent = parser.exponent()
    if (
        base.op == "sym"
        and base.value.startswith("C_")
        and base.value[2:].isdigit()
        and exponent.op == "num"
    ):
        return parser.node(
            "call", (parser.node("num", (), Fraction(base.value[2:])), exponent), "binom"
        )
    if exponent.op == "text" and exponent.value in ("st", "nd", "rd", "th"):
        return base
    if (
        base.op == "sym"
        and base.value in APPLIED
        and exponent == Node("neg", (Node("num", (), Fraction(1)),))
    ):
        return (
            parser.node("sym", (), base.value + "^-1")
            if parser.next.value != "("
            else _inverse(parser, base)
        )
    return parser.node("pow", (base, exponent))


def _inverse(parser: Parser, base: Node) -> Node:
    """Return the inverse function of a name applied to what follows."""
    return parser.node("apply", (parser.atom(),), base.value + "^-1")


def degrees(parser: Parser, base: Node) -> Node:
    """Return an angle, with the minutes and seconds that follow it."""
    angle = parser.node("unit", (base,), unit_of("degree"))
    if (
        parser.next.value in ("C", "F")
        and parser.next.kind == "name"
        or parser.next.kind == "text"
        and parser.next.value.strip() in ("C", "F")
    ):
        return parser.node("unit", (base,), unit_of("degree " + parser.take().value.strip()))
    parts = [angle]
    while parser.next.kind == "num" and parser.peek().value in ("'", "^") and len(parts) < 3:
        part = number(parser, parser.take().value)
        _prime_marks(parser)
        parts.append(
            parser.node("unit", (part,), unit_of("arcminute" if len(parts) == 1 else "arcsecond"))
        )
    return parser.node("add", tuple(parts)) if len(parts) > 1 else angle


def _prime_marks(parser: Parser) -> None:
    """Consume the signs of minutes or seconds of arc."""
    if parser.accept("^"):
        braced = parser.accept("{")
        while parser.accept("\\prime", "'"):
            pass
        if braced:
            parser.expect("}")
    while parser.accept("'", '"'):
        pass


def subscripted(parser: Parser, base: Node) -> Node:
    """Return a symbol with its subscript, an indexed term, or a number written in a base."""
    parser.expect("_")
    if parser.next.kind == "text":
        subscript = parser.node("text", (), parser.take().value.strip())
    elif parser.next.value == "{":
        subscript = _subscript_group(parser)
    else:
        subscript = parser.atom()
    if base.op in ("num", "group"):
        return _in_base(parser, base, subscript)
    name = plain_name(subscript)
    if name is not None:
        return parser.node("sym", (), f"{base.value}_{name}")
    return parser.node("apply", (subscript,), f"{base.value}_")


def _subscript_group(parser: Parser) -> Node:
    """Return what stands in a braced subscript; runs of letters and words become a name."""
    start = parser.position
    end = start + 1
    while end < len(parser.tokens) and parser.tokens[end].value not in ("{", "}"):
        end += 1
    inside = parser.tokens[start + 1 : end]
    is_name = all(token.kind in ("name", "num", "text") for token in inside) and len(inside) > 1
    is_name = is_name or (len(inside) == 1 and inside[0].value in ("\\max", "\\min", "\\text"))
    if inside and is_name and end < len(parser.tokens) and parser.tokens[end].value == "}":
        parser.position = end + 1
        return parser.node("text", (), "".join(token.value.strip().strip("\\") for token in inside))
    return parser.braced()


def _in_base(parser: Parser, number: Node, subscript: Node) -> Node:
    """Return a whole number whose digits are written in a base from 2 to 36."""
    if subscript.op != "num" or number.op != "num" or number.value.denominator != 1:
        raise ParseError("a subscript on something that is no name")
    base, digits = subscript.value, str(number.value.numerator)
    if base.denominator != 1 or not 2 <= base <= 36 or any(int(digit) >= base for digit in digits):
        raise ParseError("no such base")
    return parser.node("based", (), (Fraction(int(digits, int(base))), int(base)))
