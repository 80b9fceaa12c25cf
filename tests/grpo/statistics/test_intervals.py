"""Intervals against other implementations' numbers, their limits, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.coverage import SPREADS, accuracy_row, accuracy_rows, comparison_row
from grpo.statistics.comparison import compare
from grpo.statistics.distributions import (
    incomplete_beta,
    normal_p_value,
    normal_quantile,
    t_p_value,
    t_quantile,
)
from grpo.statistics.intervals import (
    LEAST_DESIGN_EFFECT,
    PRIOR_SUCCESSES,
    fixed_prompts_interval,
    mean_interval,
    share_interval,
)

T_QUANTILES = [
    (0.95, 1, 12.706204736174694),
    (0.95, 2.5, 3.5746548420036817),
    (0.95, 30, 2.0422724563012378),
    (0.95, 2636, 1.960864342032021),
    (0.99, 7, 3.4994832973504924),
]
T_TAILS = [
    (0.5, 3, 0.651447964848151),
    (2.2, 15, 0.04389557512749648),
    (-5, 1.5, 0.06537576762115621),
    (40, 4, 2.3340163226012678e-06),
]
BETAS = [
    (0.3, 2.5, 7, 0.6412224629717214),
    (0.99, 0.5, 0.5, 0.9362314391414803),
    (0.5, 50, 60, 0.8309072939016693),
]
WILSON = [
    (5, 16, 0.14164643854782039, 0.5559564416525933),
    (0, 64, 0.0, 0.05662405979280534),
    (13, 256, 0.02991381138655353, 0.08493105962106534),
    (500, 1319, 0.35327959828036465, 0.4055728342066042),
    (1319, 1319, 0.9970960550146964, 1.0),
]
MCNEMAR = [
    (5, 0, 0.0625),
    (6, 0, 0.03125),
    (8, 1, 0.0390625),
    (9, 2, 0.0654296875),
    (40, 20, 0.01348929373119186),
    (200, 161, 0.04535044500384829),
]
"""All of scipy 1.17: t, betainc, binomtest with proportion_ci("wilson") and its exact p-value."""

# ---- distributions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level, degrees, expected", T_QUANTILES)
def test_the_quantiles_of_students_t_are_scipys(level, degrees, expected):
    assert t_quantile(level, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("statistic, degrees, expected", T_TAILS)
def test_the_tails_of_students_t_are_scipys(statistic, degrees, expected):
    assert t_p_value(statistic, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("x, a, b, expected", BETAS)
def test_the_incomplete_beta_function_is_scipys(x, a, b, expected):
    assert incomplete_beta(x, a, b) == pytest.approx(expected, rel=1e-9)


def test_the_normal_distribution():
    assert normal_quantile(0.95) == pytest.approx(1.959963984540054)
    assert normal_p_value(-1.959963984540054) == pytest.approx(0.05)
    assert incomplete_beta(0, 2, 3) == 0 and incomplete_beta(1, 2, 3) == 1


# ---- one sample a prompt: Wilson's interval ------------------------------------------------------------------------


@pytest.mark.parametrize("right, number, low, high", WILSON)
def test_of_many_prompts_with_one_sample_it_is_wilsons_of_scipy(right, number, low, high):
    """scipy takes the normal quantile; with few prompts Student's is a little wider."""
    found = share_interval([1.0] * right + [0.0] * (number - right))
    widening = t_quantile(0.95, 2 * (number - 1)) / normal_quantile(0.95) - 1
    assert found.value == right / number
    assert found.low == pytest.approx(low, abs=2.2 * widening * (high - low) + 1e-12)
    assert found.high == pytest.approx(high, abs=2.2 * widening * (high - low) + 1e-12)


def test_it_is_the_formula_of_its_docstring(seed):
    generator = numpy.random.default_rng(seed)
    counts = generator.binomial(8, generator.beta(1, 2, 50))
    share = counts.mean() / 8
    effect = (counts / 8).var(ddof=1) / (share * (1 - share) / 8)
    effective = min(share, 1 - share) * 400 / effect
    effect = (effective * effect + PRIOR_SUCCESSES * 8) / (effective + PRIOR_SUCCESSES)
    number = 400 / effect
    z = t_quantile(0.95, 98)
    ends = numpy.roots([1 + z * z / number, -(2 * share + z * z / number), share * share])
    found = share_interval(counts / 8, 8)
    assert sorted(ends) == pytest.approx([found.low, found.high])
    assert effect > 1 > LEAST_DESIGN_EFFECT


