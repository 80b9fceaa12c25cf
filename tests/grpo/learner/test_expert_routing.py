"""Updates of mixtures of experts: recorded routing and the load-balancing loss, in fp64 against formulas written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from expert_rows import (
    SHAPES,
    balance_loss,
    mixture,
    random_record,
    recorded_update,
    with_routing_of,
    written_gradient,
)
from small_updates import difference, gradient, learner_of
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from grpo.learner.expert_load import ExpertLoad
from grpo.model.packing import pack
from grpo.model.routing import Routes
from grpo.types import Batch

EXACT = 1e-10


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.thin(4)
def test_the_gradient_is_that_of_the_routers_formula_with_the_recorded_experts(family, lora):
    policy = mixture(family, torch.float64, lora=lora)
    update = recorded_update(policy)
    assert difference(gradient(policy, update), written_gradient(policy, update)) < EXACT


@pytest.mark.parametrize("load_balance", [0.0, 0.3])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
@pytest.mark.thin(3)
def test_with_a_record_the_gradient_does_not_change_with_split_or_order(family, load_balance):
    policy = mixture(family, torch.float64)
    update = recorded_update(policy)
    whole = gradient(policy, update, load_balance=load_balance)
    order = list(reversed(range(len(update.rows))))
    for budget in (1, 20, 31):
        split = gradient(policy, update, budget, order, load_balance=load_balance)
        assert difference(split, whole) < EXACT


def test_whole_rows_of_latent_attention_repeat_the_record_in_every_split():
    policy = mixture("deepseek_v3", torch.float64)
    update = recorded_update(policy)
    whole = gradient(policy, update)
    assert difference(gradient(policy, update, 20), whole) < EXACT


def test_recomputed_activations_repeat_the_record():
    update = recorded_update(mixture("qwen3_moe", torch.float64))
    whole, recomputed = (
        gradient(
            mixture("qwen3_moe", torch.float64, checkpointing=checkpointing),
            update,
            load_balance=0.3,
        )
        for checkpointing in (False, True)
    )
    assert difference(recomputed, whole) < EXACT


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_the_load_balancing_gradient_is_that_of_its_formula_over_the_whole_update(family):
    policy = mixture(family, torch.float64)
    update = recorded_update(policy)
    fast = gradient(policy, update, 31, load_balance=0.7)
    assert difference(fast, written_gradient(policy, update, 0.7)) < EXACT
    assert difference(gradient(policy, update), fast) > 1e-3


def test_without_a_record_a_survey_counts_the_choices_that_the_update_makes():
    policy = mixture("qwen3_moe", torch.float64)
    update = with_routing_of(recorded_update(policy), lambda record: None)
    whole = gradient(policy, update, load_balance=0.7)
    assert difference(gradient(policy, update, 31, load_balance=0.7), whole) < EXACT
    natural = _natural_record(policy, update)
    assert difference(gradient(policy, natural, load_balance=0.7), whole) < EXACT


def _natural_record(policy, update):
    """`update` with the choices that the trainer makes of itself."""
    rows = []
    for row in update.rows:
        packed = pack([row])
        with torch.no_grad(), policy.routing.watching():
            policy.hidden(packed)
            chosen = policy.routing.chosen(policy.routing.last)
        start = len(row.prompt_ids)
        rows.append(replace(row, routing=chosen[start : start + len(row.token_ids) - 1]))
    return replace(update, rows=tuple(rows))


def test_the_balance_is_transformers_own():
    policy = mixture("mixtral")
    routing = policy.routing
    logits = tuple(torch.randn(30, 4) for _ in range(2))
    routes = Routes(
        logits=dict(enumerate(logits)),
        chosen={number: values.topk(2).indices for number, values in enumerate(logits)},
    )
    theirs = load_balancing_loss_func(logits, num_experts=4, top_k=2)
    ours = balance_loss(torch.cat(logits), torch.cat([*routes.chosen.values()]))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    load = ExpertLoad(routing, 30)
    load.count_LE += torch.stack(
        [torch.bincount(chosen.flatten(), minlength=4) for chosen in routes.chosen.values()]
    )
    load.mass_E += torch.cat(logits).softmax(-1).sum(0).double()
    stats = load.stats(learner_of(policy).ranks)
    assert stats.balance == pytest.approx(float(theirs), rel=1e-5)
    share_LE = load.count_LE / 60
    assert stats.max_share == pytest.approx(float(share_LE.max()))
    entropy = torch.special.entr(share_LE).sum(1).mean() / math.log(4)
    assert stats.entropy == pytest.approx(float(entropy))


@pytest.mark.parametrize("family", SHAPES)
def test_the_load_of_an_update_counts_what_was_recorded(family):
    policy = mixture(family)
    layers, experts_a_token = policy.routing.shape
    update = with_routing_of(
        recorded_update(policy),
        lambda record: torch.arange(experts_a_token).expand_as(record).to(record.dtype),
    )
    learner = learner_of(policy)
    learner.begin(Batch(update.rows, (update,)))
    stats = learner.update(update).experts
    assert stats.max_share == pytest.approx(1 / experts_a_token)
    experts = policy.routing.num_experts
    assert stats.entropy == pytest.approx(math.log(experts_a_token) / math.log(experts))


def test_later_updates_compare_log_probs_under_one_routing():
    policy = mixture("qwen3_moe")
    update = recorded_update(policy)
    learner = learner_of(policy, lr=0.0, old="forward")
    learner.begin(Batch(update.rows, (update, update)))
    ratios = [learner.update(update).ratio_max for _ in range(2)]
    assert ratios == pytest.approx([1.0, 1.0], abs=1e-5)


def test_records_hold_the_smallest_integers():
    policy = mixture("qwen3_moe")
    record = random_record(policy, 5, torch.Generator())
    assert record.dtype == torch.uint8 and policy.routing.bytes_a_token == 2 * 2
