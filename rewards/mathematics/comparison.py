"""Whether two trees are the same answer: by what they are, item by item, down to single expressions.

The rules for what must be in order, what may be in any, and which name a value may go by. Single values are left to
``quantities``, sets of numbers to ``real_sets``, equations to ``equations``.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from itertools import pairwise, permutations

from rewards.mathematics.agreement import Agreement
from rewards.mathematics.equations import FLIPPED, same_equation, same_inequality, solves
from rewards.mathematics.expressions import Undecided, canonical, fold, rename, symbols
from rewards.mathematics.labels import Labelled, expand_signs, label_of, split_label, split_sum
from rewards.mathematics.quantities import quantities_agree, without_shared_unit
from rewards.mathematics.real_sets import is_set_of_reals, sets_agree
from rewards.mathematics.tree import Node
from rewards.mathematics.words import direction_of, same_words, says_more

__all__ = ["Comparison"]

MAX_ITEMS = 64
MAX_LEVELS = 40
MAX_RENAMED = 3
_PARAMETERS = frozenset("knmtlcsrjC") | {"\\ell", "\\lambda", "\\mu"}
_COLLECTIONS = frozenset({"list", "set", "cases"})


class Comparison:
    """One comparison of two answers: its rules, and whether anything stayed undecided on the way."""

    def __init__(self, pred: str, gold: str, lenient: bool, allow_sympy: bool):
        seed = zlib.crc32(f"{pred}\n{gold}".encode())
        self.agreement = Agreement(seed, lenient, allow_sympy)
        self.is_unsure = False
        self.may_rename = True
        self._lenient = lenient
        self._level = 0

    def same(self, pred: Node, gold: Node) -> bool:
        """Tell whether two trees are the same answer."""
        self._level += 1
        try:
            return self._level <= MAX_LEVELS and self._same(pred, gold)
        except (ArithmeticError, TypeError, ValueError):
            self.is_unsure = True  # `Undecided`, or mpmath's, on values outside of a domain
            return False
        finally:
            self._level -= 1

    def _same(self, pred: Node, gold: Node) -> bool:
        if canonical(pred) == canonical(gold):
            return _same_base(pred, gold)
        pred = expand_signs(pred)
        gold = expand_signs(gold)
        if self._by_shape(pred, gold):
            return True
        may_rename = self._lenient and self.may_rename and self._level <= 2
        return may_rename and self._renamed(pred, gold)

    def _by_shape(self, pred: Node, gold: Node) -> bool:
        """Compare by what the two sides are: labelled values, lists, sets, tuples, matrices, quantities."""
        if _turns_otherwise(pred, gold):
            return False
        if self._lenient or _only_one_turns(pred, gold):
            pred, gold = _without_texts(pred, gold)
        pred = _summed(_itemised(pred, gold), gold)
        gold = _summed(_itemised(gold, pred), pred)
        verdict = self._labelled(pred, gold)
        if verdict is not None:
            return verdict
        ops = {pred.op, gold.op}
        if is_set_of_reals(pred) or is_set_of_reals(gold):
            return self._conditions(_united(pred), _united(gold))
        if ops & _COLLECTIONS:
            return self._lists(pred, gold)
        if "matrix" in ops:
            verdict = self._matrices(pred, gold)
            if verdict is not None:
                return verdict
        if "when" in ops:
            return pred.op == gold.op and self._in_order(pred.args, gold.args)
        if "group" in ops:
            return self._tuples(pred, gold)
        if "rel" in ops:
            return self._relations(pred, gold)
        return self._single(pred, gold)

    # labels

    def _labelled(self, pred: Node, gold: Node) -> bool | None:
        """Compare if a side is an equation that names its value; None if no label plays a part."""
        left = split_label(pred, self._lenient) or split_sum(pred, gold)
        right = split_label(gold, self._lenient)
        if left is not None and right is not None:
            return self._both_labelled(pred, left, gold, right)
        if left is not None:
            named, bare = left.value, gold  # density: one pair, either way round
        elif right is not None:
            named, bare = right.value, pred  # density: one pair, either way round
        else:
            return None
        if bare.op == "rel" and set(bare.value) <= {"="}:
            return self._relations(pred, gold)
        are_collections = named.op in ("list", "set") and bare.op in ("list", "set", "group")
        if not are_collections and _is_equation_like(bare):
            return None
        return self.same(left.value if left else pred, right.value if right else gold)

    def _both_labelled(self, pred: Node, left: Labelled, gold: Node, right: Labelled) -> bool:
        """Compare two named values: the names agree, or both are functions of one variable, or equations match."""
        if label_of(left.label) == label_of(right.label) or _is_numbered(left.name, right.name):
            return self.same(left.value, right.value)
        if left.variable and right.variable and (left.name == right.name or self._lenient):
            return self.same(rename(left.value, {left.variable: right.variable}), right.value)
        if "y" in (left.name, right.name) and (left.variable or right.variable):
            return self.same(left.value, right.value)
        return self._relations(pred, gold)

    # lists, tuples, matrices

    def _lists(self, pred: Node, gold: Node) -> bool:
        """Compare lists and sets: in any order, or in order if one side is a tuple or names its items."""
        pred = _by_coordinate(pred)
        gold = _by_coordinate(gold)
        if "group" in (pred.op, gold.op):
            group, other = (pred, gold) if pred.op == "group" else (gold, pred)
            if other.op == "list" and len(group.args) == len(other.args) and other.value != ";":
                return group.value == "()" and self._in_order(pred.args, gold.args)
        if _holds_either(pred, gold) or _holds_either(gold, pred, is_pred=False):
            return False
        left = _items(pred)
        right = _items(gold)
        if left is None or right is None:
            return self._single_item(pred, left, gold, right)
        if max(len(left), len(right)) > MAX_ITEMS:
            return self._in_order(tuple(left), tuple(right))
        left_has_names = self._has_labels(left)
        right_has_names = self._has_labels(right)
        if left_has_names != right_has_names:
            return self._unnamed(left, right, gold_is_named=right_has_names)
        if self._lenient:
            left = _with_kinds_of(left, right)
        return self._in_any_order(left, right, as_sets="set" in (pred.op, gold.op))

    def _single_item(
        self, pred: Node, left: list[Node] | None, gold: Node, right: list[Node] | None
    ) -> bool:
        """Compare a list of one item with a bare value."""
        pairs = [(pred, item) for item in right or ()]
        pairs += [(item, gold) for item in left or ()]
        return len(pairs) == 1 and self.same(*pairs[0])

    def _has_labels(self, items: list[Node]) -> bool:
        return any(split_label(item, self._lenient) is not None for item in items)

    def _unnamed(self, left: list[Node], right: list[Node], gold_is_named: bool) -> bool:
        """Compare a list of named values with a bare one."""
        named = right if gold_is_named else left
        splits = [split_label(item, self._lenient) for item in named]
        values = [split.value if split else item for split, item in zip(splits, named)]
        labels = {label_of(split.label) for split in splits if split}
        if gold_is_named:
            right = values
        else:
            left = values
        num_bare = len(left) if gold_is_named else len(right)
        if len(left) != len(right) and len(splits) == 2 * max(1, num_bare):
            return False
        if len(labels) == 1 or (self._lenient and not gold_is_named):
            return self._in_any_order(left, right, as_sets=False)
        return self._in_order(tuple(left), tuple(right))

    def _in_order(self, left: tuple[Node, ...], right: tuple[Node, ...]) -> bool:
        return len(left) == len(right) and all(map(self.same, left, right))

    def _in_any_order(self, left: list[Node], right: list[Node], as_sets: bool) -> bool:
        """Match items one to one; in sets, and leniently if only one side repeats, members count once."""
        left_once = _distinct(left)
        right_once = _distinct(right)
        left_repeats = len(left_once) < len(left)
        right_repeats = len(right_once) < len(right)
        if as_sets or (self._lenient and left_repeats != right_repeats):
            left = left_once
            right = right_once
        if len(left) != len(right):
            return False
        remaining = list(left)
        for item in right:
            index = self._index_of(item, remaining)
            if index is None:
                return False
            del remaining[index]
        return True

    def _index_of(self, item: Node, candidates: list[Node]) -> int | None:
        for index, candidate in enumerate(candidates):
            if self.same(candidate, item):
                return index
        return None

    def _tuples(self, pred: Node, gold: Node) -> bool:
        """Compare tuples and intervals: the same brackets, the same items in order."""
        if pred.op != "group" or gold.op != "group":
            return False
        brackets_agree = pred.value == gold.value or (self._lenient and len(pred.args) > 2)
        return brackets_agree and self._in_order(pred.args, gold.args)

    def _matrices(self, pred: Node, gold: Node) -> bool | None:
        """Compare matrices cell by cell, a row or column with a tuple; None if arithmetic is left to do."""
        if "group" in (pred.op, gold.op):
            matrix, group = (pred, gold) if pred.op == "matrix" else (gold, pred)
            if group.args and all(row.op == "group" for row in group.args):
                return self._rows(pred, gold, matrix, group)
            is_vector = 1 in matrix.value and group.value in ("()", "[]")
            return is_vector and self._in_order(pred.args, gold.args)
        if pred.op != gold.op:
            return None
        return pred.value == gold.value and self._in_order(pred.args, gold.args)

    def _rows(self, pred: Node, gold: Node, matrix: Node, group: Node) -> bool:
        """Compare a matrix with a list of rows in brackets, ``[[1, 2], [3, 4]]``."""
        shapes = {len(row.args) for row in group.args}
        if shapes != {matrix.value[1]} or len(group.args) != matrix.value[0]:
            return False
        cells = tuple(cell for row in group.args for cell in row.args)
        if matrix is gold:
            return self._in_order(cells, gold.args)
        return self._in_order(pred.args, cells)

    # relations

    def _conditions(self, pred: Node, gold: Node) -> bool:
        """Compare inequalities, intervals, unions and set-builders as sets of numbers, in one unit if they have any."""
        in_one_unit = without_shared_unit(pred, gold)
        if in_one_unit is not None and self._sets(*in_one_unit):
            return True
        return self._sets(pred, gold)

    def _sets(self, pred: Node, gold: Node) -> bool:
        are_relations = pred.op == gold.op == "rel"
        if are_relations and self._chains(pred, gold):
            return True
        if pred.op == gold.op == "list" and (pred.value == "or") == (gold.value == "or"):
            if self._in_any_order(list(pred.args), list(gold.args), as_sets=False):
                return True
        if self._lenient and {pred.op, gold.op} == {"list", "rel"}:
            chain, items = (pred, gold) if pred.op == "rel" else (gold, pred)
            if len(chain.args) > 2 and set(chain.value) <= {"<", ">"}:
                return self._in_order(chain.args, items.args)
        if are_relations and len({_subject(pred), _subject(gold)} - {None}) == 2:
            return same_inequality(self.agreement, pred, gold)
        if not (_may_be_set(pred) and _may_be_set(gold)):
            return False
        names = symbols(pred) | symbols(gold)
        points = [self.agreement.point(names, index) for index in (1, 2, 1)]
        try:
            return sets_agree(pred, gold, points, self.agreement.budget)
        except Undecided:
            return are_relations and same_inequality(self.agreement, pred, gold)

    def _chains(self, pred: Node, gold: Node) -> bool:
        """Compare chains of relations operand by operand, in the same or the opposite direction."""
        if len(pred.args) != len(gold.args):
            return False
        if pred.value == gold.value and self._in_order(pred.args, gold.args):
            return True
        flipped = tuple(FLIPPED.get(name, "?") for name in reversed(pred.value))
        return flipped == gold.value and self._in_order(pred.args[::-1], gold.args)

    def _relations(self, pred: Node, gold: Node) -> bool:
        """Compare equations with equations, and with an expression if the equation can be solved for it."""
        if pred.op == gold.op == "rel":
            if pred.value == gold.value == ("=",):
                return same_equation(self.agreement, pred, gold)
            return self._chains(pred, gold)
        equation, value = (pred, gold) if pred.op == "rel" else (gold, pred)
        if not self._lenient:
            is_computed = equation is pred and equation.value == ("=",) and not symbols(equation)
            return is_computed and self._identity(equation, pred, gold)
        if equation.value != ("=",):
            return False
        if value.op in ("rel", "list", "set", "group"):
            return False
        return solves(self.agreement, equation, value) or self._identity(equation, pred, gold)

    def _identity(self, equation: Node, pred: Node, gold: Node) -> bool:
        """Compare with a side of an equation that always holds, such as ``2 + 3 = 5``."""
        if not self.agreement.same_function(*map(fold, equation.args)):
            return False
        side = equation.args[-1]
        if pred is equation:
            return self.same(side, gold)
        return self.same(pred, side)

    # single values

    def _single(self, pred: Node, gold: Node) -> bool:
        """Compare quantities, ratios and words."""
        if pred.op == "text" or gold.op == "text":
            return pred.op == gold.op and same_words(pred.value, gold.value, self._lenient)
        if pred.op == gold.op == "ratio":
            return len(pred.args) == len(gold.args) and self._same_ratio(pred.args, gold.args)
        if gold.op == "based":
            return pred.op == "based" and pred.value == gold.value
        return quantities_agree(
            pred,
            gold,
            lenient=self._lenient,
            same=self.agreement.same_function,
            value=self.agreement.real_value,
        )

    def _same_ratio(self, pred: tuple[Node, ...], gold: tuple[Node, ...]) -> bool:
        """Compare each term of a ratio with its last one."""
        for term, gold_term in zip(pred, gold):
            quotient = Node("div", (term, pred[-1]))
            gold_quotient = Node("div", (gold_term, gold[-1]))
            if not self.same(quotient, gold_quotient):
                return False
        return True

    def _renamed(self, pred: Node, gold: Node) -> bool:
        """Try the ways of renaming parameters that only one side uses; lenient rules only."""
        pred_names = sorted(symbols(pred) - symbols(gold))
        gold_names = sorted(symbols(gold) - symbols(pred))
        if not 0 < len(pred_names) == len(gold_names) <= MAX_RENAMED:
            return False
        if "sym" in (pred.op, gold.op):
            return False
        if pred.op == gold.op == "rel" and len(pred_names) == len(symbols(pred)):
            return False
        are_parameters = _PARAMETERS.issuperset(pred_names + gold_names)
        is_one_in_tuples = len(pred_names) == 1 and pred.op == gold.op == "group"
        if not are_parameters and not is_one_in_tuples:
            return False
        for order in permutations(gold_names):
            if self.same(rename(pred, dict(zip(pred_names, order))), gold):
                return True
        return False


def _same_base(pred: Node, gold: Node) -> bool:
    """Tell whether numbers of equal value may stand in for each other: a gold in a base asks for that base."""
    return gold.op != "based" or (pred.op == "based" and pred.value == gold.value)


def _is_numbered(name: str, other: str) -> bool:
    """Tell whether one name is the other with a number: x_1 is a value of x."""
    short, long = sorted((name, other), key=len)
    return bool(short) and long.startswith(short + "_") and long[len(short) + 1 :].isdigit()


def _without_texts(pred: Node, gold: Node) -> tuple[Node, Node]:
    """Return two products without the words around them; what follows a value stays where the other has a unit."""
    if _carries_unit(pred) or _carries_unit(gold):
        return pred, gold
    return _without_text(pred), _without_text(gold)


def _carries_unit(node: Node) -> bool:
    """Tell whether a value has a unit of measurement."""
    if node.op in ("neg", "mul"):
        return any(map(_carries_unit, node.args))
    return node.op == "unit" and bool(node.value.dimensions)


def _without_text(node: Node) -> Node:
    """Return a product without the words around it, unless they change it."""
    if node.op != "mul":
        return node
    factors = tuple(arg for arg in node.args if arg.op != "text" or says_more(arg.value))
    if not factors:
        return node
    if len(factors) == len(node.args):
        return node
    if len(factors) == 1:
        return factors[0]
    return Node("mul", factors)


def _united(node: Node) -> Node:
    """Return ``(0, 1) or [2, 3)`` and ``(0, 1), [2, 3)``, next to a set of numbers, as a union of intervals."""
    if node.op != "list" or node.value == ";":
        return node
    if any(arg.op != "group" or len(arg.args) != 2 for arg in node.args):
        return node
    return Node("union", node.args)


def _turns_otherwise(pred: Node, gold: Node) -> bool:
    """Tell whether the prediction says of its value that it went up or down, and the gold does not say the same."""
    claimed = direction_of(_text_of(pred))
    true = direction_of(_text_of(gold))
    return claimed != true and (claimed == "down" or (claimed == "up" and true == "down"))


def _only_one_turns(pred: Node, gold: Node) -> bool:
    """Tell whether one side is a bare value and the other says that it went up or down."""
    claimed = _text_of(pred)
    true = _text_of(gold)
    return not (claimed and true) and bool(direction_of(claimed or true))


def _text_of(node: Node) -> str:
    """Return the words around a value."""
    return " ".join(arg.value for arg in node.args if arg.op == "text") if node.op == "mul" else ""


def _itemised(node: Node, other: Node) -> Node:
    """Return ``(f, g) = (1, 2)`` as the list ``f = 1, g = 2`` if the other side is such a list."""
    if other.op != "list" or not _is_equation_like(other):
        return node
    if node.op != "rel":
        return node
    if node.value != ("=",):
        return node
    names, values = node.args
    if not names.op == values.op == "group":
        return node
    if len(names.args) != len(values.args):
        return node
    equations = tuple(Node("rel", pair, ("=",)) for pair in zip(names.args, values.args))
    return Node("list", equations, ",")


def _summed(node: Node, other: Node) -> Node:
    """Return "2 hours, 30 minutes and 5 seconds" as a sum, if the other side is no list."""
    if node.op != "list" or other.op in _COLLECTIONS or node.value in (";", "or"):
        return node
    if any(arg.op != "unit" for arg in node.args):
        return node
    units = [arg.value for arg in node.args]
    is_falling = all(larger.factor > smaller.factor for larger, smaller in pairwise(units))
    if not is_falling or len({unit.dimensions for unit in units}) != 1:
        return node
    return Node("add", node.args)


def _by_coordinate(node: Node) -> Node:
    """Return ``y = 2, x = 1`` in the order of the coordinates, as a tuple has them; anything else as it is."""
    if node.op != "list" or any(arg.op != "rel" or arg.value != ("=",) for arg in node.args):
        return node
    names = [arg.args[0].value if arg.args[0].op == "sym" else "" for arg in node.args]
    if len(names) < 2 or len(set(names)) < len(names) or not {"x", "y", "z"}.issuperset(names):
        return node
    ordered = sorted(node.args, key=lambda equation: str(equation.args[0].value))
    return Node("list", tuple(ordered), node.value)


def _holds_either(either: Node, other: Node, is_pred: bool = True) -> bool:
    """Tell whether one list of equations says "or" where the other is a system: they hold one by one, or all at once.

    Values of one name are the same list either way, and so are lines that a comma separates, where the gold says "or".
    """
    if not either.op == other.op == "list" or either.value != "or" or other.value == "or":
        return False
    if any(item.op != "rel" or item.value != ("=",) for item in (*either.args, *other.args)):
        return False
    names = {item.args[0].value for item in other.args if item.args[0].op == "sym"}
    are_named = all(item.args[0].op == "sym" for item in other.args)
    if are_named and len({str(name).partition("_")[0] for name in names}) == 1:
        return False
    return other.value == "all" or (is_pred and are_named)


def _items(node: Node) -> list[Node] | None:
    """Return the members of a list or set, those of both signs spelled out; None for anything else."""
    if node.op not in _COLLECTIONS:
        return None
    items: list[Node] = []
    for arg in node.args:
        if node.value == ";" and arg.op == "list":
            arg = Node("group", arg.args, "()")
        expanded = expand_signs(arg)
        if expanded is not arg and expanded.op == "list":
            items.extend(expanded.args)
        else:
            items.append(arg)
    return items


def _with_kinds_of(items: list[Node], others: list[Node]) -> list[Node]:
    """Return counted things under the others' names, in their order: 5 pale balls as 5 white balls.

    Only the word in front of the same thing changes, to one that no other item has, and some item keeps its name.
    """
    names = [_counted(item) for item in items]
    new_names = [_counted(item) for item in others]
    is_shared = len(names) == len(new_names) and not set(names).isdisjoint(new_names)
    if not is_shared or "" in names + new_names:
        return items
    renamed = []
    for item, name, new in zip(items, names, new_names):
        is_free = name not in new_names and new not in names
        if name != new and (not is_free or name.split()[-1] != new.split()[-1]):
            return items
        renamed.append(Node("unit", item.args, replace(item.value, noun=new)))
    return renamed


def _counted(node: Node) -> str:
    """Return the name of what an item counts; empty if it counts nothing."""
    return node.value.noun if node.op == "unit" and node.value.is_noun else ""


def _distinct(items: list[Node]) -> list[Node]:
    """Return items without those equal to an earlier one."""
    distinct: dict[str, Node] = {}
    for item in items:
        distinct.setdefault(canonical(item), item)
    return list(distinct.values())


def _is_equation_like(node: Node) -> bool:
    """Tell whether a node is a relation or a list of them."""
    return node.op == "rel" or (node.op == "list" and all(arg.op == "rel" for arg in node.args))


def _may_be_set(node: Node) -> bool:
    return is_set_of_reals(node) or node.op in ("group", "set")


def _subject(node: Node) -> str | None:
    """Return the only symbol that is an operand of a relation by itself; None if there are none or several."""
    alone = {arg.value for arg in node.args if arg.op == "sym"}
    if len(alone) == 1:
        return next(iter(alone))
    return None
