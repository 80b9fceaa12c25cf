"""Whether two expressions have the same value: at 50 digits, at random points, and failing that by sympy.

`Agreement` holds what one comparison of two answers may spend, and reports what it could not decide.
"""

from __future__ import annotations

import random
from typing import Any

from rewards.mathematics.expressions import (
    Budget,
    Point,
    Undecided,
    context,
    evaluate,
    fold,
    nearly_equal,
    symbols,
)
from rewards.mathematics.tree import Node

__all__ = ["Agreement"]

NUM_POINTS = 10
_COUNTERS = frozenset({"n", "k", "m"})


class Agreement:
    """The numeric and symbolic tiers of one comparison, with its random points and its budgets.

    ``tier`` is the last one that was asked, ``b`` (numeric) or ``c`` (sympy); ``is_out_of_time`` whether a question
    was left open by the clock, so that no verdict may be drawn from the lack of an answer.
    """

    def __init__(self, seed: int, lenient: bool, allow_sympy: bool):
        self.lenient = lenient
        self.allow_sympy = allow_sympy
        self.budget = Budget()
        self.tier = "b"
        self.is_out_of_time = False
        self._random = random.Random(seed)
        self._work: Any = None

    # points

    def point(self, names: frozenset[str], index: int) -> Point:
        """Return random values: in (0,1), above 1, of either sign, then integers, and so on."""
        return {name: context().mpf(self._draw(index % 5)) for name in sorted(names)}

    def _draw(self, kind: int) -> float:
        if kind == 3:
            return self._random.randint(2, 9)
        low, high = _RANGES[kind]
        return self._random.uniform(low, high)

    # values

    def evaluate(self, node: Node, point: Point) -> Any:
        """Return the value of a folded tree at a point, within this comparison's budget."""
        return evaluate(node, point, self.budget)

    def real_value(self, node: Node) -> Any:
        """Return the value of an expression without free symbols; None if it has any or is not real."""
        if symbols(node):
            return None
        value = self.evaluate(fold(node), {})
        if isinstance(value, tuple):
            return None
        if context().im(value) != 0:
            return None
        return context().re(value)

    def _values_at(self, pred: Node, gold: Node, point: Point) -> tuple[Any, Any] | None:
        """Return both values at a point, or None if either has none."""
        try:
            return self.evaluate(pred, point), self.evaluate(gold, point)
        except Undecided:
            if self.budget.left < 0:
                raise
            return None

    # comparison

    def same_function(self, pred: Node, gold: Node) -> bool:
        """Tell whether two folded expressions agree at every random point at which both are real."""
        names = symbols(pred) | symbols(gold)
        if not names:
            return self._same_constant(pred, gold)
        num_real = 0
        num_complex_agreed = 0
        complex_differed = False
        complex_counts = _mentions_i(pred) or _mentions_i(gold)
        for index in range(NUM_POINTS):
            values = self._values_at(pred, gold, self.point(names, index))
            if values is None:
                continue
            agree = nearly_equal(*values)
            if not complex_counts and not all(map(_is_real, values)):
                num_complex_agreed += agree
                complex_differed = complex_differed or not agree
            elif not agree:
                return self._same_at_integers(pred, gold, names)
            else:
                num_real += 1
            if num_real >= 3 and index >= 3:
                return True
        if num_real or (num_complex_agreed >= 2 and not complex_differed):
            return True
        if complex_differed:
            return self._same_at_integers(pred, gold, names)
        return self._same_by_sympy(pred, gold)

    def _same_constant(self, pred: Node, gold: Node) -> bool:
        """Compare two constants at 50 digits."""
        try:
            return nearly_equal(self.evaluate(pred, {}), self.evaluate(gold, {}))
        except Undecided:
            return self._same_by_sympy(pred, gold)

    def _same_at_integers(self, pred: Node, gold: Node, names: frozenset[str]) -> bool:
        """Compare leniently at integers, if every symbol is one that usually counts: n, k, m."""
        if not self.lenient or not names <= _COUNTERS:
            return False
        pairs = []
        for step in range(6):
            values = {name: 3 + step + 2 * rank for rank, name in enumerate(sorted(names))}
            point = {name: context().mpf(value) for name, value in values.items()}
            pairs.append(self._values_at(pred, gold, point))
        return all(pair is not None and nearly_equal(*pair) for pair in pairs)

    def _same_by_sympy(self, pred: Node, gold: Node) -> bool:
        """Ask sympy if the caller allows it; otherwise the question stays open."""
        if not self.allow_sympy:
            raise Undecided("needs sympy")
        from rewards.mathematics import symbolic  # noqa: PLC0415  only where sympy may be asked

        self.tier = "c"
        if self._work is None:
            self._work = symbolic.Work()
        try:
            return symbolic.symbolically_equal(pred, gold, self._work)
        except symbolic.OutOfTime:
            self.is_out_of_time = True
            raise


_RANGES = {0: (0.05, 0.95), 1: (1.1, 4.9), 2: (-4.0, 4.0), 4: (0.01, 9.0)}


def _is_real(value: Any) -> bool:
    """Tell whether a value is a real number (matrices count as real)."""
    return isinstance(value, tuple) or context().im(value) == 0


def _mentions_i(node: Node) -> bool:
    """Tell whether a tree contains the imaginary unit."""
    return (node.op == "const" and node.value == "i") or any(map(_mentions_i, node.args))
