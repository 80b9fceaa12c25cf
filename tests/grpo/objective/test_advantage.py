"""Advantages against their closed forms, on ragged random groups."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
import torch

from grpo.objective.advantage import advantages
from grpo.recipe import AdvantageSection
from grpo.recipe.objectives import RULE_SPECS
from grpo.types import Completion, Prompt, ScoredGroup, spread
from rewards import Score

RULES_IN_GROUP = [name for name, spec in RULE_SPECS.items() if spec.in_group and name != "gdpo"]
pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it


def completion(finish: str = "stop", length: int = 3) -> Completion:
    return Completion("x", tuple(range(length)), torch.zeros(length), finish)


def scored(values: list[float | None], finishes: list[str] | None = None) -> ScoredGroup:
    finishes = finishes or ["stop"] * len(values)
    return ScoredGroup(
        Prompt("p", (1, 2), {}),
        tuple(completion(f) for f in finishes),
        tuple(Score(v, status="scored" if v is not None else "fault") for v in values),
    )


def group_advantages(
    group: ScoredGroup, rule: str, epsilon: float, mask_truncated: bool = False
) -> list[float]:
    """The advantages of a step that is this one group."""
    section = AdvantageSection(rule=rule, epsilon=epsilon, mask_truncated=mask_truncated)
    return advantages([group], section)[0]


@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_group_std_is_the_papers_formula(size: int) -> None:
    values = [random.uniform(-3, 3) for _ in range(size)]
    mean, std = statistics.fmean(values), statistics.stdev(values)
    expected = [(v - mean) / (std + 1e-4) for v in values]
    assert group_advantages(scored(values), "group_std", 1e-4) == pytest.approx(expected, abs=1e-12)


def test_center_subtracts_the_mean_and_nothing_else() -> None:
    values = [random.gauss(0, 2) for _ in range(5)]
    expected = [v - statistics.fmean(values) for v in values]
    assert group_advantages(scored(values), "center", 0.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", ["group_std", "center"])
def test_advantages_of_a_group_sum_to_zero(rule: str) -> None:
    values = [random.random() for _ in range(9)]
    assert sum(group_advantages(scored(values), rule, 1e-4)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 0.1 + 0.2, 1e9])
def test_a_flat_group_gets_exactly_zero(value: float) -> None:
    assert group_advantages(scored([value] * 4), "group_std", 0.0) == [0.0] * 4


def test_rounding_noise_in_equal_sums_of_rewards_is_not_a_spread() -> None:
    assert group_advantages(scored([0.1 + 0.2, 0.3, 0.3]), "group_std", 0.0) == [0.0] * 3


NOISE = [0.73, 0.7300001, 0.7299999]
"""What a judge in fp32 says of one completion, three times over."""


@pytest.mark.parametrize(
    "values, spreads",
    [
        (NOISE, False), ([0.0, 3e-8], False), ([-12.5, -12.500001], False), ([1e6, 1e6 + 0.5], False),
        ([0.73, 0.7301], True), ([0.0, 1e-5], True), ([1e6, 1e6 + 2], True), ([1e-4, 2e-4], True), ([-1.0, 1.5], True),
        ([None, 0.5], False), ([None, None], False), ([None, 0.5, 0.6], True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rule", RULES_IN_GROUP)
def test_only_what_exceeds_an_fp32_judges_noise_is_a_spread(values, spreads, rule) -> None:
    group = scored(values)
    result = group_advantages(group, rule, 0.0)
    assert spread(values) == spreads == (not group.flat)
    assert any(result) == spreads, result


def test_noise_in_one_reward_is_not_raised_to_the_size_of_another() -> None:
    verdicts = [{"right": Score(v), "style": Score(n)} for v, n in zip((1.0, 0.0, 0.0), NOISE)]
    group = replace(scored([1.0, 0.0, 0.0]), verdicts=tuple(verdicts))
    section = AdvantageSection(rule="gdpo", epsilon=0.0)
    with_noise = advantages([group], section, weights={"right": 1.0, "style": 1.0})[0]
    without = advantages([group], section, weights={"right": 1.0})[0]
    assert with_noise == pytest.approx(without)


def test_truncated_completions_do_not_make_a_group_spread_where_they_are_masked() -> None:
    group = scored([1.0, 1.0, 0.0], ["stop", "stop", "length"])
    assert group.is_flat(mask_truncated=True) and not group.flat
    assert group_advantages(group, "center", 0.0, mask_truncated=True) == [0.0] * 3


def test_a_completion_without_score_leaves_mean_deviation_and_count() -> None:
    with_fault = group_advantages(scored([1.0, None, 0.0, 0.5]), "group_std", 1e-4)
    without = group_advantages(scored([1.0, 0.0, 0.5]), "group_std", 1e-4)
    assert with_fault == [without[0], 0.0, without[1], without[2]]


def test_masked_truncated_completions_leave_the_statistics() -> None:
    finishes = ["stop", "length", "stop", "context"]
    masked = group_advantages(
        scored([1.0, 9.0, 0.0, -9.0], finishes), "center", 0.0, mask_truncated=True
    )
    assert masked == [0.5, 0.0, -0.5, 0.0]
    unmasked = group_advantages(
        scored([1.0, 9.0, 0.0, -9.0], finishes), "center", 0.0, mask_truncated=False
    )
    assert unmasked == pytest.approx([0.75, 8.75, -0.25, -9.25])


def test_one_scored_completion_has_nothing_to_be_compared_with() -> None:
    result = group_advantages(scored([None, 1.0, None]), "group_std", 1e-4)
    assert result == [0.0, 0.0, 0.0] and all(math.isfinite(a) for a in result)
