"""What stands in brackets, braces or bars: tuples, intervals, sets, set-builders, absolute values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewards.mathematics.tokens import MONEY, OPENING
from rewards.mathematics.tree import Node, ParseError
from rewards.mathematics.units import unit_of

if TYPE_CHECKING:
    from rewards.mathematics.latex import Parser

__all__ = ["bracketed"]


def bracketed(parser: Parser, opening: str) -> Node:
    """Return what stands in brackets, braces or bars."""
    parser.deeper()
    if opening == "{":
        parser.position -= 1
        result = parser.braced()
    elif opening in ("|", "\\|"):
        result = _between_bars(parser, opening)
    elif opening in ("\\{", "\\lbrace"):
        result = _braces(parser)
    elif opening in MONEY:
        result = parser.node("unit", (parser.operand(),), unit_of(MONEY[opening]))
    elif opening in OPENING or opening == "]":
        result = _group(parser, opening)
    else:
        raise ParseError(f"misplaced {opening or 'end'}")
    parser.depth -= 1
    return result


def _between_bars(parser: Parser, bar: str) -> Node:
    """Return an absolute value."""
    parser.bars += 1
    content = parser.statement()
    parser.expect(bar)
    parser.bars -= 1
    return parser.node("call", (content,), "abs")


def _braces(parser: Parser) -> Node:
    """Return a set, or a set-builder: its element, and the conditions behind the bar."""
    outer = parser.bars, parser.separator_bar
    parser.bars, parser.separator_bar = 0, True
    if parser.accept("\\}", "\\rbrace"):
        parser.bars, parser.separator_bar = outer
        return parser.node("set", ())
    element = parser.items()
    parser.separator_bar = False
    if parser.accept("|", "\\mid", ":", "\\vert", "\\middle"):
        result = parser.node("builder", (element, _conditions(parser)))
    else:
        result = parser.node("set", _semicolons(parser, element))
    if not parser.accept("\\}", "\\rbrace"):
        raise ParseError("an open brace")
    parser.bars, parser.separator_bar = outer
    return result


def _conditions(parser: Parser) -> Node:
    """Return a set-builder's conditions."""
    return parser.items()


def _semicolons(parser: Parser, first: Node) -> tuple[Node, ...]:
    """Return the items that commas or semicolons separate in brackets."""
    items = list(first.args if first.op == "list" else (first,))
    while parser.accept(";"):
        more = parser.items()
        items += more.args if more.op == "list" else (more,)
    return tuple(items)


def _group(parser: Parser, opening: str) -> Node:
    """Return a bracketed expression; two or more items make a tuple or interval, ends kept."""
    outer = parser.bars, parser.separator_bar
    parser.bars, parser.separator_bar = 0, False
    if opening in ("(", "[") and parser.accept({"(": ")", "[": "]"}[opening]):
        parser.bars, parser.separator_bar = outer
        return parser.node("group", (), opening)
    content = parser.items()
    items = _semicolons(parser, content)
    while parser.accept("."):
        pass
    closing = parser.take().value
    parser.bars, parser.separator_bar = outer
    return _closed(parser, opening, closing, content, items)


def _closed(
    parser: Parser, opening: str, closing: str, content: Node, items: tuple[Node, ...]
) -> Node:
    """Return the node of a bracket pair and its items."""
    if opening in ("\\lfloor", "\\lceil", "\\lvert", "\\lVert"):
        if closing != OPENING[opening]:
            raise ParseError("brackets do not match")
        return parser.node(
            "call", (content,), {"\\lfloor": "floor", "\\lceil": "ceil"}.get(opening, "abs")
        )
    opening, closing = (
        {"\\langle": "(", "\\lbrack": "[", "]": "("}.get(opening, opening),
        {"\\rangle": ")", "\\rbrack": "]", "[": ")"}.get(closing, closing),
    )
    if closing not in (")", "]"):
        raise ParseError("brackets do not match")
    if len(items) == 1:
        if items[0].op == "matrix" or {"(": ")", "[": "]"}[opening] == closing:
            return items[0]
        raise ParseError("brackets do not match")
    return parser.node("group", items, opening + closing)
