"""The tree of an answer: what `rewards.mathematics.latex` makes of a text, and its bounds.

Only the nodes and what can be said of one by looking at it. What a tree means is ``rewards.mathematics.expressions``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "DEEPEST", "LONGEST", "MOST_DIGITS", "MOST_NODES", "Node", "ParseError",
    "has_text", "is_domain", "is_proper", "mentions", "name_of", "plain_name", "without_domains",
]  # fmt: skip

LONGEST = 2000
MOST_NODES = 600
DEEPEST = 60
MOST_DIGITS = 2000


class ParseError(ValueError):
    """The text is no mathematics that we read, or exceeds a bound."""


class Node(NamedTuple):
    """A tree of an answer: what it is, its operands, and what a leaf holds (number, name, bracket pair)."""

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None


def is_domain(node: Node) -> bool:
    """Tell whether a node only says which numbers a symbol may be: ``k \\in \\mathbb{Z}``."""
    return (
        node.op == "rel"
        and node.value == ("in",)
        and node.args[0].op == "sym"
        and node.args[1].op == "numset"
    )


def without_domains(items: list[Node]) -> list[Node]:
    """Return items without the domain of a parameter that an earlier item uses and does not define."""
    kept = items[:1]
    for item in items[1:]:
        values = [
            arg for other in kept for arg in (other.args[1:] if other.op == "rel" else (other,))
        ]
        defined = any(
            other.op == "rel" and (other.value != ("=",) or item.args[:1] == other.args[:1])
            for other in kept
        )
        if (
            not is_domain(item)
            or defined
            or not any(mentions(value, item.args[0].value) for value in values)
        ):
            kept.append(item)
    return kept


def mentions(node: Node, name: str) -> bool:
    """Tell whether a symbol stands in a tree."""
    return (node.op == "sym" and node.value == name) or any(
        mentions(arg, name) for arg in node.args
    )


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
    """Return the letters that a node writes, as a name."""
    if node.op in ("sym", "const", "text", "num"):
        return str(node.value)
    if node.op in ("mul", "apply"):
        return str(node.value or "") + "".join(name_of(arg) for arg in node.args)
    raise ParseError("an expression where a name should stand")
