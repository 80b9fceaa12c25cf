"""What stands next to a factor without an operator: a mixed number's fraction, a unit, words, another factor."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rewards.mathematics.cursor import Grammar
from rewards.mathematics.digits import number
from rewards.mathematics.tokens import (
    APPLIED,
    CLOSING,
    CONNECTORS,
    DIVIDE,
    FRACTIONS,
    MULTIPLIERS,
    OPENING,
    RELATIONS,
    SET_OPERATIONS,
    TIMES,
    Token,
)
from rewards.mathematics.tree import Node, ParseError, is_domain, is_proper
from rewards.mathematics.units import Unit, product_of, qualified, unit_of

__all__ = ["joined_text", "juxtapose", "starts_factor"]

_BREAKS = frozenset(
    ", ; : . + - \\pm \\mp \\\\ & \\end \\and \\or \\land \\lor \\wedge \\vee \\choose \\over \\not \\hline \\forall"
    " \\vert \\mid \\pmod \\bmod \\mod".split()
) | {""}
_ENDS_PRODUCT = (
    _BREAKS | TIMES | DIVIDE | CLOSING | frozenset(RELATIONS) | frozenset(SET_OPERATIONS)
)
_STOP_WORDS = frozenset(
    "for where with such if when unless as given assuming otherwise over on".split()
)


def starts_factor(parser: Grammar, token: Token) -> bool:
    """Tell whether the next token continues a product without a sign."""
    value = token.value
    if token.kind in ("num", "name"):
        closes_integral = parser.open_integrals > 0 and value == "d"
        return not (closes_integral and parser.peek().kind in ("name", "cmd"))
    if token.kind == "text":
        return not _ends_expression(value)
    if token.kind == "unit":
        return True
    if value in ("|", "\\|"):
        return not parser.open_bars and not parser.bar_separates
    if value in _ENDS_PRODUCT:
        return False
    return value in OPENING or value == "{" or token.kind == "cmd"


def juxtapose(parser: Grammar, factors: list[Node]) -> None:
    """Append the next factor, or combine it with the last: a mixed number, a quantity, a function's argument."""
    token = parser.next
    last = factors[-1]
    follows_digits = parser.previous.kind == "num"
    is_whole = last.op == "num" and last.value.denominator == 1 and follows_digits
    if token.kind == "text":
        _append_text(parser, factors)
    elif token.kind == "unit":
        _append_unit(parser, factors)
    elif token.kind == "num" and follows_digits:
        if not is_whole:
            raise ParseError("two numbers side by side")
        factors[-1] = _mixed_number(parser, last)
    else:
        factor = parser.factor()
        if is_domain(factor):
            return
        is_fraction = is_whole and token.value in FRACTIONS
        combined = _with_fraction(parser, last, factor) if is_fraction else None
        if combined is None and factor.op != "percent":
            combined = _combined(parser, last, factor, follows_bracket=token.value == "(")
        if combined is None:
            factors.append(factor)
        else:
            factors[-1] = combined


def _mixed_number(parser: Grammar, whole: Node) -> Node:
    """Return ``2 3/4``, of which the whole part is read."""
    if parser.peek().value != "/":
        raise ParseError("two numbers side by side")
    if parser.peek(2).kind != "num":
        raise ParseError("two numbers side by side")
    top = parser.take()
    parser.take()
    bottom = parser.take()
    numerator = number(parser, top.value)
    fraction = parser.node("div", (numerator, number(parser, bottom.value)))
    return parser.node("add", (whole, fraction), "mixed")


def _with_fraction(parser: Grammar, whole: Node, factor: Node) -> Node | None:
    r"""Return the mixed number of ``2\frac{3}{4}`` or ``2\frac{3}{4}\%``; None for any other factor."""
    is_percent = factor.op == "percent"
    fraction = factor.args[0] if is_percent else factor
    if fraction.op != "div" or not is_proper(fraction):
        return None
    mixed = parser.node("add", (whole, fraction), "mixed")
    if is_percent:
        return parser.node("percent", (mixed,))
    return mixed


