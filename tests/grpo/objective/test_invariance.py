"""An update's gradient is the same for every split, packing and order of its rows, whatever the objective, in fp64.

The table of all combinations in ``docs/objectives.md`` is made by ``benchmarks.invariance``; here every policy
loss meets every aggregation once, and every correction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.invariance import (
    CORRECTIONS,
    SETTINGS,
    combinations,
    deviation,
    gradient,
    ragged_update,
    shuffled,
    tiny_policy,
)
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.learner.teacher import Teacher
from grpo.model.policy import Policy
from grpo.objective.objective import Objective
from grpo.recipe import LossSection, OptimSection
from grpo.recipe.objectives import AGGREGATIONS, POLICY_LOSSES
from grpo.types import Batch, Update

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it

ALL = list(combinations())
CHOSEN = [
    part
    for i, part in enumerate(ALL)
    if (i + i // 8) % 8 == 0 or part[0] in ("gspo", "gmpo") and i % 3 == 0
]


@pytest.fixture(scope="module")
def world() -> tuple[Policy, Update, dict[int, torch.Tensor]]:
    policy = tiny_policy()
    return policy, *ragged_update(policy)


def test_every_policy_aggregation_and_correction_is_among_those_tried() -> None:
    assert {p for p, _, _, _ in CHOSEN} == set(POLICY_LOSSES) - {"none"}
    assert {a for _, a, _, _ in CHOSEN} == set(AGGREGATIONS) and {
        c for _, _, c, _ in CHOSEN
    } == set(CORRECTIONS)


@pytest.mark.parametrize(
    ("policy_loss", "aggregation", "correction", "loss"),
    CHOSEN,
    ids=[" ".join(part[:3]) for part in CHOSEN],
)
@pytest.mark.thin(24)
def test_the_gradient_does_not_change_with_split_packing_or_order(
    world, policy_loss, aggregation, correction, loss
) -> None:
    policy, update, old = world
    assert gradient(policy, update, old, loss, 10**6).norm() > 1e-6
    assert deviation(policy, update, old, loss) < 1e-10


FURTHER: dict[str, dict[str, Any]] = {
    "KL k1": {"beta": 0.1, "kl": "k1"},
    "KL k2": {"beta": 0.1, "kl": "k2", "aggregation": "token_mean"},
    "KL k3": {"beta": 0.1},
    "KL k3 times ratio": {"beta": 0.1, "kl": "k3_unbiased", "policy": "cispo"},
    "entropy bonus": {"entropy": 0.1},
    "entropy target": {"entropy": 0.1, "entropy_target": 9.0, "aggregation": "prompt_mean"},
    "highest entropy": {"top_entropy": 0.2, "aggregation": "token_mean"},
    "highest entropy and Clip-Cov": {"top_entropy": 0.5, "policy": "clip_cov"},
    "dual clip and cap": {"dual_clip": 1.2, "ratio_cap": 1.4},
    "off-policy mask": {"off_policy_mask": 0.01, "policy": "reinforce"},
}


@pytest.mark.parametrize("name", FURTHER)
def test_further_terms_do_not_change_with_the_split_either(world, name: str) -> None:
    policy, update, old = world
    loss = LossSection(**{**SETTINGS, **FURTHER[name]})
    assert deviation(policy, update, old, loss) < 1e-10
    plain = LossSection(
        **{**SETTINGS, **{k: v for k, v in FURTHER[name].items() if k in ("policy", "aggregation")}}
    )
    change = gradient(policy, update, old, loss, 10**6) - gradient(
        policy, update, old, plain, 10**6
    )
    assert change.norm() > 1e-6  # the term is at work


def test_advantages_of_single_tokens_and_a_teacher_do_not_change_with_the_split(world) -> None:
    policy, update, old = world
    rows = tuple(
        replace(row, advantage=torch.randn(row.num_tokens, dtype=torch.float64))
        for row in update.rows
    )
    update, teacher, loss = (
        replace(update, rows=rows),
        Teacher(tiny_policy(seed=1)),
        LossSection(teacher="other"),
    )
    actual = []
    for budget, mixed in ((10**6, False), (1, False), (37, True)):
        optimizer = Optimizer(policy.trainable(), OptimSection(max_grad_norm=0.0), 1)
        learner = Learner(
            policy, optimizer, loss, temperature=1.0, tokens_per_micro_batch=budget, teacher=teacher
        )
        learner.begin(Batch(update.rows, (update,)))
        learner._old_logps = dict(old)
        optimizer.step = lambda: actual.append(
            torch.cat([g.flatten() for g in optimizer.gradients()]).clone()
        )
        stats = learner.update(shuffled(update, 3) if mixed else update)
        optimizer.drop_gradients()
        assert stats.teacher_kl is not None
    assert all((part - actual[0]).norm() / actual[0].norm() < 1e-10 for part in actual[1:])


@pytest.mark.parametrize("correction", ["token, masked", "sequence, masked"])
def test_a_completion_that_the_correction_drops_is_known_and_the_rest_is_reported(
    world, correction: str
) -> None:
    policy, update, old = world
    settings = (
        {**CORRECTIONS[correction], "correction_low": 0.99, "correction_high": 1.01}
        if correction.startswith("sequence")
        else CORRECTIONS[correction]
    )
    optimizer = Optimizer(policy.trainable(), OptimSection(max_grad_norm=0.0), 1)
    learner = Learner(
        policy, optimizer, LossSection(**settings), temperature=1.0, tokens_per_micro_batch=30
    )
    learner._old_logps = dict(old)
    optimizer.step = lambda: None
    stats = learner.update(update)
    optimizer.drop_gradients()
    weights = {}
    for row in update.rows:
        log = old[row.index] - row.sampled_logps
        ratio = log.exp() if correction.startswith("token") else log.sum().exp().expand(len(log))
        weights[row.index] = ratio * (
            (ratio >= settings["correction_low"]) & (ratio <= settings["correction_high"])
        )
    assert learner.trained_rows == {index for index, w in weights.items() if (w > 0).any()}
    assert correction.startswith("token") or learner.trained_rows != set(weights)
    every = torch.cat(list(weights.values()))
    assert stats.dropped == pytest.approx((every == 0).double().mean().item(), abs=1e-12)
    units = (
        torch.stack([w.mean() for w in weights.values()])
        if correction.startswith("sequence")
        else every
    )
    ess = (
        units.sum() ** 2 / (len(units) * units.square().sum()) if units.any() else torch.tensor(0.0)
    )
    assert stats.ess == pytest.approx(ess.item(), abs=1e-12)
    share = {
        row.index: 1 / (len(update.rows) * row.num_tokens) * abs(row.advantage)
        for row in update.rows
    }
    mass = sum(share[row.index] * row.num_tokens for row in update.rows)
    kept = sum((share[index] * w).sum().item() for index, w in weights.items())
    assert stats.lost == pytest.approx(1 - kept / mass, abs=1e-10)


def test_if_the_correction_drops_everything_the_weights_stay_though_the_optimizer_has_momentum() -> (
    None
):
    policy = tiny_policy()
    update, old = ragged_update(policy)
    optimizer = Optimizer(policy.trainable(), OptimSection(lr=1e-2, weight_decay=0.1), 5)
    learner = Learner(
        policy,
        optimizer,
        LossSection(correction="none"),
        temperature=1.0,
        tokens_per_micro_batch=99,
    )
    learner.begin(Batch(update.rows, (update,)))
    assert learner.update(update).made
    before = policy.snapshot()
    learner.loss = LossSection(correction_mask="sequence", correction_low=1e8, correction_high=1e9)
    learner.objective = Objective(learner.loss)
    learner.begin(Batch(update.rows, (update,)))
    stats = learner.update(update)
    assert (
        not stats.made and stats.dropped == 1.0 and stats.lost == 1.0 and not learner.trained_rows
    )
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())


def test_a_token_whose_sampled_log_prob_is_not_a_number_is_left_out_and_nothing_else(world) -> None:
    policy, update, old = world
    rows = list(update.rows)
    index = next(i for i, row in enumerate(rows) if row.num_tokens > 2 and row.advantage)
    broken = rows[index].sampled_logps.clone()
    broken[1] = torch.nan
    rows[index] = replace(rows[index], sampled_logps=broken)
    loss = LossSection()
    actual = gradient(policy, replace(update, rows=tuple(rows)), old, loss, 50)
    advantage = torch.full(
        (rows[index].num_tokens,), float(rows[index].advantage), dtype=torch.float64
    )
    advantage[1] = 0.0
    rows[index] = replace(update.rows[index], advantage=advantage)
    expected = gradient(policy, replace(update, rows=tuple(rows)), old, loss, 50)
    assert (actual - expected).norm() / expected.norm() < 1e-12
