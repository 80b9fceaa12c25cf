"""The calculator is exact, knows what it refuses, and never works for long."""

from __future__ import annotations

import ast
import operator
import random
import warnings
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest

from rewards.environments.calculator import calculator, value_of
from rewards.environments.tools import ToolError

OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def drawn_expression(draw: random.Random, depth: int) -> tuple[str, Fraction]:
    """An expression in full parentheses, and its value by Python's own fractions."""
    if depth == 0 or draw.random() < 0.2:
        number = draw.randrange(1, 50)
        return (
            (f"{number}.25", Fraction(4 * number + 1, 4))
            if draw.random() < 0.3
            else (str(number), Fraction(number))
        )
    sign = draw.choice(list(OPERATIONS))
    left, left_value = drawn_expression(draw, depth - 1)
    right, right_value = drawn_expression(draw, depth - 1)
    if sign in ("/", "//", "%") and right_value == 0:
        sign = "+"
    return f"({left} {sign} {right})", Fraction(OPERATIONS[sign](left_value, right_value))


def test_values_are_those_of_exact_fractions(seed):
    draw = random.Random(seed)
    for _ in range(300):
        expression, value = drawn_expression(draw, 4)
        assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("37*48", "1776"),
        ("0.1 + 0.2", "0.3"),
        ("7/2", "3.5"),
        ("1/3", "1/3 (about 0.333333333333)"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2^10", "1024"),
        ("-2**2", "-4"),
        ("3 × 4 ÷ 2 − 1 =", "5"),
        ("sqrt(16/9)", "4/3 (about 1.33333333333)"),
        ("sqrt(2)", "1.4142135623730950488"),
        ("factorial(20)", "2432902008176640000"),
        ("comb(10, 3)", "120"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("round(2.675, 2)", "2.68"),
        ("max(1, 2.5, 2)", "2.5"),
        ("10**5000", "1" + 5000 * "0"),
    ],
)
def test_what_is_shown(expression, shown):
    assert calculator(expression) == shown


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9", "9**(9**5)", "factorial(10**6)", "comb(10**9, 5)", "1e99999", "2**-10**9", "(" * 500 + "1" + ")" * 500,
        "+" * 900 + "1", "10**5000 * 10**5000", "round(1, 10**9)", "1" * 2000,
    ],
    ids=lambda expression: expression[:12],
)  # fmt: skip
def test_what_would_take_long_is_refused(expression):
    with pytest.raises(ToolError):
        value_of(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1/0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0**-1", "division by zero"),
        ("x + 1", "x is no arithmetic"),
        ("().__class__", "no arithmetic"),
        ("__import__('os')", "'os' is no number"),
        ("open('f')", "no number"),
        ("sin(1)", "there is no function sin"),
        ("max()", "does not take 0 values"),
        ("True", "no number"),
        ("1 < 2", "no arithmetic"),
        ("(", "no arithmetic"),
        ("", "no arithmetic"),
        ("sqrt(-1)", "not real"),
        ("factorial(2.5)", "no natural number"),
        ("2**(1/3)", "whole number or a half"),
    ],
)
def test_what_is_no_arithmetic_says_why(expression, said):
    with pytest.raises(ToolError, match=said.replace("(", r"\(")):
        calculator(expression)


def test_nothing_of_an_expression_is_run_by_python():
    tree = ast.parse(Path(calculator.__code__.co_filename).read_text())
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_no_expression_makes_the_parser_print_a_warning(seed):
    draw = random.Random(seed)
    pieces = [
        "1",
        "37",
        "0x1f",
        "1.",
        "2e5",
        "3j",
        "is",
        "or",
        "if ",
        "else",
        "in",
        "not ",
        "and",
        "for",
        "+",
        "'\\d'",
    ]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2000):
            expression = "".join(draw.choices(pieces, k=draw.randrange(1, 5)))
            with suppress(ToolError):
                calculator(expression)
    assert not [str(warning.message) for warning in warned]
    assert calculator("floor(7/2) + factorial(3) + min(2, ceil(0.5))") == "10"