def test_nothing_right_is_no_proof_that_nothing_can_be():
    for samples in (1, 2, 8):
        none = share_interval([0.0] * 64, samples)
        every = share_interval([1.0] * 64, samples)
        assert none.low == 0 and 0.03 < none.high < 0.06
        assert every.high == 1 and every.low == pytest.approx(1 - none.high)


def test_samples_that_agree_are_no_more_evidence_than_one():
    shares = [1.0] * 20 + [0.0] * 44
    one = share_interval(shares, 1)
    eight = share_interval(shares, 8)
    assert eight.low == pytest.approx(one.low, abs=0.003)
    assert eight.high == pytest.approx(one.high, abs=0.003)


def test_independent_samples_are_as_good_as_more_prompts(seed):
    counts = numpy.random.default_rng(seed).binomial(8, 0.4, 4000) / 8
    found = share_interval(counts, 8)
    theory = 2 * 1.96 * math.sqrt(0.24 / 32_000)
    assert found.high - found.low == pytest.approx(theory, rel=0.1)


def test_one_prompt_bounds_nothing_and_none_has_no_accuracy():
    alone = share_interval([0.25], 4)
    assert (alone.value, alone.low, alone.high) == (0.25, 0.0, 1.0)
    assert math.isnan(share_interval([]).value) and math.isnan(share_interval([]).low)
    with pytest.raises(ValueError):
        share_interval([0.5, 1.1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_holds_the_accuracy_mirrors_and_ignores_the_order(counts, level):
    shares = [count / 8 for count in counts]
    found = share_interval(shares, 8, level)
    mirrored = share_interval([1 - share for share in reversed(shares)], 8, level)
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)
    assert found.high > found.low
    wider = share_interval(shares, 8, 0.999)
    assert wider.low <= found.low + 1e-12 and found.high <= wider.high + 1e-12


# ---- coverage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompts, samples, accuracy, spread, least, most",
    [
        (16, 2, 0.05, "beta", 93, 99),
        (16, 8, 0.05, "beta", 93, 99.5),
        (16, 1, 0.5, "none", 93, 99),
        (64, 2, 0.05, "beta", 93, 98),
        (64, 8, 0.3, "bimodal", 93, 97),
        (64, 2, 0.0, "none", 100, 100),
        (64, 2, 1.0, "none", 100, 100),
        (256, 2, 0.02, "beta", 93, 97),
        (256, 8, 0.95, "modes", 93, 97),
    ],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    prompts, samples, accuracy, spread, least, most
):
    """A few points of the published table; 1,000 draws have a standard error of 0.7 points, so one is allowed for."""
    found = accuracy_row(prompts, samples, accuracy, spread, 1000)["covers"]
    assert least - 1 <= found <= min(100, most + 1)


@pytest.mark.slow
def test_the_whole_table_of_coverage():
    rows = accuracy_rows(2000)
    assert len(rows) == 4 * (7 + 2 * (2 + 5 * len(SPREADS)))
    for row in rows:
        expected = row["prompts"] * row["samples"] * min(row["accuracy"], 1 - row["accuracy"])
        is_hard = (
            row["spread"] == "modes" and row["prompts"] == 64
        )  # a mode of three prompts is often unseen
        assert row["covers"] >= (90.5 if is_hard else 93 - 1.2), row
        if row["prompts"] >= 256 and 0 < row["accuracy"] < 1 and expected > 5:
            assert row["covers"] <= 97 + 1, row


# ---- these prompts -------------------------------------------------------------------------------------------------


