"""float16: the loss scale keeps gradients that would vanish and gives way when they overflow; a checkpoint keeps it."""

from __future__ import annotations

import random

import pytest
import torch
from small_updates import batch_of, difference, random_groups, tiny_policy
from tiny import random_prompts
from tiny import tiny_policy as tiny_family
from torch import nn

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.learner import Learner
from grpo.learner.optimizer import LossScale, Optimizer
from grpo.model.packing import pack
from grpo.recipe import LossSection, OptimSection
from grpo.rollout.engine import Engine
from grpo.types import Row, Update

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it


@pytest.fixture
def update() -> Update:
    random.seed(0)
    torch.manual_seed(0)
    return batch_of(random_groups()).updates[0]


def learner(
    dtype: torch.dtype, *, scale_loss: bool, weight: float = 1.0, lora: bool = False
) -> Learner:
    """A learner whose gradients are `weight` times as large as they would be."""
    policy = tiny_policy(torch.float32, lora=lora)
    policy.model.to(dtype)
    optimizer = Optimizer(
        policy.trainable(), OptimSection(lr=1e-3, max_grad_norm=0.0), 10, scale_loss=scale_loss
    )
    made = Learner(policy, optimizer, LossSection(), temperature=1.0, tokens_per_micro_batch=60)
    plain = made.objective.aggregation
    made.objective.aggregation = lambda *arguments: weight * plain(*arguments)
    return made


def gradient(made: Learner, update: Update) -> torch.Tensor:
    taken: list[torch.Tensor] = []
    step = made.optimizer.step
    made.optimizer.step = lambda: (
        taken.append(torch.cat([g.flatten() for g in made.optimizer.gradients()]).clone()),
        step(),
    )
    assert made.update(update).made
    return taken[0]


@pytest.mark.parametrize("lora", [False, True])
def test_gradients_too_small_for_float16_survive_by_the_loss_scale_alone(
    update: Update, lora: bool
) -> None:
    full = gradient(learner(torch.float32, scale_loss=False, weight=1e-6, lora=lora), update)
    high = learner(torch.float16, scale_loss=True, weight=1e-6, lora=lora)
    high.optimizer.loss_scale.value = 2.0**22
    assert difference(gradient(high, update), full) < 0.03
    assert (
        difference(
            gradient(learner(torch.float16, scale_loss=False, weight=1e-6, lora=lora), update), full
        )
        > 0.3
    )


def test_an_update_whose_gradient_overflows_is_repeated_at_a_lower_scale_and_not_lost(
    update: Update,
) -> None:
    high, low = learner(torch.float16, scale_loss=True), learner(torch.float16, scale_loss=True)
    high.optimizer.loss_scale.value = 2.0**30
    stats = high.update(update)
    actual = high.optimizer.loss_scale.value
    assert (
        stats.made
        and stats.ratio_max == 1.0
        and actual < 2.0**30
        and high.optimizer.num_updates == 1
    )
    low.optimizer.loss_scale.value = actual
    assert low.update(update) == stats
    assert all(
        torch.equal(a, b)
        for a, b in zip(high.optimizer.masters.values(), low.optimizer.masters.values())
    )


def test_a_scale_of_a_power_of_two_changes_no_bit_of_an_fp32_gradient(update: Update) -> None:
    plain = gradient(learner(torch.float32, scale_loss=False), update)
    assert torch.equal(gradient(learner(torch.float32, scale_loss=True), update), plain)


def test_a_gradient_that_no_scale_makes_finite_stops_the_run_and_touches_no_weight(
    update: Update,
) -> None:
    made = learner(torch.float16, scale_loss=True)
    before = made.policy.snapshot()
    next(iter(made.policy.trainable().values())).register_hook(lambda g: g * float("inf"))
    with pytest.raises(FloatingPointError, match="the weights were not touched"):
        made.update(update)
    assert all(torch.equal(p, before[name]) for name, p in made.policy.trainable().items())


def test_the_scale_doubles_after_calm_updates_and_halves_at_once() -> None:
    scale = LossScale(True)
    assert scale.lower() and scale.value == 2.0**14
    for _ in range(LossScale.CALM):
        scale.went_well()
    assert scale.value == 2.0**15 and scale.calm == 0
    scale.value = LossScale.LOWEST
    assert not scale.lower()
    other = LossScale(False)
    for _ in range(LossScale.CALM):
        other.went_well()
    assert other.value == 1.0 and not other.lower()


def test_the_scale_continues_where_a_checkpoint_left_it() -> None:
    weights = {"w": nn.Parameter(torch.ones(2, 2, dtype=torch.float16))}
    first = Optimizer(weights, OptimSection(), 1, scale_loss=True)
    first.loss_scale.lower()
    first.loss_scale.went_well()
    second = Optimizer(weights, OptimSection(), 1, scale_loss=True)
    second.restore(first.state())
    assert (second.loss_scale.value, second.loss_scale.calm) == (2.0**14, 1)


def test_float16_samples_what_its_trainer_computes() -> None:
    policy = tiny_family("llama", dtype=torch.float16)
    for _, group in Engine(policy).sample(
        random_prompts(0, [5, 9]), group_size=4, max_tokens=20, sampling=Sampling(), seed=(0,)
    ):
        assert all(
            torch.isfinite(completion.sampled_logps).all() for completion in group.completions
        )


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "granite"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.thin(3)
def test_the_samplers_log_probs_are_the_trainers(family, dtype, seed):
    """Whichever way keys are stored; on a CPU a bfloat16 product has bfloat16's own rounding."""
    policy = tiny_family(family, seed, dtype=dtype, peak=1.5)
    policy.stop_ids = frozenset()
    prompts = random_prompts(seed, [9, 30, 140])
    for paged in (False, True):
        actual = dict(
            Engine(policy, paged=paged).sample(
                prompts, group_size=3, max_tokens=60, sampling=Sampling(), seed=(0,)
            )
        )
        rows = [
            Row(
                index=3 * group_index + i,
                group=group_index,
                prompt_ids=prompts[group_index].token_ids,
                token_ids=c.token_ids,
                sampled_logps=c.sampled_logps,
                advantage=0.0,
                mask=True,
                forwarded=True,
                outcome="trained",
            )
            for group_index, group in sorted(actual.items())
            for i, c in enumerate(group.completions)
        ]
        with torch.no_grad():
            logp_T = policy.token_stats(pack(rows), 1.0).logp_T
        apart_T = logp_T - torch.cat([row.sampled_logps for row in rows])
        assert apart_T.abs().mean() <= (2e-2 if dtype == torch.bfloat16 else 3e-3)
        assert (apart_T.exp() - 1 - apart_T).mean() <= 1e-4
