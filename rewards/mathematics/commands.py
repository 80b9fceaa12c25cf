"""What a LaTeX command and its arguments stand for: functions, sums, integrals, limits, environments."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain

from rewards.mathematics.brackets import bracketed
from rewards.mathematics.cursor import Grammar
from rewards.mathematics.juxtaposition import juxtapose, starts_factor
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
    Token,
)
from rewards.mathematics.tree import Node, ParseError, name_of

__all__ = ["command"]

_EMPTY_SETS = ("\\emptyset", "\\varnothing", "\\O")
_BLACKBOARD = ("\\mathbb", "\\mathbf", "\\Bbb")
_SHORT_NUMBER_SETS = ("\\R", "\\Z", "\\N", "\\Q", "\\C")
_NAMED_FIGURES = ("\\angle", "\\triangle", "\\measuredangle", "\\parallelogram")
_TRANSPARENT = frozenset(
    "\\boxed \\fbox \\mathop \\mathrm \\text \\overbrace \\underbrace \\phantom \\tag".split()
)
_NO_VALUE = frozenset("\\end \\and \\or \\hline \\item".split()) | {""}
_ROWS_OF_STATEMENTS = frozenset(
    "cases dcases rcases aligned align align* alignedat alignat alignat* gathered gather gather* split"
    " eqnarray eqnarray* equation equation* multline multline*".split()
)
_WITH_COLUMNS = frozenset("array tabular alignedat alignat alignat*".split())
_MAY_BE_STATEMENTS = frozenset({"array", "tabular", "matrix"})
_ALIGNED = frozenset({"aligned", "align", "align*", "gathered"})
_ENCLOSES_MATRIX = frozenset({"(", "[", "|", "\\|"})
_DETERMINANTS = frozenset({"vmatrix", "vmatrix*"})
_ONE = Node("num", (), Fraction(1))
_THREE = Node("num", (), Fraction(3))
_CALLS = {"binomial": "binom"}


def command(parser: Grammar, name: str) -> Node:
    """Return what a command and its arguments stand for."""
    if name in FRACTIONS or name in BINOMIALS:
        operands = (parser.argument(), parser.argument())
        if name in FRACTIONS:
            return parser.node("div", operands)
        return parser.node("call", operands, "binom")
    if name == "\\sqrt":
        return _root(parser)
    if name in CONSTANTS:
        return parser.node("const", (), CONSTANTS[name])
    if name in _EMPTY_SETS:
        return parser.node("set")
    if name in _BLACKBOARD:
        return _number_set(parser)
    if name in OPENING:
        return bracketed(parser, name)
    bare = name[1:]
    if bare in FUNCTIONS or bare in ALIASES or bare in INVERSES.values():
        return _function(parser, ALIASES.get(bare, bare))
    if name in BIG:
        return _big(parser, BIG[name])
    return _rare(parser, name)


def _rare(parser: Grammar, name: str) -> Node:
    """Return the rarer commands: integrals, limits, environments, boxes, accents, plain symbols."""
    if name == "\\int":
        return _integral(parser)
    if name == "\\lim":
        return _limit(parser)
    if name == "\\begin":
        return _environment(parser)
    if name in _TRANSPARENT:
        return parser.argument()
    if name in ACCENTS:
        return parser.node("sym", (), f"{name}{name_of(parser.argument())}")
    if name in _SHORT_NUMBER_SETS:
        return parser.node("numset", (), name[1:])
    if name in _NAMED_FIGURES:
        return parser.node("sym", (), f"{name}{name_of(parser.factor())}")
    if name in RELATIONS or name in CLOSING or name in _NO_VALUE:
        raise ParseError(f"misplaced {name}")
    return parser.node("sym", (), name)


def _root(parser: Grammar) -> Node:
    r"""Return a square root or ``\sqrt[n]{x}``."""
    index = None
    if parser.accept("["):
        index = parser.items()
        parser.expect("]")
    radicand = parser.argument()
    if index is None:
        return parser.node("call", (radicand,), "sqrt")
    return parser.node("call", (radicand, index), "root")


def _number_set(parser: Grammar) -> Node:
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


# functions


def _function(parser: Grammar, name: str) -> Node:
    """Return a named function applied to what follows it."""
    scripts = _scripts(parser)
    base = scripts.get("_")
    exponent = scripts.get("^")
    if exponent == Node("neg", (_ONE,)) and name in INVERSES:
        name = INVERSES[name]
        exponent = None
    arguments = _arguments(parser)
    if name in ("log", "lg", "ln"):
        call = _logarithm(parser, name, arguments, base)
    elif name == "cbrt":
        call = parser.node("call", (*arguments, _THREE), "root")
    else:
        call = parser.node("call", arguments, _CALLS.get(name, name))
    if exponent is None:
        return call
    return parser.node("pow", (call, exponent))


def _scripts(parser: Grammar) -> dict[str, Node]:
    """Consume the subscripts and exponents that follow; the last of each counts."""
    scripts: dict[str, Node] = {}
    while parser.next.value in ("_", "^"):
        mark = parser.take().value
        scripts[mark] = parser.exponent()
    return scripts


def _logarithm(parser: Grammar, name: str, arguments: tuple[Node, ...], base: Node | None) -> Node:
    r"""Return a logarithm; ``\log`` without a base is the natural one, ``\lg`` the decimal one."""
    if base is None and name == "lg":
        base = parser.node("num", (), Fraction(10))
    return parser.node("call", arguments if base is None else (*arguments, base), "log")


def _arguments(parser: Grammar) -> tuple[Node, ...]:
    """Return a function's arguments: those in brackets, or the product that follows."""
    with parser.level():
        if parser.next.value in ("(", "[", "{", "\\{") and parser.next.kind != "text":
            group = parser.atom()
            arguments = group.args if group.op in ("group", "set", "list") else (group,)
        elif parser.next.value in ("-", "+"):
            arguments = (parser.signed(),)
        else:
            factors = [parser.factor()]
            while _continues_argument(parser, factors[-1]):
                juxtapose(parser, factors)
            arguments = (parser.product(factors),)
    return arguments


