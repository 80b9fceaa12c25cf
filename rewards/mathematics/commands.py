"""What a LaTeX command and its arguments stand for: functions, sums, integrals, limits, environments."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from rewards.mathematics.brackets import bracketed
from rewards.mathematics.tokens import (
    ACCENTS,
    ALIASES,
    BIG,
    BINOMIALS,
    CLOSING,
    CONSTANTS,
    END,
    FRACTIONS,
    FUNCTIONS,
    INVERSES,
    NUMBER_SETS,
    OPENING,
    RELATIONS,
)
from rewards.mathematics.tree import Node, ParseError, name_of

if TYPE_CHECKING:
    from rewards.mathematics.latex import Parser

__all__ = ["command"]


def command(parser: Parser, name: str) -> Node:
    """Return what a command and its arguments stand for."""
    if name in FRACTIONS:
        top = parser.argument()
        return parser.node("div", (top, parser.argument()))
    if name in BINOMIALS:
        top = parser.argument()
        return parser.node("call", (top, parser.argument()), "binom")
    if name == "\\sqrt":
        return _root(parser)
    if name in CONSTANTS:
        return parser.node("const", (), CONSTANTS[name])
    if name in ("\\emptyset", "\\varnothing", "\\O"):
        return parser.node("set", ())
    if name in ("\\mathbb", "\\mathbf", "\\Bbb"):
        return _number_set(parser)
    if name in OPENING:
        return bracketed(parser, name)
    if name[1:] in FUNCTIONS or name[1:] in ALIASES or name[1:] in INVERSES.values():
        return _function(parser, ALIASES.get(name[1:], name[1:]))
    if name in BIG:
        return _big(parser, BIG[name])
    return _special(parser, name)


def _special(parser: Parser, name: str) -> Node:
    """Return the rarer commands: integrals, limits, environments, boxes, accents, plain symbols."""
    if name in ("\\int", "\\lim"):
        return _integral(parser) if name == "\\int" else _limit(parser)
    if name == "\\begin":
        return _environment(parser)
    if name in (
        "\\boxed",
        "\\fbox",
        "\\mathop",
        "\\mathrm",
        "\\text",
        "\\overbrace",
        "\\underbrace",
        "\\phantom",
        "\\tag",
    ):
        return parser.argument()
    if name in ACCENTS:
        return parser.node("sym", (), f"{name}{name_of(parser.argument())}")
    if name in ("\\R", "\\Z", "\\N", "\\Q", "\\C"):
        return parser.node("numset", (), name[1:])
    if name in ("\\angle", "\\triangle", "\\measuredangle", "\\parallelogram"):
        return parser.node("sym", (), f"{name}{name_of(parser.factor())}")
    if (
        name in RELATIONS
        or name in CLOSING
        or name in ("\\end", "\\and", "\\or", "\\hline", "\\item", "")
    ):
        raise ParseError(f"misplaced {name}")
    return parser.node("sym", (), name)


def _root(parser: Parser) -> Node:
    """Return a square root or ``\\sqrt[n]{x}``."""
    index = None
    if parser.accept("["):
        index = parser.items()
        parser.expect("]")
    radicand = parser.argument()
    if index is None:
        return parser.node("call", (radicand,), "sqrt")
    return parser.node("call", (radicand, index), "root")


def _number_set(parser: Parser) -> Node:
    """Return the real, whole, natural, rational or complex numbers, or a bold symbol."""
    name = name_of(parser.argument())
    if name not in NUMBER_SETS:
        return parser.node("sym", (), name)
    while parser.next.value in ("^", "_"):
        parser.take()
        sign = parser.take()
        while sign.value == "{" and parser.next is not END and parser.take().value != "}":
            pass
        name += "+" if sign.value in ("+", "{", "*") else sign.value
    return parser.node("numset", (), name)


def _function(parser: Parser, name: str) -> Node:
    """Return a named function applied to what follows it."""
    base = exponent = None
    while parser.next.value in ("_", "^"):
        if parser.take().value == "_":
            base = parser.exponent()
        else:
            exponent = parser.exponent()
    if exponent == Node("neg", (Node("num", (), Fraction(1)),)) and name in INVERSES:
        name, exponent = INVERSES[name], None
    arguments = _arguments(parser)
    if name == "sqrt" or name == "exp":
        call = parser.node("call", arguments, name)
    elif name in ("log", "lg", "ln"):
        call = _logarithm(parser, name, arguments, base)
    else:
        call = parser.node("call", arguments, name)
    return parser.node("pow", (call, exponent)) if exponent is not None else call


def _logarithm(parser: Parser, name: str, arguments: tuple[Node, ...], base: Node | None) -> Node:
    """Return a logarithm; ``\\log`` without a base is the natural one, ``\\lg`` the decimal one."""
    if base is None and name == "lg":
        base = parser.node("num", (), Fraction(10))
    return parser.node("call", arguments if base is None else (*arguments, base), "log")


def _arguments(parser: Parser) -> tuple[Node, ...]:
    """Return a function's arguments: those in brackets, or the product that follows."""
    parser.deeper()
    if parser.next.value in ("(", "[", "{", "\\{") and parser.next.kind != "text":
        group = parser.atom()
        parser.depth -= 1
        return group.args if group.op in ("group", "set", "list") else (group,)
    if parser.next.value in ("-", "+"):
        argument = parser.signed()
        parser.depth -= 1
        return (argument,)
    factors = [parser.factor()]
    while _continues_argument(parser, factors[-1]):
        parser.juxtapose(factors)
    parser.depth -= 1
    return (parser.product(factors),)