def _combined(parser: Grammar, last: Node, factor: Node, *, follows_bracket: bool) -> Node | None:
    r"""Return ``60^\circ 30'`` as a sum and ``f(x)`` as an application; None for a product."""
    if last.op == "unit" and factor.op == "unit":
        if last.value.dimensions == factor.value.dimensions:
            return parser.node("add", (last, factor))
        return None
    is_group = factor.op == "group"
    if last.op != "sym" or not follows_bracket:
        return None
    if not (is_group or last.value in APPLIED):
        return None
    arguments = factor.args if is_group else (factor,)
    if last.value == "C" and len(arguments) == 2:
        return parser.node("call", arguments, "binom")
    return parser.node("apply", arguments, last.value)


# words


def joined_text(parser: Grammar) -> str:
    """Consume the words that follow each other and return them as one text."""
    pieces = [parser.take().value.strip()]
    while parser.next.kind == "text" and not _ends_expression(parser.next.value):
        pieces.append(parser.take().value.strip())
    return " ".join(piece for piece in pieces if piece)


def _ends_expression(words: str) -> bool:
    """Tell whether words end an expression: a connector or a qualifier."""
    bare = words.strip(" ,;").lower()
    return bare in CONNECTORS or bare.split(" ")[0] in _STOP_WORDS


def _append_text(parser: Grammar, factors: list[Node]) -> None:
    """Give the last factor the unit or noun that follows."""
    words = joined_text(parser)
    if factors[-1].op in ("num", "dec"):
        words += _per(parser)
    factors[-1] = _with_text(parser, factors[-1], words)


def _per(parser: Grammar) -> str:
    """Consume a slash with the word behind it, and return them as " per hour"; empty if none follows."""
    if parser.next.value != "/" or parser.peek().kind != "text":
        return ""
    if unit_of(parser.peek().value) is None:
        return ""
    parser.take()
    return f" per {joined_text(parser)}"


def _append_unit(parser: Grammar, factors: list[Node]) -> None:
    """Give the last factor the unit that follows; ``2 hours 30 minutes`` becomes a sum."""
    unit = unit_of(parser.take().value)
    assert unit is not None
    unit = qualified(unit, _per(parser)) or unit
    last = factors[-1]
    factors[-1] = _with_unit(parser, last, unit)
    if len(factors) == 1 or last.op not in ("num", "dec"):
        return
    larger = _last_unit(factors[-2])
    if larger is None or larger.dimensions != unit.dimensions or larger.factor <= unit.factor:
        return
    factors[-2:] = [parser.node("add", (factors[-2], factors[-1]))]


def _last_unit(node: Node) -> Unit | None:
    """Return the unit of a quantity, or of the last term of a sum of quantities."""
    if node.op == "add" and node.args[-1].op == "unit":
        return node.args[-1].value
    return node.value if node.op == "unit" else None


def _with_unit(parser: Grammar, value: Node, unit: Unit) -> Node:
    """Return a value with a unit; a tuple or set gives it to its members."""
    if value.op in ("group", "set"):
        members = tuple(_with_unit(parser, arg, unit) for arg in value.args)
        return parser.node(value.op, members, value.value)
    if value.op == "unit":
        both = product_of([value.value, unit])
        return parser.node("unit", value.args, replace(both, is_certain=value.value.is_certain))
    if value.op == "div" and value.args[0].op == "unit":
        divisor = parser.node("unit", (value.args[1],), unit)
        return parser.node("div", (value.args[0], divisor))
    return parser.node("unit", (value,), unit)


def _with_text(parser: Grammar, left: Node, words: str) -> Node:
    """Return a quantity with the unit or noun that `words` name."""
    exponent = None
    if parser.next.value == "^":
        parser.take()
        exponent = parser.exponent()
    name = words.strip(" .,")
    if left.op == "text":
        return parser.node("text", (), f"{left.value} {name}")
    if exponent is not None and exponent.op == "num":
        name = f"{name}^{exponent.value}"
    if name.lower() in ("st", "nd", "rd", "th", ""):
        return left
    first, _, rest = name.partition(" ")
    if first.lower() in MULTIPLIERS:
        multiplier = parser.node("num", (), Fraction(MULTIPLIERS[first.lower()]))
        product = parser.node("mul", (left, multiplier))
        if rest.strip():
            return _with_text(parser, product, rest)
        return product
    if left.op == "unit":
        named = qualified(left.value, name)
        if named is not None:
            return parser.node("unit", left.args, named)
    unit = unit_of(name)
    if unit is None or left.op == "unit":
        return parser.node("mul", (left, parser.node("text", (), name)))
    return parser.node("unit", (left,), unit)
