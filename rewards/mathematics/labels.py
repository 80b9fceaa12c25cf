"""Names in front of values (``x = 5``, ``f(x) = x^2``, ``Anna: 3``) and both signs (``1 \\pm 2``) in trees."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from rewards.mathematics.expressions import canonical
from rewards.mathematics.tree import Node

__all__ = ["Labelled", "expand_signs", "label_of", "split_label"]

MOST_SIGNS = 6


class Labelled(NamedTuple):
    """A named value; `variable` is the argument where the name is a function of one symbol."""

    label: Node
    value: Node
    name: str = ""
    variable: str = ""


def split_label(node: Node, lenient: bool) -> Labelled | None:
    """Return the name and value of ``name = value``, of a chain that ends in its value, or of ``name in set``.

    None where the left side is no name. An approximation behind an exact value is dropped.
    """
    if (
        node.op == "list"
        and node.value != ";"
        and node.args
        and node.args[0].op == "rel"
        and not any(arg.op in ("rel", "group") for arg in node.args[1:])
    ):
        first = split_label(node.args[0], lenient)
        return (
            None
            if first is None
            else first._replace(value=Node("list", (first.value, *node.args[1:]), node.value))
        )
    if node.op != "rel":
        return None
    operands, relations = node.args, node.value
    if relations == ("in",) and _is_name(operands[0], lenient):
        return Labelled(operands[0], operands[1], *_names(operands[0]))
    if not set(relations) <= {"=", "~"}:
        return None
    if "~" in relations:
        operands = _before_approximation(operands, relations, lenient)
    if len(operands) == 1:
        return Labelled(operands[0], operands[0])
    label, value = operands[0], operands[-1]
    if _is_name(label, lenient) or (len(operands) > 2 and lenient):
        return Labelled(label, value, *_names(label))
    return None


def _before_approximation(
    operands: tuple[Node, ...], relations: tuple[str, ...], lenient: bool
) -> tuple[Node, ...]:
    """Return the operands up to the exact value; in ``x \\approx 2`` the approximation is the value."""
    at = relations.index("~")
    return operands[: at + 2] if at == 0 and _is_name(operands[0], lenient) else operands[: at + 1]


def _is_name(node: Node, lenient: bool) -> bool:
    """Tell whether a left side only names what follows: a symbol, function, point, segment or words."""
    if node.op in ("sym", "text"):
        return True
    if node.op == "apply" or (node.op == "mul" and node.value == "call?"):
        return True
    if node.op == "group":
        return all(_is_name(arg, lenient) for arg in node.args)
    if node.op == "mul" and any(arg.op == "text" for arg in node.args):
        return True
    if node.op in ("mul", "ratio", "div", "call", "neg"):
        return bool(node.args) and (lenient or node.op == "mul") and all(map(_is_point, node.args))
    return False


def _is_point(node: Node) -> bool:
    """Tell whether a node is built of the capital letters that name points and segments."""
    if node.op == "sym":
        return node.value[:1].isupper() or node.value.startswith(
            ("\\angle", "\\triangle", "\\overline")
        )
    return node.op in ("mul", "ratio", "div", "pow") and all(
        _is_point(arg) or arg.op == "num" for arg in node.args
    )


def _names(label: Node) -> tuple[str, str]:
    """Return a label's own name and, for a function of one symbol, that symbol."""
    if label.op == "sym":
        return label.value, ""
    if label.op == "apply" and len(label.args) == 1 and label.args[0].op == "sym":
        return str(label.value), label.args[0].value
    if label.op == "mul" and label.value == "call?" and label.args[1].op == "sym":
        return label.args[0].value, label.args[1].value
    return "", ""


def label_of(label: Node) -> str:
    """Return a label in a form that equal labels share."""
    return canonical(label)


def expand_signs(node: Node) -> Node:
    """Return the list of values that ``\\pm`` stands for; each sign is free, unless ``\\mp`` ties them."""
    if node.op in ("list", "set", "rel"):
        if (
            node.op == "rel"
            and node.value == ("=",)
            and (spelled := expand_signs(node.args[1])) is not node.args[1]
        ):
            return Node("rel", (node.args[0], spelled), node.value)
        return node
    signs = _signs(node)
    if not signs or len(signs) > MOST_SIGNS:
        return node
    tied = "-" in signs
    choices = (
        [("+",) * len(signs), ("-",) * len(signs)] if tied else product("+-", repeat=len(signs))
    )
    values = (_resolved(node, list(choice)) for choice in choices)
    distinct = {canonical(value): value for value in values}
    return Node("list", tuple(distinct.values()), ",")


def _signs(node: Node) -> list[str]:
    """Return the double signs of a tree, in order."""
    own = [node.value] if node.op == "pm" else []
    return own + [sign for arg in node.args for sign in _signs(arg)]


def _resolved(node: Node, signs: list[str]) -> Node:
    """Return the tree with each double sign decided; consumes `signs`."""
    if node.op == "pm":
        positive = signs.pop(0) == node.value
        inner = _resolved(node.args[0], signs)
        return inner if positive else Node("neg", (inner,))
    return Node(node.op, tuple(_resolved(arg, signs) for arg in node.args), node.value)
