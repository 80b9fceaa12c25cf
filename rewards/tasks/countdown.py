"""Countdown: numbers and a target, an expression that makes it, and a reward that never evaluates text as code."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from fractions import Fraction
from typing import Any, Callable, Sequence

from rewards.tasks.final_answer import is_tagged, tagged_answer
from rewards.types import Score

__all__ = [
    "Expression",
    "countdown",
    "countdown_format",
    "countdown_rows",
    "retries",
    "whole_results",
]

Row = dict[str, Any]

# ------------------------------------------------------------------------------------------ countdown's rows


def countdown_rows(
    numbers: int = 3,
    low: int = 1,
    high: int = 13,
    target_low: int = 10,
    target_high: int = 99,
    style: str = "words",
    count: int | None = None,
) -> list[Row]:
    """Numbers and a target that they make, each used once with ``+ - * /``; only solvable problems.

    A problem counts as solvable where every step of some solution is a whole number from 1 to ``target_high``.
    ``style`` is ``words`` (a question for a language model) or ``symbols`` (one token for each integer).
    Without ``count`` every problem of the ranges is returned; with it, that many drawn by a fixed rule.
    """
    if style not in _COUNTDOWN_PROMPTS:
        raise ValueError(
            f"countdown: style is {style!r}; it can be {' or '.join(_COUNTDOWN_PROMPTS)}"
        )
    if not 2 <= numbers <= 5:
        raise ValueError(f"countdown: numbers is {numbers}; it can be 2 to 5")
    if not 1 <= low <= high or not 1 <= target_low <= target_high:
        raise ValueError(
            "countdown: a range runs from a lower to a higher whole number, both at least 1"
        )
    targets = _Targets(target_low, target_high)
    drawn = (
        _every_problem(numbers, low, high, targets)
        if count is None
        else _draw(count, numbers, low, high, targets)
    )
    write = _COUNTDOWN_PROMPTS[style]
    return [
        {"prompt": write(given, goal), "numbers": list(given), "target": goal}
        for given, goal in drawn
    ]


Problem = tuple[tuple[int, ...], int]


def _every_problem(numbers: int, low: int, high: int, targets: _Targets) -> list[Problem]:
    multisets = itertools.combinations_with_replacement(range(low, high + 1), numbers)
    return [(given, target) for given in multisets for target in targets.of(given)]


def _draw(count: int, numbers: int, low: int, high: int, targets: _Targets) -> list[Problem]:
    """That many different problems, drawn by a fixed rule; `ValueError` where the ranges hold too few."""
    rng = random.Random("countdown")
    drawn: dict[Problem, bool] = {}
    for _ in range(100 * count + 1000):
        if len(drawn) == count:
            return list(drawn)
        given = tuple(sorted(rng.choices(range(low, high + 1), k=numbers)))
        if goals := targets.of(given):
            drawn[given, rng.choice(goals)] = True
    raise ValueError(
        f"countdown: found {len(drawn)} problems, not {count}; widen the ranges or ask for fewer"
    )


class _Targets:
    """Which targets of a range some numbers make, in steps that stay whole and positive; remembers what it saw."""

    def __init__(self, low: int, high: int):
        self.low, self.high = low, high
        self._reached: dict[tuple[int, ...], frozenset[int]] = {}

    def of(self, given: tuple[int, ...]) -> list[int]:
        return sorted(value for value in self._reach(given) if self.low <= value <= self.high)

    def _reach(self, given: tuple[int, ...]) -> frozenset[int]:
        if len(given) == 1:
            return frozenset(given)
        if given not in self._reached:
            self._reached[given] = frozenset().union(*map(self._reach, self._after_one_step(given)))
        return self._reached[given]

    def _after_one_step(self, given: tuple[int, ...]) -> set[tuple[int, ...]]:
        left: set[tuple[int, ...]] = set()
        for i, j in itertools.combinations(range(len(given)), 2):
            rest = given[:i] + given[i + 1 : j] + given[j + 1 :]
            left.update(
                tuple(sorted((*rest, value)))
                for value in whole_results(given[i], given[j], self.high)
            )
        return left


def whole_results(a: int, b: int, largest: int) -> dict[int, str]:
    """What one step can make of two numbers, ``{value: "a op b"}``, where that is whole and in 1..largest."""
    big, small = max(a, b), min(a, b)
    made = {big - small: f"{big} - {small}", big + small: f"{a} + {b}", big * small: f"{a} * {b}"}
    if big % small == 0:
        made.setdefault(big // small, f"{big} / {small}")
    return {value: text for value, text in made.items() if 1 <= value <= largest}


def _in_words(given: Sequence[int], target: int) -> str:
    listed = f"{', '.join(map(str, given[:-1]))} and {given[-1]}"
    return f"Use each of the numbers {listed} exactly once, with + - * / and brackets, to make {target}."


def _in_symbols(given: Sequence[int], target: int) -> str:
    return f"{' '.join(map(str, given))} make {target} :"


_COUNTDOWN_PROMPTS = {"words": _in_words, "symbols": _in_symbols}


# ---------------------------------------------------------------------------------------- countdown's reward


def countdown(
    text: str, numbers: Sequence[int] | str, target: int | str, finish: str | None = None
) -> Score:
    """1 where the completion's one final answer makes ``target`` with every number used exactly once, else 0.

    The final answer is the content of its ``<answer>`` tags; without tags, what follows the word ``answer``; without
    that word, the last line. Nothing may follow it but ``= target`` and a full stop, and there may be only one.
    Where ``finish`` is given it must be ``stop``: a policy that is paid without ending forgets how to end.
    """
    try:
        given, goal = _whole_numbers(numbers), _one_whole_number(target)
    except ValueError as error:
        return Score(None, status="fault", detail=f"countdown: {error}")
    answer, problem = _final_answer(text)
    if answer is None:
        return _verdict(text, finish, status="no_answer", detail=problem)
    problem = problem or _what_is_wrong(answer, given, goal)
    if not problem and finish not in (None, "stop"):
        problem = f"right, but it did not end: finish is {finish}"
    return _verdict(text, finish, correct=not problem, detail=problem or "right", extracted=answer)


def countdown_format(text: str, finish: str | None = None) -> Score:
    """1 where the completion ended by itself with exactly one final answer that can be read, right or wrong."""
    answer, problem = _final_answer(text)
    if answer is None:
        return Score(0.0, status="no_answer", detail=problem)
    try:
        Expression(_without_claim(answer)[0])
    except ValueError as error:
        problem = problem or str(error)
    if finish not in (None, "stop"):
        problem = problem or f"it did not end: finish is {finish}"
    return Score(0.0 if problem else 1.0, detail=problem or "well formed", extracted=answer)


def retries(text: str) -> int:
    """How often the completion says ``no`` to an attempt of its own and goes on."""
    return len(re.findall(r"\bno\b", text, flags=re.IGNORECASE))


def _verdict(text: str, finish: str | None, correct: bool = False, **verdict: Any) -> Score:
    ended = finish in (None, "stop")
    parts = {"correct": float(correct), "ended": float(ended), "retries": float(retries(text))}
    return Score(float(correct), parts, **verdict)


def _whole_numbers(numbers: Any) -> list[int]:
    """The given numbers from a list or, as a CSV holds them, from a text such as ``[3, 5, 7]``."""
    if isinstance(numbers, str):
        if not re.fullmatch(r"\s*[\[(]?[\s\d,]+[\])]?\s*", numbers):
            raise ValueError(f"the column numbers holds {numbers!r}, not a list of whole numbers")
        numbers = re.findall(r"\d+", numbers)
    try:
        given = [_one_whole_number(number) for number in numbers]
    except TypeError:
        given = []
    if not given:
        raise ValueError(f"the column numbers holds {numbers!r}, not a list of whole numbers")
    return given


def _one_whole_number(value: Any) -> int:
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        number = None
    if number is None or number.denominator != 1:
        raise ValueError(f"expected a whole number, found {value!r}")
    return int(number)


# ------------------------------------------------------------------------------ where the final answer stands

_NAMED = re.compile(r"\banswer\b\s*(?:is\b\s*)?(?:[:=]\s*)?(?=[0-9(])", re.IGNORECASE)
_SIGNS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "×": "*",
    "·": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
}


def _final_answer(text: str) -> tuple[str | None, str]:
    """The final answer and what is wrong with the way it stands; None where there is no answer at all."""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    if is_tagged(text):
        return tagged_answer(text)
    named = list(_NAMED.finditer(text))
    if named:
        problem = "more than one final answer" if len(named) > 1 else ""
        return text[named[-1].end() :].strip(), problem
    lines = text.strip().splitlines()
    if lines and re.search(r"[0-9]\s*[-+*/]", lines[-1]):
        return lines[-1].strip(), ""
    return None, "no final answer was found"


def _without_claim(answer: str) -> tuple[str, str | None]:
    """The answer's expression, and the value it claims where it goes on with ``= value``."""
    match = re.fullmatch(r"(.*?)(?:=\s*([0-9]{1,9})\s*)?\.?", answer.strip(), flags=re.DOTALL)
    assert match is not None
    return match.group(1).strip(), match.group(2)


