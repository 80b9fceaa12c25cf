"""Whether two answers are the same mathematics, without ever executing their text.

`equal` tries (a) equal strings, words and exact rationals, (b) the bounded LaTeX parser with structural and
50-digit comparison, and (c), only inside a worker that its caller can kill, sympy on objects built from
the parser's own tree. The rules are listed in docs/math_equality.md.
"""

from __future__ import annotations

import random
import re
import time
import zlib
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Callable

from rewards.mathematics.expressions import (
    Budget,
    Undecided,
    canonical,
    context,
    evaluate,
    fold,
    nearly_equal,
    rename,
    symbols,
)
from rewards.mathematics.labels import Labelled, expand_signs, label_of, split_label
from rewards.mathematics.latex import parse
from rewards.mathematics.plain_number import rational_agrees, read_plain_number
from rewards.mathematics.quantities import quantities_agree
from rewards.mathematics.real_sets import ORDERS, is_set_of_reals, sets_agree
from rewards.mathematics.tree import Node, ParseError
from rewards.mathematics.units import unit_of
from rewards.mathematics.words import (
    choice_of,
    is_sentence,
    is_wording,
    moment_of,
    same_words,
    says_more,
    spelled_out,
)

__all__ = ["Verdict", "equal"]

LONGEST = 2000
MOST_ITEMS = 64
_PARAMETERS = frozenset("knmtlcsrjC") | {"\\ell", "\\lambda", "\\mu"}
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_QUANTITY = re.compile(
    r"(-?[\d.,]{1,40}(?:\s*/\s*\d{1,20})?)\s+([A-Za-z]{1,12}(?:\^?\d)?(?:/[A-Za-z]{1,12}(?:\^?\d)?)?)"
)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~", "==": "=="}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether prediction and gold agree (None: the gold cannot be read), which tier decided, and why."""

    equal: bool | None
    tier: str
    reason: str


def equal(pred: str, gold: str, *, lenient: bool = False, allow_sympy: bool = False) -> Verdict:
    """Return whether `pred` states the same answer as `gold`.

    Strict rules are meant for training, `lenient` for evaluation. `allow_sympy` may only be set in a process
    that its caller kills on a deadline: sympy's running time has no bound, that of the other tiers has.
    """
    pred, gold = spelled_out(_tidy(pred)), spelled_out(_tidy(gold))
    if not gold or len(gold) > LONGEST:
        return Verdict(None, "a", "the gold is empty or too long")
    if len(pred) > LONGEST:
        return Verdict(False, "a", "the prediction is too long")
    quick = _by_text(pred, gold, lenient)
    return quick if quick is not None else _by_tree(pred, gold, lenient, allow_sympy)


def _tidy(text: str) -> str:
    """Drop surrounding space, delimiters and a final period."""
    text = text.strip()
    while text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(opening) : -len(closing)]
        if (
            len(text) > 2 * len(opening)
            and text.startswith(opening)
            and text.endswith(closing)
            and opening not in inner
        ):
            return _tidy(inner)
    return text