def test_of_these_prompts_the_interval_is_narrower_where_prompts_differ():
    shares = [0.0, 0.125, 1.0, 0.875, 0.5, 1.0, 0.0, 0.25] * 8
    fixed = fixed_prompts_interval(shares, 8)
    assert fixed.high - fixed.low < 0.5 * (
        share_interval(shares, 8).high - share_interval(shares, 8).low
    )
    single = [0.0, 1.0] * 8
    assert fixed_prompts_interval(single, 1) == share_interval(single, 1)


def test_of_these_prompts_it_holds_their_own_accuracy(seed):
    generator = numpy.random.default_rng(seed)
    chances = generator.beta(0.4, 1, 64)
    truth = chances.mean()
    held = 0
    for _ in range(600):
        found = fixed_prompts_interval(generator.binomial(8, chances) / 8, 8)
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 600 <= 0.99


# ---- mean reward ---------------------------------------------------------------------------------------------------


def test_the_mean_of_any_numbers_has_students_interval_at_least():
    values = [3.0, -4.5, 5.0, 9.25, 0.5]
    found = mean_interval(values)
    half = t_quantile(0.95, 4) * numpy.std(values, ddof=1) / math.sqrt(5)
    assert found.value == pytest.approx(2.65)
    assert found.low <= 2.65 - half + 1e-9 and found.high >= 2.65 + half - 1e-9
    assert -8 < found.low < -3.7 and 9 < found.high < 13


def test_rewards_of_0_and_1_have_the_interval_of_an_accuracy():
    values = [0.0] * 50 + [1.0] * 14
    reward, accuracy = mean_interval(values), share_interval(values)
    assert (reward.low, reward.high) == pytest.approx((accuracy.low, accuracy.high), abs=1e-3)
    assert mean_interval([0.0] * 64) == share_interval([0.0] * 64)


def test_a_scale_changes_a_bounded_reward_by_its_factor_alone():
    values = numpy.array([0.0] * 60 + [1.0] * 4)
    plain = mean_interval(values)
    scaled = mean_interval(3 * values - 1, bounds=(-1, 2))
    assert (scaled.low, scaled.high) == pytest.approx((3 * plain.low - 1, 3 * plain.high - 1))


def test_the_limits_of_a_mean():
    assert math.isnan(mean_interval([]).value)
    assert mean_interval([0.3] * 9).low == mean_interval([0.3] * 9).high == pytest.approx(0.3)
    assert mean_interval([0.3]).high == math.inf
    known = mean_interval([0.3] * 9, bounds=(0, 1))
    assert 0 < known.low < 0.3 < known.high < 1


# ---- comparison ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("won, lost, exact", MCNEMAR)
def test_of_one_sample_a_prompt_it_is_close_to_mcnemars_exact_test(won, lost, exact):
    number = won + lost + 50
    first = [1.0] * lost + [0.0] * (number - lost)
    second = [0.0] * lost + [1.0] * won + [0.0] * 50
    found = compare(first, second)
    assert found.p_value == pytest.approx(exact, rel=0.25)
    assert (found.better, found.worse, found.prompts) == (won, lost, number)
    assert found.difference == pytest.approx((won - lost) / number)
    assert (found.low > 0) == (found.p_value < 0.05)


def test_a_comparison_reads_the_same_from_both_sides(seed):
    first, second = numpy.random.default_rng(seed).binomial(4, 0.4, (2, 80)) / 4
    there, back = compare(first, second), compare(second, first)
    assert there.p_value == back.p_value and there.difference == -back.difference
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_no_difference_at_all_is_no_proof_of_equality():
    found = compare([0.5] * 64, [0.5] * 64)
    assert found.p_value == 1 and found.low < -0.01 and found.high > 0.01
    assert math.isnan(compare([], []).p_value)
    with pytest.raises(ValueError):
        compare([1.0], [1.0, 0.0])


def test_a_planted_difference_is_found_as_often_as_theory_says_and_none_between_equals():
    planted = comparison_row(1319, 8, 0.4, 0.03, 100)
    assert planted["found"] >= 98 and planted["theory"] > 99
    weak = comparison_row(256, 8, 0.4, 0.03, 600)
    assert weak["found"] == pytest.approx(weak["theory"], abs=6)
    equal = comparison_row(256, 2, 0.4, 0.0, 600)
    assert equal["found"] <= 7 and equal["covers"] >= 93