def _continues_argument(parser: Parser, last: Node) -> bool:
    """Tell whether the next token still belongs to a function's argument without brackets."""
    token = parser.next
    if token.kind == "text" or token.value in OPENING or not parser.starts_factor(token):
        return False
    if token.kind == "cmd" and (
        token.value[1:] in FUNCTIONS or token.value in BIG or token.value == "\\int"
    ):
        return False
    return not (last.op == "call" and last.value != "sqrt")


def _big(parser: Parser, kind: str) -> Node:
    """Return a sum or product with its index, bounds and body."""
    lower = upper = None
    while parser.next.value in ("_", "^"):
        if parser.take().value == "_":
            lower = parser.exponent()
        else:
            upper = parser.exponent()
    body = parser.term()
    if lower is None or lower.op != "rel" or lower.value != ("=",) or upper is None:
        return parser.node("apply", (body, *(part for part in (lower, upper) if part)), kind)
    index, start = lower.args
    if index.op not in ("sym", "const"):
        raise ParseError("a sum without an index")
    return parser.node(kind, (body, start, upper), str(index.value))


def _integral(parser: Parser) -> Node:
    """Return an integral: its integrand, variable and, where given, bounds."""
    bounds: dict[str, Node] = {}
    while parser.next.value in ("_", "^"):
        mark = parser.take().value
        bounds[mark] = parser.exponent()
    parser.integrals += 1
    integrand = parser.node("num", (), Fraction(1)) if parser.next.value == "d" else parser.sum()
    parser.integrals -= 1
    if not (parser.next.value == "d" and parser.peek().kind in ("name", "cmd")):
        raise ParseError("an integral without its variable")
    parser.take()
    variable = parser.atom()
    if variable.op != "sym":
        raise ParseError("an integral over something that is no variable")
    args = (integrand, bounds["_"], bounds["^"]) if len(bounds) == 2 else (integrand,)
    return parser.node("int", args, variable.value)


def _limit(parser: Parser) -> Node:
    """Return a limit: its expression, variable and the point it tends to."""
    parser.expect("_")
    towards = parser.exponent()
    if towards.op != "rel" or towards.value != ("->",) or towards.args[0].op != "sym":
        raise ParseError("a limit without its variable")
    return parser.node("lim", (parser.term(), towards.args[1]), towards.args[0].value)


def _environment(parser: Parser) -> Node:
    """Return a matrix, or the rows of ``cases`` and ``aligned``."""
    name = parser.braced_name()
    if name == "array":
        parser.braced_name()
    rows: list[tuple[Node, ...]] = [()]
    while not parser.accept("\\end"):
        if parser.next is END:
            raise ParseError("an environment that never ends")
        if parser.accept("\\\\", "\\hline"):
            rows.append(())
        elif not parser.accept("&", "\\&"):
            if parser.next.kind == "text" and parser.next.value.strip(" ,").lower() in (
                "if",
                "when",
                "for",
            ):
                parser.take()
            rows[-1] = (*rows[-1], parser.items())
    parser.braced_name()
    rows = [row for row in rows if row]
    if name in ("cases", "aligned", "align", "gathered", "align*"):
        return parser.node(
            "cases" if name == "cases" else "list", tuple(_row(parser, row) for row in rows), name
        )
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise ParseError("a matrix with ragged rows")
    return parser.node(
        "matrix", tuple(cell for row in rows for cell in row), (len(rows), widths.pop())
    )


def _row(parser: Parser, cells: tuple[Node, ...]) -> Node:
    """Return a row of ``cases``: one cell, or a value with its condition."""
    return cells[0] if len(cells) == 1 else parser.node("when", cells)
