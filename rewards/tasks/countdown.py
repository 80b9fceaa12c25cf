"""Countdown: numbers and a target, an expression that makes it, and a reward that never evaluates text as code."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from fractions import Fraction
from typing import Any, Callable, Sequence

from rewards.reasoning import after_reasoning
from rewards.tasks.countdown_traces import Puzzle, trace
from rewards.tasks.final_answer import UNFINISHED, has_ended, is_tagged, tagged_answer
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
Numbers = tuple[int, ...]
Problem = tuple[Numbers, int]
"""The numbers, in increasing order, and the target."""

# ------------------------------------------------------------------------------------------ countdown's rows


def countdown_rows(
    numbers: int = 3,
    low: int = 1,
    high: int = 13,
    target_low: int = 10,
    target_high: int = 99,
    style: str = "words",
    count: int | None = None,
    traces: str | None = None,
) -> list[Row]:
    """Numbers and a target that they make, each used once with ``+ - * /``; only solvable problems.

    A problem counts as solvable if every step of some solution is a whole number from 1 to ``target_high``.
    ``style`` is ``words`` (a question for a language model) or ``symbols`` (one token for each integer).
    Without ``count`` every problem of the ranges is returned; with it, that many drawn by a fixed rule. With ``traces``
    each row has a ``completion`` that solves it, for supervised training: ``direct``, or ``search`` with attempts that
    miss before.
    """
    if style not in PROMPTS:
        raise ValueError(f"countdown: style is {style!r}; it can be {' or '.join(PROMPTS)}")
    if not 2 <= numbers <= 5:
        raise ValueError(f"countdown: numbers is {numbers}; it can be 2 to 5")
    if not 1 <= low <= high or not 1 <= target_low <= target_high:
        raise ValueError(
            "countdown: a range runs from a lower to a higher whole number, both at least 1"
        )
    operands = range(low, high + 1)
    targets = _Targets(target_low, target_high)
    if count is None:
        problems = _every_problem(numbers, operands, targets)
    else:
        problems = _draw(count, numbers, operands, targets)
    write = PROMPTS[style]
    rows: list[Row] = []
    for operands_used, target in problems:
        prompt = write(operands_used, target)
        row: Row = {"prompt": prompt, "numbers": list(operands_used), "target": target}
        if traces is not None:
            puzzle = Puzzle(
                operands_used,
                target,
                largest=target_high,
                results=whole_results,
                reaches=targets.leading_to(target),
            )
            row["completion"] = trace(puzzle, kind=traces, style=style)
        rows.append(row)
    return rows


def _every_problem(size: int, operands: range, targets: _Targets) -> list[Problem]:
    problems = []
    for numbers in itertools.combinations_with_replacement(operands, size):
        problems += [(numbers, target) for target in targets.of(numbers)]
    return problems


def _draw(count: int, size: int, operands: range, targets: _Targets) -> list[Problem]:
    """That many different problems, drawn by a fixed rule; `ValueError` if the ranges hold too few."""
    rng = random.Random("countdown")
    drawn: dict[Problem, bool] = {}
    for _ in range(100 * count + 1000):
        if len(drawn) == count:
            return list(drawn)
        numbers = tuple(sorted(rng.choices(operands, k=size)))
        reachable = targets.of(numbers)
        if reachable:
            drawn[numbers, rng.choice(reachable)] = True
    raise ValueError(
        f"countdown: found {len(drawn)} problems, not {count}; widen the ranges or ask for fewer"
    )


class _Targets:
    """Which targets of a range some numbers make, in steps that stay whole and positive; remembers what it computed."""

    def __init__(self, low: int, high: int):
        self.low = low
        self.high = high
        self._reachable: dict[Numbers, frozenset[int]] = {}

    def of(self, numbers: Numbers) -> list[int]:
        """The targets that the numbers make, in increasing order."""
        return sorted(value for value in self._reach(numbers) if self.low <= value <= self.high)

    def leading_to(self, target: int) -> Callable[[Numbers], bool]:
        """Whether numbers in increasing order can make `target`."""
        return lambda numbers: target in self._reach(numbers)

    def _reach(self, numbers: Numbers) -> frozenset[int]:
        if len(numbers) == 1:
            return frozenset(numbers)
        if numbers not in self._reachable:
            after_one_step = map(self._reach, self._after_one_step(numbers))
            self._reachable[numbers] = frozenset().union(*after_one_step)
        return self._reachable[numbers]

    def _after_one_step(self, numbers: Numbers) -> set[Numbers]:
        """The numbers that may be left after two of them were combined."""
        remaining: set[Numbers] = set()
        for i, j in itertools.combinations(range(len(numbers)), 2):
            others = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for value in whole_results(numbers[i], numbers[j], self.high):
                remaining.add(tuple(sorted((*others, value))))
        return remaining


def whole_results(a: int, b: int, largest: int) -> dict[int, str]:
    """What one step can make of two numbers, ``{value: "a op b"}``, if that is whole and in 1..largest."""
    big = max(a, b)
    small = min(a, b)
    results = {
        big - small: f"{big} - {small}",
        big + small: f"{a} + {b}",
        big * small: f"{a} * {b}",
    }
    if big % small == 0:
        results.setdefault(big // small, f"{big} / {small}")
    return {value: text for value, text in results.items() if 1 <= value <= largest}


def _in_words(numbers: Sequence[int], target: int) -> str:
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"Use each of the numbers {listed} exactly once, with + - * / and brackets, to make {target}."


def _in_symbols(numbers: Sequence[int], target: int) -> str:
    return f"{' '.join(map(str, numbers))} make {target} :"


PROMPTS = {"words": _in_words, "symbols": _in_symbols}


# ---------------------------------------------------------------------------------------- countdown's reward


def countdown(
    text: str,
    numbers: Sequence[int] | str,
    target: int | str,
    finish: str | None = None,
    prompt_text: str = "",
) -> Score:
    """1 if the completion's one final answer makes ``target`` with every number used exactly once, else 0.

    The final answer is the content of its ``<answer>`` tags; without tags, what follows the word ``answer``; without
    that word, the last line. Nothing may follow it but ``= target`` and a full stop, and there may be only one.
    If ``finish`` is given it must be ``stop``: a policy that is rewarded without ending forgets how to end. Only what
    follows the reasoning is read; reasoning that never ends, opened by the completion or by ``prompt_text``, holds no
    answer.
    """
    try:
        required_numbers = _whole_numbers(numbers)
        required_target = _whole_number(target)
    except ValueError as error:
        return Score(None, status="fault", detail=f"countdown: {error}")
    answer, problem = _final_answer(after_reasoning(text, prompt_text))
    if answer is None:
        return _verdict(text, finish, status="no_answer", detail=problem)
    problem = problem or _problem_with(answer, required_numbers, required_target)
    if not problem and not has_ended(finish):
        problem = f"right, but it did not end: finish is {finish}"
    return _verdict(text, finish, correct=not problem, detail=problem or "right", extracted=answer)


def countdown_format(text: str, finish: str | None = None, prompt_text: str = "") -> Score:
    """1 if the completion ended by itself with exactly one readable final answer, right or wrong."""
    answer, problem = _final_answer(after_reasoning(text, prompt_text))
    if answer is None:
        return Score(0.0, status="no_answer", detail=problem)
    expression, _ = _split_claim(answer)
    try:
        Expression(expression)
    except ValueError as error:
        problem = problem or str(error)
    if not has_ended(finish):
        problem = problem or f"it did not end: finish is {finish}"
    return Score(0.0 if problem else 1.0, detail=problem or "well formed", extracted=answer)


def retries(text: str) -> int:
    """How often the completion says ``no`` to an attempt of its own and tries again."""
    return len(re.findall(r"\bno\b", text, flags=re.IGNORECASE))


def _verdict(text: str, finish: str | None, correct: bool = False, **verdict: Any) -> Score:
    parts = {
        "correct": float(correct),
        "ended": float(has_ended(finish)),
        "retries": float(retries(text)),
    }
    return Score(float(correct), parts, **verdict)


def _whole_numbers(numbers: Any) -> list[int]:
    """The numbers from a list or, as a CSV holds them, from a text such as ``[3, 5, 7]``."""
    if isinstance(numbers, str):
        if not re.fullmatch(r"\s*[\[(]?[\s\d,]+[\])]?\s*", numbers):
            raise ValueError(f"the column numbers holds {numbers!r}, not a list of whole numbers")
        numbers = re.findall(r"\d+", numbers)
    try:
        whole_numbers = [_whole_number(number) for number in numbers]
    except TypeError:
        whole_numbers = []
    if not whole_numbers:
        raise ValueError(f"the column numbers holds {numbers!r}, not a list of whole numbers")
    return whole_numbers


def _whole_number(value: Any) -> int:
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        number = None
    if number is None or number.denominator != 1:
        raise ValueError(f"expected a whole number, found {value!r}")
    return int(number)


# ------------------------------------------------------------------------------ which text is the final answer

_NAMED = re.compile(r"\banswer\b\s*(?:is\b\s*)?(?:[:=]\s*)?(?=[0-9(])", re.IGNORECASE)
SIGNS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "×": "*",
    "·": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
}


def _final_answer(text: str | None) -> tuple[str | None, str]:
    """The final answer and what is wrong with how it is written; None if there is no answer at all."""
    if text is None:
        return None, UNFINISHED
    for sign, plain in SIGNS.items():
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


def _split_claim(answer: str) -> tuple[str, str | None]:
    """The answer's expression, and the value it claims if it ends with ``= value``."""
    match = re.fullmatch(r"(.*?)(?:=\s*([0-9]{1,9})\s*)?\.?", answer.strip(), flags=re.DOTALL)
    assert match is not None
    return match.group(1).strip(), match.group(2)