def _what_is_wrong(answer: str, given: Sequence[int], target: int) -> str:
    """Why an answer does not solve the problem; empty where it does."""
    expression, claim = _without_claim(answer)
    if claim is not None and int(claim) != target:
        return f"it claims {claim}, not {target}"
    try:
        read = Expression(expression)
        if Counter(read.numbers) != Counter(given):
            return f"it uses {sorted(read.numbers)}, not each of {sorted(given)} once"
        value = read.value()
    except (ValueError, ZeroDivisionError) as error:
        return str(error)
    return "" if value == target else f"it makes {value}, not {target}"


# ------------------------------------------------------------------------------------- reading an expression

MAX_EXPRESSION_CHARS = 200
_SYMBOL = re.compile(r"\s*(?:([0-9]{1,6}(?![0-9]))|([-+*/()]))")
_Tree = Any  # an int, or (sign, left, right)


class Expression:
    """Whole numbers, ``+ - * /`` and brackets, read by recursive descent; `ValueError` for anything else.

    No unary signs, no powers, no joined digits: each is a way to make a number that was not given. Reading and
    valuing are apart, so that the numbers can be checked before anything is computed. ``signed`` allows a minus
    sign in front of a number or bracket.
    """

    def __init__(self, text: str, signed: bool = False):
        if len(text) > MAX_EXPRESSION_CHARS:
            raise ValueError(f"the expression is longer than {MAX_EXPRESSION_CHARS} characters")
        self.numbers: list[int] = []
        self._signed = signed
        self._symbols = _symbols(text)
        self._tree = self._sum()
        if self._symbols:
            raise ValueError(f"not an expression: {self._symbols[0]!r} is left over")

    def value(self) -> Fraction:
        """The exact value; `ZeroDivisionError` where it divides by zero."""
        return _value(self._tree)

    def _sum(self) -> _Tree:
        return self._chain("+-", self._product)

    def _product(self) -> _Tree:
        return self._chain("*/", self._atom)

    def _chain(self, signs: str, operand: Callable[[], _Tree]) -> _Tree:
        tree = operand()
        while self._symbols and self._symbols[0] in signs:
            tree = (self._symbols.pop(0), tree, operand())
        return tree

    def _atom(self) -> _Tree:
        if not self._symbols:
            raise ValueError("not an expression: it breaks off")
        symbol = self._symbols.pop(0)
        if symbol == "-" and self._signed:
            return ("-", 0, self._atom())
        if symbol.isdigit():
            self.numbers.append(int(symbol))
            return int(symbol)
        if symbol != "(":
            raise ValueError(f"not an expression: {symbol!r} where a number should stand")
        tree = self._sum()
        if not self._symbols or self._symbols.pop(0) != ")":
            raise ValueError("not an expression: a bracket is not closed")
        return tree


def _symbols(text: str) -> list[str]:
    symbols, end = [], 0
    while match := _SYMBOL.match(text, end):
        symbols.append(match.group(1) or match.group(2))
        end = match.end()
    if text[end:].strip():
        raise ValueError(f"not an expression: cannot read {text[end:].strip()[:20]!r}")
    return symbols


def _value(tree: _Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    sign, left, right = tree[0], _value(tree[1]), _value(tree[2])
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if right == 0:
        raise ZeroDivisionError("it divides by zero")
    return left / right
