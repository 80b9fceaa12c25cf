"""Brackets, braces and bars: tuples, intervals, sets, set-builders, absolute values."""

from __future__ import annotations

from rewards.mathematics.cursor import Grammar
from rewards.mathematics.tokens import MONEY, OPENING
from rewards.mathematics.tree import Node, ParseError
from rewards.mathematics.units import unit_of

__all__ = ["bracketed"]

_SUCH_THAT = ("|", "\\mid", ":", "\\vert", "\\middle")
_CLOSES = {"(": ")", "[": "]"}
_PLAIN_OPENING = {"\\langle": "(", "\\lbrack": "[", "]": "("}
_PLAIN_CLOSING = {"\\rangle": ")", "\\rbrack": "]", "[": ")"}
_APPLIED = {"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs", "\\lVert": "abs"}


def bracketed(parser: Grammar, opening: str) -> Node:
    """Return what the brackets hold that ``opening``, already consumed, opens."""
    with parser.level():
        if opening == "{":
            parser.position -= 1
            content = parser.braced()
        elif opening in ("|", "\\|"):
            content = _between_bars(parser, opening)
        elif opening in ("\\{", "\\lbrace"):
            content = _braces(parser)
        elif opening in MONEY:
            content = parser.node("unit", (parser.operand(),), unit_of(MONEY[opening]))
        elif opening in OPENING or opening == "]":
            content = _group(parser, opening)
        else:
            raise ParseError(f"misplaced {opening or 'end'}")
    return content


def _between_bars(parser: Grammar, bar: str) -> Node:
    """Return an absolute value, or the determinant of a square matrix."""
    parser.open_bars += 1
    content = parser.statement()
    parser.expect(bar)
    parser.open_bars -= 1
    if bar == "|" and content.op == "matrix" and len(set(content.value)) == 1:
        return parser.node("call", (content,), "det")
    return parser.node("call", (content,), "abs")


def _braces(parser: Grammar) -> Node:
    """Return a set, or a set-builder: its element, and the conditions after the bar."""
    has_inner_braces = parser.next.value == "{" and parser.peek().value == "\\begin"
    if has_inner_braces or parser.next.value == "\\begin":
        system = parser.atom()
        parser.accept("\\}", "\\rbrace")
        return parser.node("cases", system.args) if system.op == "matrix" else system
    outside = parser.open_group(bar_separates=True)
    if parser.accept("\\}", "\\rbrace"):
        parser.close_group(outside)
        return parser.node("set")
    element = parser.items()
    parser.bar_separates = False
    if parser.accept(*_SUCH_THAT):
        braces = parser.node("builder", (element, parser.items()))
    else:
        braces = parser.node("set", _semicolons(parser, element))
    if not parser.accept("\\}", "\\rbrace"):
        raise ParseError("an open brace")
    parser.close_group(outside)
    return braces


def _semicolons(parser: Grammar, first: Node) -> tuple[Node, ...]:
    """Return the items that commas or semicolons separate in brackets."""
    return tuple(item for row in _rows(parser, first) for item in row)


def _rows(parser: Grammar, first: Node) -> list[tuple[Node, ...]]:
    """Return the items between commas of what semicolons separate."""
    rows = [_members(first)]
    while parser.accept(";"):
        rows.append(_members(parser.items()))
    return rows


def _members(node: Node) -> tuple[Node, ...]:
    if node.op == "list":
        return node.args
    return (node,)


def _group(parser: Grammar, opening: str) -> Node:
    """Return a bracketed expression; two or more items make a tuple or interval that keeps its brackets."""
    outside = parser.open_group(bar_separates=False)
    if opening in _CLOSES and parser.accept(_CLOSES[opening]):
        parser.close_group(outside)
        return parser.node("group", (), opening)
    content = parser.items()
    rows = _rows(parser, content)
    items = tuple(item for row in rows for item in row)
    while parser.accept("."):
        pass
    closing = parser.take().value
    parser.close_group(outside)
    widths = {len(row) for row in rows}
    if opening == "[" and closing == "]" and len(rows) > 1 and len(widths) == 1 and widths != {1}:
        return parser.node("matrix", items, (len(rows), len(rows[0])))
    if opening in _APPLIED:
        if closing != OPENING[opening]:
            raise ParseError("brackets do not match")
        return parser.node("call", (content,), _APPLIED[opening])
    return _tuple_or_value(parser, items, opening=opening, closing=closing)


def _tuple_or_value(
    parser: Grammar, items: tuple[Node, ...], *, opening: str, closing: str
) -> Node:
    """Return the group of several items, or the value of one in matching brackets."""
    opening = _PLAIN_OPENING.get(opening, opening)
    closing = _PLAIN_CLOSING.get(closing, closing)
    if closing not in (")", "]"):
        raise ParseError("brackets do not match")
    if len(items) > 1:
        return parser.node("group", items, opening + closing)
    if items[0].op != "matrix" and _CLOSES[opening] != closing:
        raise ParseError("brackets do not match")
    return items[0]
