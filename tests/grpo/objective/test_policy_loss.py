"""Losses and aggregation against slow twins written from the papers, in fp64."""

from __future__ import annotations

import math

import pytest
import torch

from grpo.objective.aggregation import AGGREGATIONS
from grpo.objective.formula import formula
from grpo.objective.kl import k3
from grpo.objective.policy_loss import clip_loss, is_clipped
from grpo.objective.tokens import log_ratio
from grpo.recipe import Recipe
from grpo.types import Denominators, Row

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it


def rows(lengths: list[int]) -> list[Row]:
    return [
        Row(i, i, (1,), tuple(range(n)), torch.zeros(n), 1.0, True, True, "trained")
        for i, n in enumerate(lengths)
    ]


def test_clip_loss_is_ppos_pessimistic_minimum() -> None:
    ratio, advantage = (
        torch.rand(500, dtype=torch.float64) * 3,
        torch.randn(500, dtype=torch.float64),
    )
    low, high = 0.2, 0.28
    expected = [
        -min(r * a, min(max(r, 1 - low), 1 + high) * a)
        for r, a in zip(ratio.tolist(), advantage.tolist())
    ]
    assert clip_loss(ratio, advantage, low, high).tolist() == pytest.approx(expected, abs=1e-12)


def test_at_ratio_one_the_gradient_is_minus_the_advantage() -> None:
    logp = torch.randn(20, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(20, dtype=torch.float64)
    clip_loss(log_ratio(logp, logp.detach()).exp(), advantage, 0.2, 0.2).sum().backward()
    assert torch.allclose(logp.grad, -advantage, atol=1e-14)


def test_a_clipped_token_has_no_gradient_and_is_counted_as_clipped() -> None:
    for shift, advantage, clipped in (
        (1.0, 1.0, True),
        (1.0, -1.0, False),
        (-1.0, -1.0, True),
        (-1.0, 1.0, False),
    ):
        logp = torch.tensor([shift], dtype=torch.float64, requires_grad=True)
        ratio = log_ratio(logp, torch.zeros(1, dtype=torch.float64)).exp()
        clip_loss(ratio, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.2).sum().backward()
        assert (logp.grad.item() == 0) is clipped
        assert is_clipped(ratio, torch.tensor([advantage]), 0.2, 0.2).item() is clipped


def test_k3_is_never_negative_and_its_mean_is_the_kl() -> None:
    policy, reference = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    values = k3(policy, reference)
    assert (values >= 0).all()
    assert (policy.exp() * values).sum().item() == pytest.approx(exact.item(), abs=1e-12)


def test_k3_at_equal_policies_is_zero_with_zero_gradient() -> None:
    logp = torch.randn(9, dtype=torch.float64, requires_grad=True)
    value = k3(logp, logp.detach()).sum()
    value.backward()
    assert value.item() == 0 and (logp.grad == 0).all()


def test_a_huge_log_ratio_stays_finite() -> None:
    assert math.isfinite(log_ratio(torch.tensor([1e4]), torch.tensor([0.0])).exp().item())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sequence_mean", [1 / (3 * 1), 1 / (3 * 4), 1 / (3 * 2)]),
        ("token_mean", [1 / 7] * 3),
        ("constant", [1 / (3 * 50)] * 3),
        ("prompt_mean", [1 / 3, 1 / (3 * 4), 1 / (3 * 2)]),
        ("sequence_sum", [1 / 3] * 3),
        ("token_sum", [1.0] * 3),
    ],
)
def test_aggregation_weights_have_the_updates_denominators(
    name: str, expected: list[float]
) -> None:
    three = rows([1, 4, 2])
    weights = [
        AGGREGATIONS[name](row, Denominators(3, 7, 50, {0: 1, 1: 4, 2: 2}), None) for row in three
    ]
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sequence_mean", "token_mean"])
def test_means_of_a_constant_loss_are_that_constant(name: str) -> None:
    some = rows([5, 1, 13, 8])
    denominators = Denominators(len(some), sum(row.num_tokens for row in some), 20, {})
    total = sum(AGGREGATIONS[name](row, denominators, None) * row.num_tokens * 2.5 for row in some)
    assert total == pytest.approx(2.5)


def test_the_constant_of_dr_grpo_defaults_to_the_generation_cap_and_can_be_set() -> None:
    row, denominators = rows([7])[0], Denominators(4, 20, 100, {0: 20})
    assert AGGREGATIONS["constant"](row, denominators, None) == pytest.approx(1 / 400)
    assert AGGREGATIONS["constant"](row, denominators, 50) == pytest.approx(1 / 200)


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        ("grpo", ["1/B sum_i 1/L_i", "clip(r, 0.8, 1.2)", "/ (std_g + 0.0001)"]),
        ("dr_grpo", ["(B x 77)", "A_i = R_i - mean_g"]),
        ("dapo", ["sum_i L_i", "clip(r, 0.8, 1.28)", "truncated completions leave"]),
    ],
)
def test_the_formula_says_what_the_preset_resolves_to(preset: str, parts: list[str]) -> None:
    recipe = Recipe.from_mapping({"loss": {"preset": preset}})
    text = formula(recipe.advantage, recipe.loss, 77)
    assert all(word in text for word in parts), text
