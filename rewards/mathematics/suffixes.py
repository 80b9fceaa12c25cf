"""What follows a base: exponents, degree signs, subscripts, the base of a number."""

from __future__ import annotations

from fractions import Fraction

from rewards.mathematics.cursor import Grammar
from rewards.mathematics.digits import number
from rewards.mathematics.tokens import APPLIED, CLOSING, END
from rewards.mathematics.tree import Node, ParseError, plain_name
from rewards.mathematics.units import unit_of

__all__ = ["degrees", "power", "subscripted"]

_MINUS_ONE = Node("neg", (Node("num", (), Fraction(1)),))
_DEGREE_SIGNS = ("\\circ", "\\degree")


def power(parser: Grammar, base: Node) -> Node:
    """Return `base` raised to the exponent that follows, or an angle if that is a degree sign."""
    parser.expect("^")
    if parser.next is END or parser.next.value in CLOSING:
        if parser.lenient and base.op == "num":
            return parser.node("unit", (base,), unit_of("degree"))
        raise ParseError("no exponent")
    if _accept_degree_sign(parser):
        return degrees(parser, base)
    if parser.accept("\\prime", "'"):
        return parser.node("sym", (), f"{base.value}'")
    exponent = parser.exponent()
    if _raises_further(parser):
        exponent = power(parser, exponent)
    return _raised(parser, base, exponent)


def _raises_further(parser: Grammar) -> bool:
    """Tell whether another exponent follows, as in ``2^3^2``, which is read from the right; not a degree sign."""
    if parser.next.value != "^" or parser.next.kind != "mark":
        return False
    after = parser.peek(2) if parser.peek().value == "{" else parser.peek()
    return after.kind in ("num", "name", "mark") and after.value not in ("'", "*")


def _accept_degree_sign(parser: Grammar) -> bool:
    """Consume a degree sign, with or without braces, and tell whether there was one."""
    if parser.accept(*_DEGREE_SIGNS, "\\textcirc"):
        return True
    is_braced = parser.next.value == "{" and parser.peek(2).value == "}"
    if is_braced and parser.peek().value in _DEGREE_SIGNS:
        parser.position += 3
        return True
    return False


def _raised(parser: Grammar, base: Node, exponent: Node) -> Node:
    """Return a power, or what else an exponent writes: ``C_5^2``, ``15^{th}``, ``f^{-1}``."""
    if base.op == "sym" and exponent.op == "num":
        letter, _, count = base.value.partition("_")
        if letter == "C" and count.isdigit():
            total = parser.node("num", (), Fraction(count))
            return parser.node("call", (total, exponent), "binom")
    if exponent.op == "text" and exponent.value in ("st", "nd", "rd", "th"):
        return base
    if base.op == "sym" and base.value in APPLIED and exponent == _MINUS_ONE:
        inverse = base.value + "^-1"
        if parser.next.value != "(":
            return parser.node("sym", (), inverse)
        return parser.node("apply", (parser.atom(),), inverse)
    return parser.node("pow", (base, exponent))


# degrees, minutes, seconds


def degrees(parser: Grammar, base: Node) -> Node:
    """Return an angle, with the minutes and seconds that follow it, or a temperature."""
    angle = parser.node("unit", (base,), unit_of("degree"))
    scale = parser.next.value.strip() if parser.next.kind == "text" else parser.next.value
    if parser.next.kind in ("name", "text") and scale in ("C", "F"):
        parser.take()
        return parser.node("unit", (base,), unit_of("degree " + scale))
    parts = [angle]
    for unit in ("arcminute", "arcsecond"):
        if parser.next.kind != "num" or parser.peek().value not in ("'", "^"):
            break
        part = number(parser, parser.take().value)
        _skip_prime_marks(parser)
        parts.append(parser.node("unit", (part,), unit_of(unit)))
    if len(parts) > 1:
        return parser.node("add", tuple(parts))
    return angle


def _skip_prime_marks(parser: Grammar) -> None:
    """Consume the signs of minutes or seconds of arc."""
    if parser.accept("^"):
        is_braced = parser.accept("{")
        while parser.accept("\\prime", "'"):
            pass
        if is_braced:
            parser.expect("}")
    while parser.accept("'", '"'):
        pass


# subscripts


def subscripted(parser: Grammar, base: Node) -> Node:
    """Return a symbol with its subscript, an indexed term, or a number written in a base."""
    parser.expect("_")
    if parser.next.kind == "text":
        subscript = parser.node("text", (), parser.take().value.strip())
    elif parser.next.value == "{":
        subscript = _braced_name(parser) or parser.braced()
    else:
        subscript = parser.atom()
    if base.op in ("num", "group"):
        return _in_base(parser, base, subscript)
    name = plain_name(subscript)
    if name is not None:
        return parser.node("sym", (), f"{base.value}_{name}")
    return parser.node("apply", (subscript,), f"{base.value}_")


def _braced_name(parser: Grammar) -> Node | None:
    """Consume a braced subscript of letters and words and return it as one name; None for anything else."""
    start = parser.position + 1
    end = start
    while end < len(parser.tokens) and parser.tokens[end].value not in ("{", "}"):
        end += 1
    inside = parser.tokens[start:end]
    if not inside or end == len(parser.tokens):
        return None
    if parser.tokens[end].value != "}":
        return None
    if len(inside) == 1:
        is_name = inside[0].value in ("\\max", "\\min", "\\text")
    else:
        is_name = all(token.kind in ("name", "num", "text") for token in inside)
    if not is_name:
        return None
    parser.position = end + 1
    name = "".join(token.value.strip().strip("\\") for token in inside)
    return parser.node("text", (), name)


def _in_base(parser: Grammar, number: Node, subscript: Node) -> Node:
    """Return a whole number whose digits are written in a base from 2 to 36."""
    if subscript.op != "num" or number.op != "num":
        raise ParseError("a subscript on something that is no name")
    if number.value.denominator != 1:
        raise ParseError("a subscript on something that is no name")
    base = subscript.value
    digits = str(number.value.numerator)
    if base.denominator != 1:
        raise ParseError("no such base")
    if not 2 <= base <= 36:
        raise ParseError("no such base")
    if any(int(digit) >= base for digit in digits):
        raise ParseError("no such base")
    value = Fraction(int(digits, int(base)))
    return parser.node("based", (), (value, int(base)))