def _by_text(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Return the verdict that needs no parser: equal strings, plain numbers, choices, moments, sentences."""
    if pred == gold or _SPACE.sub("", pred) == _SPACE.sub("", gold):
        return Verdict(True, "a", "the same text")
    if not pred:
        return Verdict(False, "a", "the prediction is empty")
    gold_number = read_plain_number(gold)
    if gold_number is not None and (pred_number := read_plain_number(pred)) is not None:
        return Verdict(
            rational_agrees(pred_number, gold_number, lenient), "a", "compared as exact numbers"
        )
    moment, gold_moment = moment_of(pred), moment_of(gold)
    if moment is not None and gold_moment is not None and moment[0] == gold_moment[0]:
        return Verdict(_same_moment(moment, gold_moment), "a", "compared as times or dates")
    return _by_choice(pred, gold, lenient) or _by_words(pred, gold, lenient)


def _same_moment(pred: tuple, gold: tuple) -> bool:
    """Compare times and dates; a missing year or "am" on one side is no difference."""
    if pred[0] == "date":
        return pred[2:] == gold[2:] and (None in (pred[1], gold[1]) or pred[1] == gold[1])
    if pred[-1] == gold[-1]:
        return pred == gold
    return (
        pred[2:4] == gold[2:4] and pred[1] % 12 == gold[1] % 12
        if 12 >= max(pred[1], gold[1])
        else pred[1:4] == gold[1:4]
    )


def _by_choice(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Compare multiple-choice letters; the text behind a letter decides where the other side has only that."""
    gold_choice = choice_of(gold)
    if gold_choice is None:
        return None
    pred_choice = choice_of(pred)
    letter = gold_choice[0] in "ABCDEFGH" and (
        gold_choice[1] or gold.strip("() ").isupper() or "text" in gold
    )
    if pred_choice is not None and letter:
        return Verdict(pred_choice[0] == gold_choice[0], "a", "compared as choices")
    if gold_choice[1] and lenient and letter:
        return equal(pred, gold_choice[1], lenient=lenient)
    return None


def _by_words(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Compare answers in words; None where either side may be mathematics."""
    if (is_wording(gold) or is_sentence(gold)) and same_words(pred, gold, lenient):
        return Verdict(True, "a", "the same words")
    if is_sentence(gold) and not re.search(r"\d", gold):
        return Verdict(same_words(pred, gold, lenient), "a", "compared as words")
    return None


def _by_tree(pred: str, gold: str, lenient: bool, allow_sympy: bool) -> Verdict:
    """Return the verdict of the parser and, where it is allowed and needed, of sympy."""
    golds = _readings(gold, lenient=True)
    if not golds:
        if is_wording(gold):
            return Verdict(same_words(pred, gold, lenient), "b", "the gold was compared as words")
        return Verdict(None, "b", "the gold cannot be read")
    comparison = _Comparison(pred, gold, lenient, allow_sympy)
    preds = _readings(pred, lenient)
    for truth in golds:
        for claim in preds:
            if comparison.same(claim, truth):
                return Verdict(True, comparison.tier, "equal as mathematics")
    if is_wording(gold) and same_words(pred, gold, lenient):
        return Verdict(True, "b", "the same words")
    if not preds:
        return Verdict(False, "b", "the prediction cannot be read")
    return Verdict(
        False,
        comparison.tier,
        "not shown equal within bounds" if comparison.unsure else "different",
    )


def _readings(text: str, lenient: bool) -> list[Node]:
    """Return the trees of a text: with commas in numbers, and with commas as separators where that differs."""
    trees: list[Node] = []
    if lenient and re.fullmatch(r"-?0,\d+", text):
        text = text.replace(",", ".")
    for grouped in (True, False) if re.search(r"\d[, ]\d{3}", text) else (True,):
        try:
            tree = parse(text, grouped=grouped, lenient=lenient)
        except ParseError:
            continue
        if tree not in trees:
            trees.append(tree)
    return trees + _as_quantity(text, lenient)


def _as_quantity(text: str, lenient: bool) -> list[Node]:
    """Return the second reading of ``20 m/s``: a number and, behind a space, a unit in plain letters."""
    match = _QUANTITY.fullmatch(text)
    unit = unit_of(match[2]) if match else None
    if match is None or unit is None or unit.is_noun:
        return []
    try:
        return [parse(f"{match[1]} \\text{{{match[2]}}}", lenient=lenient)]
    except ParseError:
        return []


class _Comparison:
    """One comparison of two answers: its rules, its budget, and what happened on the way."""

    def __init__(self, pred: str, gold: str, lenient: bool, allow_sympy: bool):
        self.lenient, self.allow_sympy = lenient, allow_sympy
        self.budget = Budget()
        self.tier, self.unsure = "b", False
        self.random = random.Random(zlib.crc32(f"{pred}\n{gold}".encode()))
        self.level = 0
        self.sympy_seconds = 0.0

    def same(self, pred: Node, gold: Node) -> bool:
        """Tell whether two trees are the same answer."""
        self.level += 1
        try:
            if self.level > 40:
                return False
            if canonical(pred) == canonical(gold):
                return _same_base(pred, gold)
            pred, gold = expand_signs(pred), expand_signs(gold)
            return self.by_shape(pred, gold) or (
                self.lenient and self.level <= 2 and self.renamed(pred, gold)
            )
        except (
            Undecided,
            ArithmeticError,
            TypeError,
            ValueError,
        ):  # the latter are mpmath's, on values out of a domain
            self.unsure = True
            return False
        finally:
            self.level -= 1

    def by_shape(self, pred: Node, gold: Node) -> bool:
        """Compare by what the two sides are: labelled values, lists, sets, tuples, matrices, quantities."""
        pred, gold = _without_text(pred, self.lenient), _without_text(gold, self.lenient)
        pred, gold = _itemised(pred, gold), _itemised(gold, pred)
        verdict = self.labelled(pred, gold)
        if verdict is not None:
            return verdict
        ops = {pred.op, gold.op}
        if is_set_of_reals(pred) or is_set_of_reals(gold):
            return self.conditions(pred, gold)
        if ops & {"list", "set", "cases"}:
            return self.lists(pred, gold)
        if "matrix" in ops and (verdict := self.matrices(pred, gold)) is not None:
            return verdict
        if "when" in ops:
            return pred.op == gold.op and self.in_order(pred.args, gold.args)
        if "group" in ops:
            return self.tuples(pred, gold)
        if "rel" in ops:
            return self.relations(pred, gold)
        return self.plain(pred, gold)

    # labels

    def labelled(self, pred: Node, gold: Node) -> bool | None:
        """Compare where a side is an equation that names its value; None where no label plays a part."""
        left, right = split_label(pred, self.lenient), split_label(gold, self.lenient)
        if left is None and right is None:
            return None
        if left is not None and right is not None:
            return self.both_labelled(pred, left, gold, right)
        named, other = (
            (left.value, gold) if left is not None else (right.value if right else pred, pred)
        )
        if other.op == "rel" and set(other.value) <= {"="}:
            return self.relations(pred, gold)
        if (
            named.op in ("list", "set")
            and other.op in ("list", "set", "group")
            or not _is_equation_like(other)
        ):
            return self.same(left.value if left else pred, right.value if right else gold)
        return None

    def both_labelled(self, pred: Node, left: Labelled, gold: Node, right: Labelled) -> bool:
        """Compare two named values: the names agree, or both are functions of one variable, or equations match."""
        if label_of(left.label) == label_of(right.label) or _is_numbered(left.name, right.name):
            return self.same(left.value, right.value)
        if left.variable and right.variable and (left.name == right.name or self.lenient):
            return self.same(rename(left.value, {left.variable: right.variable}), right.value)
        if {left.name, right.name} & {"y"} and (left.variable or right.variable):
            return self.same(left.value, right.value)
        return self.relations(pred, gold)

    # lists, tuples, matrices

    def lists(self, pred: Node, gold: Node) -> bool:
        """Compare lists and sets: in any order, or in order where one side is a tuple or names its items."""
        if "group" in (pred.op, gold.op):
            group, other = (pred, gold) if pred.op == "group" else (gold, pred)
            if other.op == "list" and len(group.args) == len(other.args) and other.value != ";":
                return group.value == "()" and self.in_order(pred.args, gold.args)
        left, right = _items(pred), _items(gold)
        if left is None or right is None:
            singles = [(pred, item) for item in right or ()] + [(item, gold) for item in left or ()]
            return len(singles) == 1 and self.same(*singles[0])
        if max(len(left), len(right)) > MOST_ITEMS:
            return self.in_order(tuple(left), tuple(right))
        named = [
            sum(split_label(item, self.lenient) is not None for item in items)
            for items in (left, right)
        ]
        if named[0] != named[1] and 0 in named:
            return self.unnamed(left, right, gold_is_named=named[1] > 0)
        return self.in_any_order(left, right, as_sets="set" in (pred.op, gold.op))

    def unnamed(self, left: list[Node], right: list[Node], gold_is_named: bool) -> bool:
        """Compare a list of named values with a bare one."""
        named = right if gold_is_named else left
        splits = [split_label(item, self.lenient) for item in named]
        values = [split.value if split else item for split, item in zip(splits, named)]
        one_name = len({label_of(split.label) for split in splits if split}) == 1
        left, right = (left, values) if gold_is_named else (values, right)
        if len(left) != len(right) and len(splits) == 2 * max(
            1, len(right if not gold_is_named else left)
        ):
            return False
        if one_name or (self.lenient and not gold_is_named):
            return self.in_any_order(left, right, as_sets=False)
        return self.in_order(tuple(left), tuple(right))

    def in_order(self, left: tuple[Node, ...], right: tuple[Node, ...]) -> bool:
        return len(left) == len(right) and all(map(self.same, left, right))

    def in_any_order(self, left: list[Node], right: list[Node], as_sets: bool) -> bool:
        """Match items one to one; in sets, and leniently where only one side repeats, members count once."""
        single_left, single_right = self.distinct(left), self.distinct(right)
        repeats_on_one_side = (len(single_left) == len(left)) != (len(single_right) == len(right))
        if as_sets or (self.lenient and repeats_on_one_side):
            left, right = single_left, single_right
        if len(left) != len(right):
            return False
        rest = list(left)
        for item in right:
            match = next(
                (index for index, other in enumerate(rest) if self.same(other, item)), None
            )
            if match is None:
                return False
            del rest[match]
        return True

    def distinct(self, items: list[Node]) -> list[Node]:
        """Return items without those equal to an earlier one."""
        kept: dict[str, Node] = {}
        for item in items:
            kept.setdefault(canonical(item), item)
        return list(kept.values())

    def tuples(self, pred: Node, gold: Node) -> bool:
        """Compare tuples and intervals: the same brackets, the same items in order."""
        if pred.op != "group" or gold.op != "group":
            return False
        alike = pred.value == gold.value or (self.lenient and len(pred.args) > 2)
        return alike and self.in_order(pred.args, gold.args)

    def matrices(self, pred: Node, gold: Node) -> bool | None:
        """Compare matrices cell by cell, a row or column with a tuple; None where arithmetic is left to do."""
        if "group" in (pred.op, gold.op):
            matrix, group = (pred, gold) if pred.op == "matrix" else (gold, pred)
            return (
                1 in matrix.value
                and group.value in ("()", "[]")
                and self.in_order(pred.args, gold.args)
            )
        if pred.op != gold.op:
            return None
        return pred.value == gold.value and self.in_order(pred.args, gold.args)

    # relations

    def conditions(self, pred: Node, gold: Node) -> bool:
        """Compare inequalities, intervals, unions and set-builders as sets of numbers."""
        both_relations = pred.op == gold.op == "rel"
        if both_relations and self.chains(pred, gold):
            return True
        if (
            "list" in (pred.op, gold.op)
            and pred.op == gold.op
            and self.in_any_order(list(pred.args), list(gold.args), False)
        ):
            return True
        if self.lenient and "list" in (pred.op, gold.op) and "rel" in (pred.op, gold.op):
            chain, items = (pred, gold) if pred.op == "rel" else (gold, pred)
            if len(chain.args) > 2 and set(chain.value) <= {"<", ">"}:
                return self.in_order(chain.args, items.args)
        if both_relations and len({_subject(pred), _subject(gold)} - {None}) == 2:
            return self.proportional_orders(pred, gold)
        if not all(is_set_of_reals(side) or side.op in ("group", "set") for side in (pred, gold)):
            return False
        names = symbols(pred) | symbols(gold)
        try:
            return sets_agree(
                pred, gold, [self.point(names, index) for index in (1, 2, 1)], self.budget
            )
        except Undecided:
            return both_relations and self.proportional_orders(pred, gold)

    def chains(self, pred: Node, gold: Node) -> bool:
        """Compare chains of relations operand by operand, in the same or the opposite direction."""
        if len(pred.args) != len(gold.args):
            return False
        if pred.value == gold.value and self.in_order(pred.args, gold.args):
            return True
        flipped = tuple(_FLIPPED.get(name, "?") for name in reversed(pred.value))
        return flipped == gold.value and self.in_order(pred.args[::-1], gold.args)

    def proportional_orders(self, pred: Node, gold: Node) -> bool:
        """Compare inequalities of two sides: one is a positive multiple of the other."""
        if (
            len(pred.value) != 1
            or len(gold.value) != 1
            or not {*pred.value, *gold.value} <= ORDERS - {"!="}
        ):
            return False
        left, right = _as_less(pred), _as_less(gold)
        return left.value == right.value and self.proportional(
            _difference(left), _difference(right), positive=True
        )

    def relations(self, pred: Node, gold: Node) -> bool:
        """Compare equations with equations, and with an expression where the equation can be solved for it."""
        if pred.op == gold.op == "rel":
            if pred.value == gold.value == ("=",):
                return self.proportional(
                    _difference(pred), _difference(gold), positive=False
                ) or self.same_root(pred, gold)
            return self.chains(pred, gold)
        if not self.lenient:
            return False
        equation, value = (pred, gold) if pred.op == "rel" else (gold, pred)
        if equation.value != ("=",) or value.op in ("rel", "list", "set", "group"):
            return False
        return self.solves(equation, value) or self.identity(equation, pred, gold)

    def proportional(self, left: Node, right: Node, positive: bool) -> bool:
        """Tell whether two expressions are constant multiples of each other."""
        ratio, count = None, 0
        for index in range(6):
            point = self.point(symbols(left) | symbols(right), index)
            try:
                top, bottom = (
                    evaluate(left, point, self.budget),
                    evaluate(right, point, self.budget),
                )
            except Undecided:
                continue
            if isinstance(top, tuple) or isinstance(bottom, tuple):
                return False
            if bottom == 0 or top == 0:
                return False
            if ratio is not None and not nearly_equal(top / bottom, ratio):
                return False
            ratio, count = top / bottom, count + 1
        return count >= 3 and (
            not positive or (context().im(ratio) == 0 and context().re(ratio) > 0)
        )

    def same_root(self, pred: Node, gold: Node) -> bool:
        """Tell whether two equations are linear in one shared symbol and give it the same value."""
        left, right = _difference(pred), _difference(gold)
        if symbols(left) != symbols(right) or len(symbols(left)) < 2:
            return False
        return any(self.roots_agree(left, right, name) for name in sorted(symbols(left))[:4])

    def roots_agree(self, left: Node, right: Node, name: str) -> bool:
        """Compare the roots of two expressions that are linear in `name`, at random values of the rest."""
        for index in range(3):
            point = self.point(symbols(left), index)
            roots = [self.root(side, name, point) for side in (left, right)]
            if None in roots or not nearly_equal(*roots):
                return False
        return True

    def root(self, expression: Node, name: str, point: dict[str, Any]) -> Any:
        """Return where an expression that is linear in `name` vanishes; None where it is not linear."""
        at = [
            evaluate(expression, {**point, name: context().mpf(x)}, self.budget) for x in (1, 2, 4)
        ]
        slope = at[1] - at[0]
        if slope == 0 or not nearly_equal(at[2] - at[1], 2 * slope):
            return None
        return 1 - at[0] / slope

    def solves(self, equation: Node, value: Node) -> bool:
        """Tell whether `value` is what the equation, linear in one further symbol, gives for that symbol."""
        difference, value = _difference(equation), fold(value)
        unknown = symbols(difference) - symbols(value)
        if len(unknown) != 1 or (not symbols(value) and len(symbols(difference)) > 1):
            return False
        name = next(iter(unknown))
        for index in range(3):
            point = self.point(symbols(difference) | symbols(value), index)
            found = self.root(difference, name, point)
            if found is None or not nearly_equal(found, evaluate(value, point, self.budget)):
                return False
        return True

    def identity(self, equation: Node, pred: Node, gold: Node) -> bool:
        """Compare with a side of an equation that holds always, such as ``2 + 3 = 5``."""
        if not self.functions(*map(fold, equation.args)):
            return False
        side = equation.args[-1]
        return self.same(side, gold) if pred is equation else self.same(pred, side)

    # quantities

    def plain(self, pred: Node, gold: Node) -> bool:
        """Compare quantities, ratios and words."""
        if pred.op == "text" or gold.op == "text":
            return pred.op == gold.op and same_words(pred.value, gold.value, self.lenient)
        if pred.op == gold.op == "ratio":
            return len(pred.args) == len(gold.args) and all(
                self.same(Node("div", (a, pred.args[-1])), Node("div", (b, gold.args[-1])))
                for a, b in zip(pred.args, gold.args)
            )
        if gold.op == "based":
            return pred.op == "based" and pred.value == gold.value
        return quantities_agree(pred, gold, self.lenient, self.functions, self.value)

    def value(self, node: Node) -> Any:
        """Return the value of an expression without free symbols; None where it has any or is not real."""
        if symbols(node):
            return None
        value = evaluate(fold(node), {}, self.budget)
        return None if isinstance(value, tuple) or context().im(value) != 0 else context().re(value)

    def functions(self, pred: Node, gold: Node) -> bool:
        """Tell whether two folded expressions agree at every random point where both are real."""
        names = symbols(pred) | symbols(gold)
        if not names:
            return self.constants(pred, gold)
        real, complex_agreed, complex_differed = 0, 0, False
        for index in range(10):
            values = self.values_at((pred, gold), self.point(names, index))
            if values is None:
                continue
            agree = nearly_equal(*values)
            if not _is_real(values) and not _mentions_i(pred, gold):
                complex_agreed += agree
                complex_differed = complex_differed or not agree
            elif not agree:
                return self.lenient and self.whole_parameters(pred, gold, names)
            else:
                real += 1
            if real >= 3 and index >= 3:
                return True
        if real or (complex_agreed >= 2 and not complex_differed):
            return True
        if complex_differed:
            return self.lenient and self.whole_parameters(pred, gold, names)
        return self.symbolically(pred, gold)

    def constants(self, pred: Node, gold: Node) -> bool:
        """Compare two constants at 50 digits."""
        try:
            return nearly_equal(evaluate(pred, {}, self.budget), evaluate(gold, {}, self.budget))
        except Undecided:
            return self.symbolically(pred, gold)

    def symbolically(self, pred: Node, gold: Node) -> bool:
        """Ask sympy where the caller allows it; otherwise the question stays open."""
        if not self.allow_sympy:
            raise Undecided("needs sympy")
        from rewards.mathematics.symbolic import SECONDS, symbolically_equal

        self.tier = "c"
        started = time.process_time()
        try:
            return symbolically_equal(pred, gold, SECONDS - self.sympy_seconds)
        finally:
            self.sympy_seconds += time.process_time() - started

    def whole_parameters(self, pred: Node, gold: Node, names: frozenset[str]) -> bool:
        """Compare at whole numbers where every symbol is one that usually counts: n, k, m."""
        if not names <= {"n", "k", "m"}:
            return False
        points = [
            {name: context().mpf(3 + step + 2 * place) for place, name in enumerate(sorted(names))}
            for step in range(6)
        ]
        values = [self.values_at((pred, gold), point) for point in points]
        return all(pair is not None and nearly_equal(*pair) for pair in values)

    def values_at(self, nodes: tuple[Node, Node], point: dict[str, Any]) -> tuple[Any, Any] | None:
        """Return both values at a point, or None where either has none."""
        try:
            return evaluate(nodes[0], point, self.budget), evaluate(nodes[1], point, self.budget)
        except Undecided:
            if self.budget.left < 0:
                raise
            return None

    def point(self, names: frozenset[str], index: int) -> dict[str, Any]:
        """Return random values: in (0,1), above 1, of either sign, then whole numbers, and so on."""
        draw: Callable[[], Any] = (
            lambda: self.random.uniform(0.05, 0.95),
            lambda: self.random.uniform(1.1, 4.9),
            lambda: self.random.uniform(-4.0, 4.0),
            lambda: self.random.randint(2, 9),
            lambda: self.random.uniform(0.01, 9.0),
        )[index % 5]
        return {name: context().mpf(draw()) for name in sorted(names)}

    # lenient only

    def renamed(self, pred: Node, gold: Node) -> bool:
        """Try the ways of renaming parameters that only one side uses."""
        own, others = sorted(symbols(pred) - symbols(gold)), sorted(symbols(gold) - symbols(pred))
        if (
            not own
            or len(own) != len(others)
            or len(own) > 3
            or pred.op == "sym"
            or gold.op == "sym"
        ):
            return False
        if pred.op == gold.op == "rel" and len(own) == len(symbols(pred)):
            return False
        if not {*own, *others} <= _PARAMETERS and not (
            len(own) == 1 and pred.op == gold.op == "group"
        ):
            return False
        return any(
            self.same(rename(pred, dict(zip(own, order))), gold) for order in permutations(others)
        )


def _same_base(pred: Node, gold: Node) -> bool:
    """Tell whether numbers of equal value may stand for each other: a gold in a base asks for that base."""
    return gold.op != "based" or (pred.op == "based" and pred.value == gold.value)


def _is_numbered(name: str, other: str) -> bool:
    """Tell whether one name is the other with a number: x_1 is a value of x."""
    short, long = sorted((name, other), key=len)
    return bool(short) and long.startswith(short + "_") and long[len(short) + 1 :].isdigit()


def _without_text(node: Node, lenient: bool) -> Node:
    """Return a product without the words around it, where the rules are lenient."""
    if not lenient or node.op != "mul":
        return node
    kept = tuple(arg for arg in node.args if arg.op != "text" or says_more(arg.value))
    if not kept or len(kept) == len(node.args):
        return node
    return kept[0] if len(kept) == 1 else Node("mul", kept)


def _itemised(node: Node, other: Node) -> Node:
    """Return ``(f, g) = (1, 2)`` as the list ``f = 1, g = 2`` where the other side is such a list."""
    if other.op != "list" or not _is_equation_like(other):
        return node
    if (
        node.op != "rel"
        or node.value != ("=",)
        or not node.args[0].op == node.args[1].op == "group"
    ):
        return node
    names, values = node.args
    if len(names.args) != len(values.args):
        return node
    return Node(
        "list", tuple(Node("rel", pair, ("=",)) for pair in zip(names.args, values.args)), ","
    )


def _items(node: Node) -> list[Node] | None:
    """Return the members of a list or set, those of both signs spelled out; None for anything else."""
    if node.op not in ("list", "set", "cases"):
        return None
    items: list[Node] = []
    for arg in node.args:
        if node.value == ";" and arg.op == "list":
            arg = Node("group", arg.args, "()")
        spelled = expand_signs(arg)
        items += spelled.args if spelled is not arg and spelled.op == "list" else (arg,)
    return items


def _is_equation_like(node: Node) -> bool:
    """Tell whether a node is a relation or a list of them."""
    return node.op == "rel" or (node.op == "list" and all(arg.op == "rel" for arg in node.args))


def _subject(node: Node) -> str | None:
    """Return the symbol that stands alone in a relation, if exactly one does."""
    alone = {arg.value for arg in node.args if arg.op == "sym"}
    return next(iter(alone)) if len(alone) == 1 else None


def _as_less(node: Node) -> Node:
    """Return an inequality with its sign turned to < or <=."""
    if node.value[0].startswith("<"):
        return node
    return Node("rel", node.args[::-1], (_FLIPPED[node.value[0]],))


def _difference(equation: Node) -> Node:
    """Return left minus right side, folded."""
    return fold(Node("add", (equation.args[0], Node("neg", (equation.args[-1],)))))


def _is_real(values: tuple[Any, Any]) -> bool:
    """Tell whether both values are real numbers (matrices count as real)."""
    return all(isinstance(value, tuple) or context().im(value) == 0 for value in values)


def _mentions_i(*nodes: Node) -> bool:
    """Tell whether the imaginary unit stands in a tree."""
    return any(
        (node.op == "const" and node.value == "i") or _mentions_i(*node.args) for node in nodes
    )