def _continues_argument(parser: Grammar, last: Node) -> bool:
    """Tell whether the next token still belongs to a function's argument without brackets."""
    token = parser.next
    if token.kind in ("text", "unit") or token.value in OPENING:
        return False
    if not starts_factor(parser, token):
        return False
    if token.kind == "cmd":
        is_function = token.value[1:] in FUNCTIONS
        if is_function or token.value in BIG:
            return False
        if token.value == "\\int":
            return False
    return last.op != "call" or last.value == "sqrt"


# sums, products, integrals, limits


def _big(parser: Grammar, kind: str) -> Node:
    """Return a sum or product with its index, bounds and body."""
    scripts = _scripts(parser)
    lower = scripts.get("_")
    upper = scripts.get("^")
    body = parser.term()
    if lower is None or lower.op != "rel" or lower.value != ("=",) or upper is None:
        bounds = [bound for bound in (lower, upper) if bound is not None]
        return parser.node("apply", (body, *bounds), kind)
    index, start = lower.args
    if index.op not in ("sym", "const"):
        raise ParseError("a sum without an index")
    return parser.node(kind, (body, start, upper), str(index.value))


def _integral(parser: Grammar) -> Node:
    """Return an integral: its integrand, its bounds if it has any, and its variable."""
    bounds = _scripts(parser)
    parser.open_integrals += 1
    integrand = parser.node("num", (), Fraction(1)) if parser.next.value == "d" else parser.sum()
    parser.open_integrals -= 1
    if parser.next.value != "d":
        raise ParseError("an integral without its variable")
    if parser.peek().kind not in ("name", "cmd"):
        raise ParseError("an integral without its variable")
    parser.take()
    variable = parser.atom()
    if variable.op != "sym":
        raise ParseError("an integral over something that is no variable")
    if len(bounds) < 2:
        return parser.node("int", (integrand,), variable.value)
    return parser.node("int", (integrand, bounds["_"], bounds["^"]), variable.value)


def _limit(parser: Grammar) -> Node:
    """Return a limit: its expression, its variable and the point that tends to."""
    parser.expect("_")
    towards = parser.exponent()
    if towards.op != "rel":
        raise ParseError("a limit without its variable")
    if towards.value != ("->",):
        raise ParseError("a limit without its variable")
    if towards.args[0].op != "sym":
        raise ParseError("a limit without its variable")
    return parser.node("lim", (parser.term(), towards.args[1]), towards.args[0].value)


# environments


