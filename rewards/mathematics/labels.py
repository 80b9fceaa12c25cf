r"""Names in front of values (``x = 5``, ``f(x) = x^2``, ``Anna: 3``) and double signs (``1 \pm 2``) in trees."""

from __future__ import annotations

from itertools import product
from typing import Iterable, NamedTuple

from rewards.mathematics.expressions import canonical, symbols
from rewards.mathematics.tree import Node

__all__ = ["Labelled", "expand_signs", "label_of", "split_label", "split_sum"]

MAX_SIGNS = 6
_SET_OPERATIONS = frozenset({"inter", "union", "minus"})
_COMPLEMENT = "\\complement"
_FIGURES = ("\\angle", "\\triangle", "\\overline")


class Labelled(NamedTuple):
    """A named value; `variable` is the argument if the name is a function of one symbol."""

    label: Node
    value: Node
    name: str = ""
    variable: str = ""


def split_label(node: Node, lenient: bool) -> Labelled | None:
    """Return the name and value of ``name = value``, of a chain that ends in its value, or of ``name in set``.

    None if the left side is no name. An approximation after an exact value is dropped.
    """
    if node.op == "list":
        return _split_list(node, lenient)
    if _is_named_point(node):
        return _labelled(Node("sym", (), str(node.value)), Node("group", node.args, "()"))
    if node.op != "rel":
        return None
    operands = node.args
    relations = node.value
    if relations == ("in",) and _is_name(operands[0], lenient):
        return _labelled(operands[0], operands[1])
    if not set(relations) <= {"=", "~"}:
        return None
    if "~" in relations:
        operands = _before_approximation(operands, relations, lenient)
    label = operands[0]
    if len(operands) == 1:
        return Labelled(label, label)
    if _is_name(label, lenient) or (len(operands) > 2 and lenient):
        return _labelled(label, operands[-1])
    return None


def split_sum(pred: Node, gold: Node) -> Labelled | None:
    """Return ``m + n = 34`` as the value of what is asked for, where the gold is a number; None for anything else."""
    if pred.op != "rel" or pred.value != ("=",) or gold.op not in ("num", "dec", "div", "neg"):
        return None
    label, value = pred.args
    terms = [term.args[0] if term.op == "neg" else term for term in label.args]
    is_sum = label.op == "add" and all(term.op == "sym" for term in terms)
    if not is_sum or len({term.value for term in terms}) < 2 or symbols(value) | symbols(gold):
        return None
    return Labelled(label, value)


def _split_list(node: Node, lenient: bool) -> Labelled | None:
    """Split ``x = 1, 2, 3``, where the name of the first item is that of the whole list."""
    if node.value == ";" or not node.args:
        return None
    first, *others = node.args
    if first.op != "rel":
        return None
    if any(item.op in ("rel", "group") for item in others):
        return None
    split = split_label(first, lenient)
    if split is None:
        return None
    return split._replace(value=Node("list", (split.value, *others), node.value))


def _before_approximation(
    operands: tuple[Node, ...], relations: tuple[str, ...], lenient: bool
) -> tuple[Node, ...]:
    r"""Return the operands up to the exact value; in ``x \approx 2`` the approximation is the value."""
    index = relations.index("~")
    is_only_value = index == 0 and _is_name(operands[0], lenient)
    if is_only_value:
        return operands[: index + 2]
    return operands[: index + 1]


# names


def _is_named_point(node: Node) -> bool:
    """Tell whether a node is a capital letter with two coordinates or more behind it: ``P(2, -1)``."""
    letter = str(node.value)
    return node.op == "apply" and len(node.args) > 1 and len(letter) == 1 and letter.isupper()


