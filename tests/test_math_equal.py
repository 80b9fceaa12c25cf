"""Whether two answers are the same mathematics."""

import random
from fractions import Fraction

import pytest

from rewards.math_equal import equal


def written(value: Fraction, rng: random.Random) -> str:
    """Write a rational in one of its usual forms."""
    forms = [f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}"]
    if value.denominator == 1:
        forms += [f"{value.numerator}", f"{value.numerator:,}", f"{value.numerator}.0", f" ${value.numerator}$ "]
    return rng.choice(forms)


def test_random_rationals_equal_themselves_in_every_form_and_nothing_else():
    rng = random.Random()
    for _ in range(500):
        value = Fraction(rng.randint(-9999, 9999), rng.choice([1, 1, rng.randint(2, 50)]))
        other = value + Fraction(rng.choice([-1, 1]), rng.randint(1, 9))
        assert equal(written(value, rng), written(value, rng)).equal is True
        assert equal(written(other, rng), written(value, rng)).equal is False


@pytest.mark.parametrize("pred, gold", [("0.33333333", "1/3"), ("0.5", "1/2"), ("50\\%", "0.5"), ("50%", "50"), ("$5", "5")])
def test_strict_accepts_exact_values_long_roundings_and_a_sign_on_one_side(pred, gold):
    assert equal(pred, gold).equal is True


@pytest.mark.parametrize("pred, gold", [("0.333", "1/3"), ("0.33333334", "1/3"), ("5", "0.05"), ("0.457627", "0.458")])
def test_strict_refuses_short_roundings(pred, gold):
    assert equal(pred, gold).equal is False


@pytest.mark.parametrize("pred, gold", [("27/59", "0.458"), ("0.4576", "0.458"), ("784", "785.12")])
def test_lenient_accepts_what_rounds_to_a_decimal_gold(pred, gold):
    assert equal(pred, gold, lenient=True).equal is True
    assert equal(pred, gold).equal is False


def test_an_empty_gold_is_no_verdict():
    assert equal("1", "").equal is None
