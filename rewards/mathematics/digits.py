"""Numbers in a formula: each becomes a node that keeps the decimals it shows, for the rounding rules."""

from __future__ import annotations

from fractions import Fraction

from rewards.mathematics.cursor import Cursor
from rewards.mathematics.tree import MAX_DIGITS, Node, ParseError

__all__ = ["number"]

_BARS = ("\\overline", "\\dot", "\\bar", "\\overset")
_DOTS = ("\\ldots", "\\dots", "...", "\\cdots")


def number(cursor: Cursor, digits: str) -> Node:
    """Return the number that ``digits`` and what marks its period write; decimals become ``dec`` nodes."""
    mantissa, _, exponent = digits.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(mantissa) > MAX_DIGITS:
        raise ParseError("too many digits")
    if exponent and abs(int(exponent[:6])) > MAX_DIGITS:
        raise ParseError("too many digits")
    if point and not whole + decimals:
        raise ParseError("a point without digits")
    period = _repeating(cursor, decimals) if point else None
    if period is not None:
        return cursor.node("num", (), _repeating_value(whole, decimals, period))
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    if exponent:
        shift = int(exponent)
        num_decimals = max(0, len(decimals) - shift)
        return cursor.node("dec", (), (value * Fraction(10) ** shift, num_decimals))
    if decimals:
        return cursor.node("dec", (), (value, len(decimals)))
    return cursor.node("num", (), value)


def _repeating(cursor: Cursor, decimals: str) -> str | None:
    """Consume a bar or dot over repeating digits, brackets around them or dots after them; return the period."""
    first, second, third = (cursor.peek(ahead) for ahead in range(3))
    if first.value in _BARS and second.value == "{" and third.kind == "num":
        cursor.position += 4
        if third.value.isdigit():
            return third.value
        return None
    is_bracketed = first.value == "(" and not first.spaced and third.value == ")"
    is_last = len(cursor.tokens) == cursor.position + 3
    if is_bracketed and is_last and second.kind == "num" and second.value.isdigit():
        cursor.position += 3
        return second.value
    if first.value in _DOTS and len(decimals) >= 2:
        period = _shown_period(decimals)
        if period is not None:
            cursor.take()
        return period
    return None


def _shown_period(decimals: str) -> str | None:
    """Return the period that decimals such as 333 or 142142 show before their dots."""
    for length in range(1, len(decimals) // 2 + 1):
        period = decimals[-length:]
        if decimals.endswith(period * max(2, 3 // length)):
            return period
    return None


def _repeating_value(whole: str, decimals: str, period: str) -> Fraction:
    """Return the exact value of a repeating decimal; the period may already be part of `decimals`."""
    scale = 10 ** len(decimals)
    lead = Fraction(int((whole or "0") + decimals), scale)
    return lead + Fraction(int(period), scale * (10 ** len(period) - 1))
