"""What a policy learns from a teacher: the gradient of the reverse KL as sampled, and the teacher's log-probs."""

from __future__ import annotations

import random
from typing import Sequence

import pytest
import torch
from small_updates import TEMPERATURE, gradient_of, random_groups, tiny_policy
from torch import Tensor

from grpo.learner.batch import make_batch
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.learner.teacher import Teacher
from grpo.model.policy import Policy
from grpo.recipe import LossSection, OptimSection, Recipe
from grpo.types import Batch, Row

SETTINGS = Recipe.from_mapping({"distill": {"teacher": "other"}})


@pytest.fixture(scope="module")
def batch() -> Batch:
    random.seed(3)
    torch.manual_seed(3)
    groups = random_groups(num_groups=4, group_size=2)
    return make_batch(
        groups,
        [[0.0, 0.0]] * len(groups),
        num_updates=1,
        epochs=1,
        max_tokens=40,
        mask_truncated=False,
        forward_flat=True,
        by_score=False,
    )


def learner_of(policy: Policy, teacher: Policy, budget: int, loss: LossSection) -> Learner:
    optimizer = Optimizer(policy.trainable(), OptimSection(max_grad_norm=0.0), 10)
    return Learner(
        policy,
        optimizer,
        loss,
        temperature=TEMPERATURE,
        tokens_per_micro_batch=budget,
        teacher=Teacher(teacher),
    )


def logps_by_transformers(policy: Policy, row: Row) -> Tensor:
    """The log-probs of a row's tokens by the model's own forward and a whole softmax [T]."""
    input_ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
    with policy.own_attention(), policy.precision():
        logits = policy.model(input_ids=input_ids).logits[0, len(row.prompt_ids) - 1 : -1]
    target_T1 = torch.tensor(row.token_ids)[:, None]
    return (logits / TEMPERATURE).log_softmax(-1).gather(-1, target_T1)[:, 0]


def autograd_of(policy: Policy, teacher: Policy, rows: Sequence[Row]) -> tuple[Tensor, float]:
    """(gradient of the mean over tokens of (logp - teacher_logp).detach() logp, mean of logp - teacher_logp)."""
    loss = torch.zeros((), dtype=torch.float64)
    distance = 0.0
    num_tokens = sum(row.num_tokens for row in rows)
    for row in rows:
        logp_T = logps_by_transformers(policy, row)
        with torch.no_grad():
            distance_T = logp_T - logps_by_transformers(teacher, row)
        loss = loss + (distance_T * logp_T).sum() / num_tokens
        distance += float(distance_T.sum()) / num_tokens
    gradients = torch.autograd.grad(loss, list(policy.trainable().values()))
    return torch.cat([part.flatten() for part in gradients]), distance


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_gradient_is_autograds_in_float64_under_any_split(batch: Batch, lora: bool) -> None:
    policy = tiny_policy(lora=lora)
    teacher = tiny_policy(seed=1)
    truth, _ = autograd_of(policy, teacher, batch.rows)
    loss = LossSection(**{**vars(SETTINGS.loss), "correction": "none"})
    assert loss.policy == "none" and loss.aggregation == "token_mean"
    for budget in (10**6, 40, 1):
        learner = learner_of(policy, teacher, budget, loss)
        learner.begin(batch)
        actual = gradient_of(learner, batch.updates[0])
        assert (actual - truth).norm() / truth.norm() < 1e-10


def test_the_kl_that_is_reported_is_the_mean_over_the_tokens_of_the_step(batch: Batch) -> None:
    policy = tiny_policy()
    teacher = tiny_policy(seed=1)
    _, distance = autograd_of(policy, teacher, batch.rows)
    learner = learner_of(policy, teacher, 40, SETTINGS.loss)
    learner.begin(batch)
    stats = learner.update(batch.updates[0])
    assert stats.made and stats.teacher_kl == pytest.approx(distance, rel=1e-10)
    assert learner.trained_rows == {row.index for row in batch.rows}


def test_a_teacher_in_half_precision_gives_float32_log_probs_near_its_own(batch: Batch) -> None:
    exact = Teacher(tiny_policy(torch.float32, seed=1)).logps([batch.rows], TEMPERATURE)
    rounded = Teacher(tiny_policy(torch.bfloat16, seed=1)).logps([batch.rows], TEMPERATURE)
    assert exact.keys() == rounded.keys() == {row.index for row in batch.rows}
    distances = torch.cat([(exact[index] - rounded[index]).abs() for index in exact])
    assert all(logp_T.dtype == torch.float32 for logp_T in rounded.values())
    assert 0 < float(distances.mean()) < 0.05


def test_a_teacher_whose_log_probs_are_not_finite_is_named_and_nothing_is_changed(
    batch: Batch,
) -> None:
    policy = tiny_policy()
    teacher = tiny_policy(seed=1)
    teacher.model.get_output_embeddings().weight.data[batch.rows[0].token_ids[0]] = float("nan")
    before = policy.fingerprint()
    with pytest.raises(FloatingPointError, match="the teacher's log-prob .* Hold the teacher in"):
        learner_of(policy, teacher, 40, SETTINGS.loss).begin(batch)
    assert policy.fingerprint() == before