def _problem_with(answer: str, numbers: Sequence[int], target: int) -> str:
    """Why an answer does not solve the problem; empty if it does."""
    expression, claim = _split_claim(answer)
    if claim is not None and int(claim) != target:
        return f"it claims {claim}, not {target}"
    try:
        parsed = Expression(expression)
        if Counter(parsed.numbers) != Counter(numbers):
            return f"it uses {sorted(parsed.numbers)}, not each of {sorted(numbers)} once"
        value = parsed.value()
    except (ValueError, ZeroDivisionError) as error:
        return str(error)
    return "" if value == target else f"it makes {value}, not {target}"


# ------------------------------------------------------------------------------------- reading an expression

MAX_EXPRESSION_CHARS = 200
_SYMBOL = re.compile(r"\s*(?:([0-9]{1,6}(?![0-9]))|([-+*/()]))")
_Tree = Any  # an int, or (sign, left, right)


class Expression:
    """Whole numbers, ``+ - * /`` and brackets, parsed by recursive descent; `ValueError` for anything else.

    No unary signs, no powers, no joined digits: each is a way to make a number that was not given. Parsing and
    evaluating are separate, so that the numbers can be checked before anything is computed. ``signed`` allows a minus
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
        """The exact value; `ZeroDivisionError` if it divides by zero."""
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
            raise ValueError(f"not an expression: {symbol!r} instead of a number")
        tree = self._sum()
        if not self._symbols or self._symbols.pop(0) != ")":
            raise ValueError("not an expression: a bracket is not closed")
        return tree


def _symbols(text: str) -> list[str]:
    symbols = []
    end = 0
    while match := _SYMBOL.match(text, end):
        symbols.append(match.group(1) or match.group(2))
        end = match.end()
    rest = text[end:].strip()
    if rest:
        raise ValueError(f"not an expression: cannot read {rest[:20]!r}")
    return symbols


def _value(tree: _Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    sign = tree[0]
    left = _value(tree[1])
    right = _value(tree[2])
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if right == 0:
        raise ZeroDivisionError("it divides by zero")
    return left / right