def _environment(parser: Grammar) -> Node:
    """Return a matrix, or the rows of ``cases``, ``aligned`` and of an ``array`` that holds equations."""
    opening = parser.peek(-2).value if parser.position > 1 else ""
    name = parser.braced_name()
    if name in _WITH_COLUMNS:
        _skip_columns(parser)
    is_matrix = name not in _ROWS_OF_STATEMENTS
    may_be_statements = name in _MAY_BE_STATEMENTS and opening not in _ENCLOSES_MATRIX
    if not is_matrix or may_be_statements:
        _join_aligned(parser)
    rows = [row for row in _rows(parser) if row]
    parser.braced_name()
    if may_be_statements and rows:
        is_matrix = not all(any(map(_is_relation, row)) for row in rows)
    if not is_matrix:
        parser.accept("\\}", "\\rbrace")  # closed by ``\right\}``, which nothing opens
        return _statements(parser, [_statement_row(parser, row) for row in rows], name)
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise ParseError("a matrix with ragged rows")
    cells = [cell for row in rows for cell in row]
    matrix = parser.node("matrix", tuple(cells), (len(rows), widths.pop()))
    is_determinant = name in _DETERMINANTS and len(set(matrix.value)) == 1
    return parser.node("call", (matrix,), "det") if is_determinant else matrix


def _skip_columns(parser: Grammar) -> None:
    """Consume the braces that describe the columns of a table, which may hold braces."""
    parser.expect("{")
    level = 1
    while level:
        token = parser.take()
        if token is END:
            raise ParseError("an open brace")
        level += (token.value == "{") - (token.value == "}")


def _join_aligned(parser: Grammar) -> None:
    r"""Drop the signs of alignment up to the environment's end: ``&`` next to a relation, an empty cell, a row's end.

    A row that opens with a relation continues the one before.
    """
    start = parser.position
    end = _end_of_environment(parser)
    joined: list[Token] = []
    for index in range(start, end):
        token = parser.tokens[index]
        following = next((t for t in parser.tokens[index + 1 : end] if t.value != "&"), END)
        before = joined[-1].value if joined else "\\\\"
        opens_relation = following.value in RELATIONS and following.kind != "text"
        is_needless = opens_relation or before in RELATIONS or before in ("\\\\", "&")
        if token.value == "&" and (is_needless or following.value in ("\\\\", "")):
            continue
        if token.value == "\\\\" and opens_relation and joined:
            continue
        joined.append(token)
    parser.tokens[start:end] = joined


def _end_of_environment(parser: Grammar) -> int:
    r"""Return the index of the ``\end`` that closes the environment whose content is next."""
    level = 0
    for index in range(parser.position, len(parser.tokens)):
        value = parser.tokens[index].value
        if value == "\\end" and level == 0:
            return index
        level += (value == "\\begin") - (value == "\\end")
    raise ParseError("an environment that never ends")


def _is_relation(node: Node) -> bool:
    return node.op == "rel" or (node.op == "list" and any(map(_is_relation, node.args)))


def _statements(parser: Grammar, statements: list[Node], name: str) -> Node:
    """Return the rows of a system as a list of what holds at once; values by cases stay cases."""
    if len(statements) == 1 and statements[0].op != "when":
        return statements[0]
    if all(map(_is_relation, statements)):
        rows = [row.args if row.op == "list" else (row,) for row in statements]
        return parser.node("list", tuple(chain.from_iterable(rows)), "all")
    return parser.node("cases" if name not in _ALIGNED else "list", tuple(statements), name)


def _rows(parser: Grammar) -> list[list[Node]]:
    r"""Return the cells of an environment row by row; consumes its ``\end``."""
    rows: list[list[Node]] = [[]]
    parser.open_rows += 1
    while not parser.accept("\\end"):
        if parser.next is END:
            raise ParseError("an environment that never ends")
        if parser.accept("\\\\", "\\hline"):
            rows.append([])
        elif parser.accept(".", ",", ";"):
            continue
        elif not parser.accept("&", "\\&"):
            word = parser.next.value.strip(" ,").lower()
            if parser.next.kind == "text" and word in ("if", "when", "for"):
                parser.take()
            rows[-1].append(parser.items())
    parser.open_rows -= 1
    return rows


def _statement_row(parser: Grammar, cells: list[Node]) -> Node:
    """Return a row of ``cases``: one cell, or a value with its condition."""
    if len(cells) == 1:
        return cells[0]
    if all(cell.op == "rel" and cell.value == ("=",) for cell in cells):
        return parser.node("list", tuple(cells), "and")
    return parser.node("when", tuple(cells))
