"""The tree of an answer: what `rewards.mathematics.latex` makes of a text, and its bounds.

Only the nodes and what can be read off one. What a tree means is ``rewards.mathematics.expressions``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_LENGTH",
    "MAX_NODES",
    "Node",
    "ParseError",
    "has_text",
    "is_domain",
    "is_proper",
    "mentions",
    "name_of",
    "plain_name",
    "without_domains",
]

MAX_LENGTH = 2000
MAX_NODES = 600
MAX_DEPTH = 60
MAX_DIGITS = 2000


class ParseError(ValueError):
    """The text is no mathematics that we read, or exceeds a bound."""


class Node(NamedTuple):
    """A tree of an answer: what it is, its operands, and what a leaf holds (number, name, bracket pair)."""

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None


def is_domain(node: Node) -> bool:
    r"""Tell whether a node only says which numbers a symbol may be: ``k \in \mathbb{Z}``."""
    if node.op != "rel":
        return False
    if node.value != ("in",):
        return False
    symbol, domain = node.args
    return symbol.op == "sym" and domain.op == "numset"


def without_domains(items: list[Node]) -> list[Node]:
    """Return items without the domain of a parameter that an earlier item uses and does not define."""
    remaining = items[:1]
    for item in items[1:]:
        if not _is_parameter_domain(item, remaining):
            remaining.append(item)
    return remaining


def _is_parameter_domain(item: Node, earlier: list[Node]) -> bool:
    """Tell whether an item is the domain of a symbol that the items before it use and do not define."""
    if not is_domain(item):
        return False
    if any(_defines(other, item) for other in earlier):
        return False
    name = item.args[0].value
    return any(_value_mentions(other, name) for other in earlier)


def _defines(relation: Node, domain: Node) -> bool:
    """Tell whether a relation says anything about the symbol of a domain but what depends on it."""
    if relation.op != "rel":
        return False
    return relation.value != ("=",) or domain.args[:1] == relation.args[:1]


def _value_mentions(node: Node, name: str) -> bool:
    values = node.args[1:] if node.op == "rel" else (node,)
    return any(mentions(value, name) for value in values)


def mentions(node: Node, name: str) -> bool:
    """Tell whether a tree contains a symbol."""
    if node.op == "sym" and node.value == name:
        return True
    return any(mentions(arg, name) for arg in node.args)


def is_proper(fraction: Node) -> bool:
    """Tell whether a fraction is one whole number over a greater one."""
    top, bottom = fraction.args
    return top.op == bottom.op == "num" and 0 < top.value < bottom.value


def has_text(node: Node) -> bool:
    """Tell whether a node is text or a product with text in it."""
    return node.op == "text" or (node.op == "mul" and any(arg.op == "text" for arg in node.args))


def plain_name(node: Node) -> str | None:
    """Return the name that a simple subscript writes; None for a letter or an expression, which is an index."""
    if node.op == "num" and node.value.denominator == 1:
        return str(node.value.numerator)
    if node.op in ("text", "numset"):
        return str(node.value)
    if node.op == "sym" and (node.value.startswith("\\") or node.value.isupper()):
        return str(node.value)
    if node.op == "mul" and all(arg.op in ("sym", "const", "num") for arg in node.args):
        return "".join(str(arg.value) for arg in node.args)
    return None


def name_of(node: Node) -> str:
    """Return the letters that a node writes, as a name; raises `ParseError` for an expression."""
    if node.op in ("sym", "const", "text", "num"):
        return str(node.value)
    if node.op in ("mul", "apply"):
        return str(node.value or "") + "".join(map(name_of, node.args))
    raise ParseError("an expression where a name is expected")
