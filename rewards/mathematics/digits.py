"""A written number becomes a node that keeps the decimals it shows, for the rounding rules."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from rewards.mathematics.tree import MOST_DIGITS, Node, ParseError

if TYPE_CHECKING:
    from rewards.mathematics.latex import Parser

__all__ = ["number"]


def number(parser: Parser, digits: str) -> Node:
    """Return a number; the decimals it shows are kept, for the rounding rules."""
    mantissa, _, exponent = digits.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(mantissa) > MOST_DIGITS or (exponent and abs(int(exponent[:6])) > MOST_DIGITS):
        raise ParseError("too many digits")
    if point and not whole + decimals:
        raise ParseError("a point without digits")
    period = _repeating(parser, decimals) if point else None
    if period is not None:
        return parser.node("num", (), _repeating_value(whole, decimals, period))
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    if exponent:
        return parser.node(
            "dec",
            (),
            (value * Fraction(10) ** int(exponent), max(0, len(decimals) - int(exponent))),
        )
    return (
        parser.node("dec", (), (value, len(decimals)))
        if decimals
        else parser.node("num", (), value)
    )


def _repeating(parser: Parser, decimals: str) -> str | None:
    """Consume a bar or dot over repeating digits, or the dots behind them, and return the period."""
    if (
        parser.next.value in ("\\overline", "\\dot", "\\bar", "\\overset")
        and parser.peek().value == "{"
        and parser.peek(2).kind == "num"
    ):
        digits = parser.peek(2).value
        parser.position += 4
        return digits if digits.isdigit() else None
    if (
        parser.next.value == "("
        and not parser.next.spaced
        and parser.peek().kind == "num"
        and parser.peek(2).value == ")"
    ):
        if len(parser.tokens) == parser.position + 3 and parser.peek().value.isdigit():
            parser.position += 3
            return parser.tokens[parser.position - 2].value
    if parser.next.value in ("\\ldots", "\\dots", "...", "\\cdots") and len(decimals) >= 2:
        for length in range(1, len(decimals) // 2 + 1):
            period = decimals[-length:]
            if decimals.endswith(period * max(2, 3 // length)):
                parser.take()
                return period
    return None


def _repeating_value(whole: str, decimals: str, period: str) -> Fraction:
    """Return the exact value of a repeating decimal; the period may already be part of `decimals`."""
    lead = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    return lead + Fraction(int(period), 10 ** len(decimals) * (10 ** len(period) - 1))