def _is_name(node: Node, lenient: bool) -> bool:
    """Tell whether a left side only names what follows: a symbol, function, point, segment or words."""
    if node.op in ("sym", "text", "apply"):
        return True
    if node.op == "group":
        return all(_is_name(arg, lenient) for arg in node.args)
    if node.op in _SET_OPERATIONS:
        return all(map(_is_set_name, node.args))
    if node.op == "mul" and (node.value == "call?" or any(arg.op == "text" for arg in node.args)):
        return True
    if node.op == "mul" and _is_symbol_of_complement(node.args[0]):
        return all(map(_is_set_name, node.args))
    may_name_points = node.op == "mul" or (lenient and node.op in ("ratio", "div", "call", "neg"))
    return may_name_points and bool(node.args) and all(map(_is_point, node.args))


def _is_set_name(node: Node) -> bool:
    """Tell whether a node names a set: capital letters, their complements, unions, intersections and differences."""
    if node.op == "sym":
        return node.value[:1].isupper() or node.value.startswith(_COMPLEMENT)
    is_complement = node.op == "mul" and _is_symbol_of_complement(node.args[0])
    is_set = is_complement or node.op in _SET_OPERATIONS
    return is_set and all(map(_is_set_name, node.args))


def _is_symbol_of_complement(node: Node) -> bool:
    return node.op == "sym" and node.value.startswith(_COMPLEMENT)


def _is_point(node: Node) -> bool:
    """Tell whether a node consists of the capital letters that name points and segments."""
    if node.op == "sym":
        return node.value[:1].isupper() or node.value.startswith(_FIGURES)
    if node.op not in ("mul", "ratio", "div", "pow"):
        return False
    return all(_is_point(arg) or arg.op == "num" for arg in node.args)


def _labelled(label: Node, value: Node) -> Labelled:
    """Return a value with its label, the label's name and, for a function of one symbol, that symbol."""
    if label.op == "sym":
        return Labelled(label, value, label.value)
    if label.op == "apply" and len(label.args) == 1 and label.args[0].op == "sym":
        return Labelled(label, value, str(label.value), label.args[0].value)
    if label.op == "mul" and label.value == "call?" and label.args[1].op == "sym":
        function, variable = label.args
        return Labelled(label, value, function.value, variable.value)
    return Labelled(label, value)


def label_of(label: Node) -> str:
    """Return a label in a form that equal labels share."""
    return canonical(label)


# double signs


def expand_signs(node: Node) -> Node:
    r"""Return the list of values that ``\pm`` writes; each sign is free, unless ``\mp`` ties them."""
    if node.op == "rel" and node.value == ("=",):
        left, right = node.args
        expanded = expand_signs(right)
        if expanded is right:
            return node
        return Node("rel", (left, expanded), node.value)
    if node.op == "rel" and node.value == ("!=",):
        return _excluded(node)
    if node.op in ("list", "set", "rel"):
        return node
    signs = _double_signs(node)
    if not signs or len(signs) > MAX_SIGNS:
        return node
    choices: Iterable[tuple[str, ...]] = product("+-", repeat=len(signs))
    if "-" in signs:
        choices = [("+",) * len(signs), ("-",) * len(signs)]
    values = [_resolved(node, list(choice)) for choice in choices]
    distinct = {canonical(value): value for value in values}
    return Node("list", tuple(distinct.values()), ",")


def _excluded(node: Node) -> Node:
    r"""Return ``x \ne \pm 1`` as the list of what ``x`` is not."""
    left, right = node.args
    values = expand_signs(right)
    if values is right or values.op != "list":
        return node
    return Node("list", tuple(Node("rel", (left, value), ("!=",)) for value in values.args), "and")


def _double_signs(node: Node) -> list[str]:
    """Return the double signs of a tree, in order."""
    signs = [node.value] if node.op == "pm" else []
    for arg in node.args:
        signs += _double_signs(arg)
    return signs


def _resolved(node: Node, signs: list[str]) -> Node:
    """Return the tree with each double sign decided; consumes `signs`."""
    if node.op == "pm":
        is_positive = signs.pop(0) == node.value
        inner = _resolved(node.args[0], signs)
        if is_positive:
            return inner
        return Node("neg", (inner,))
    return Node(node.op, tuple(_resolved(arg, signs) for arg in node.args), node.value)
