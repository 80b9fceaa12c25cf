"""The experts that completions are sampled with: recorded by every decoder, kept over partial rollouts, replayed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from expert_rows import SHAPES, mixture
from small_updates import learner_of
from tiny import random_prompts

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.batch import make_batch
from grpo.learner.learner import UpdateStats
from grpo.model.packing import pack, stack_logps
from grpo.model.policy import Policy
from grpo.monitor.gates import Gates, GateStop
from grpo.rollout.engine import Engine
from grpo.rollout.sequence import PartialGroup
from grpo.types import Batch, Denominators, Group, Row, ScoredGroup, Update
from rewards import Score

TOKENS = 20
PROMPTS = [5, 9, 13]


def sampled(policy: Policy, *, paged: bool = False, **options) -> list[Group]:
    engine = Engine(policy, paged=paged)
    return in_order(_sample(engine, **options))


def in_order(delivered) -> list[Group]:
    return [group for _, group in sorted(delivered, key=lambda item: item[0])]


def _sample(engine: Engine, prompts=None, max_tokens=TOKENS, **options):
    return engine.sample(
        random_prompts(0, PROMPTS) if prompts is None else prompts,
        group_size=2,
        max_tokens=max_tokens,
        sampling=Sampling(),
        seed=("record",),
        **options,
    )


def rows_of(groups: list[Group]) -> list[Row]:
    scored = [
        ScoredGroup(group.prompt, group.completions, (Score(1.0), Score(0.0))) for group in groups
    ]
    advantages = [[1.0, -1.0]] * len(scored)
    batch = make_batch(
        scored,
        advantages,
        num_updates=1,
        epochs=1,
        max_tokens=TOKENS,
        mask_truncated=False,
        forward_flat=True,
    )
    return list(batch.rows)


@torch.no_grad()
def apart(policy: Policy, rows: list[Row]) -> float:
    """The largest difference of the sampler's and the trainer's log-probs."""
    logp_T = policy.token_stats(pack(rows), 1.0).logp_T
    return float((logp_T - stack_logps(rows)).abs().max())


def shifted(rows: list[Row]) -> list[Row]:
    """`rows` with each token's experts those of the token before."""
    return [replace(row, routing=row.routing.roll(1, 0)) for row in rows]


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.thin(6)
def test_with_the_record_sampler_and_trainer_agree(family, lora, paged):
    policy = mixture(family, lora=lora)
    rows = rows_of(sampled(policy, paged=paged))
    shape = policy.routing.shape
    assert [row.routing.shape for row in rows] == [(row.num_tokens - 1, *shape) for row in rows]
    assert apart(policy, rows) < 1e-5
    assert apart(policy, shifted(rows)) > 1e-2


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_the_record_decides_also_where_the_trainer_would_choose_otherwise(family):
    policy = mixture(family)
    row = rows_of(sampled(policy))[0]
    _change(policy)
    assert torch.equal(chosen(policy, row), row.routing)
    assert not torch.equal(chosen(policy, replace(row, routing=None)), row.routing)


@torch.no_grad()
def chosen(policy: Policy, row: Row) -> torch.Tensor:
    """The experts that the trainer sends a completion's tokens to, all but the last."""
    with policy.routing.watching():
        policy.hidden(pack([row]))
        experts = policy.routing.chosen(policy.routing.last)
    start = len(row.prompt_ids)
    return experts[start : start + row.num_tokens - 1]


def test_without_replay_nothing_is_recorded():
    policy = mixture("mixtral")
    policy.routing.is_replayed = False
    assert all(row.routing is None for row in rows_of(sampled(policy)))


@pytest.mark.parametrize("paged", [False, True])
def test_all_decoders_record_the_same_experts(paged):
    policy = mixture("qwen3_moe")
    embedded = rows_of(sampled(policy, paged=paged))
    policy.fall_back_because("it is asked for")
    generated = rows_of(sampled(policy))
    assert [row.token_ids for row in embedded] == [row.token_ids for row in generated]
    assert all(torch.equal(a.routing, b.routing) for a, b in zip(embedded, generated))


@pytest.mark.parametrize(
    "family, paged", [("mixtral", False), ("mixtral", True), ("deepseek_v3", False)]
)
def test_a_partial_group_goes_on_with_its_record_from_a_checkpoint(family, paged):
    policy = mixture(family)
    prompts = random_prompts(0, PROMPTS)
    engine = Engine(policy, paged=paged)
    calls = iter([False] * (2 if paged else 7))
    interrupted = _partial(engine, calls)
    stored = json.loads(json.dumps([group.to_mapping() for group in interrupted]))
    by_id = {prompt.id: prompt for prompt in prompts}
    partial = [PartialGroup.from_mapping(values, by_id) for values in stored]
    cut = [completion for group in partial for completion in group.completions]
    assert any(0 < len(completion.token_ids) < TOKENS for completion in cut)
    _change(policy)
    rows = rows_of(in_order(_sample(engine, [], partial_groups=partial)))
    for before, row in zip(cut, rows):
        assert torch.equal(row.routing[: len(before.routing)], before.routing)
    fresh = [len(completion.token_ids) for completion in cut]
    with torch.no_grad():
        logp_T = policy.token_stats(pack(rows), 1.0).logp_T
    for row, logps, start in zip(rows, logp_T.split([row.num_tokens for row in rows]), fresh):
        assert torch.allclose(logps[start:], row.sampled_logps[start:], atol=1e-5)


def _partial(engine: Engine, calls) -> list[PartialGroup]:
    """Groups that were cut off after a few steps, as partial groups."""
    groups = in_order(_sample(engine, interrupted=lambda: next(calls, True)))
    return [
        PartialGroup(group.prompt, tuple(range(len(group.completions))), group.completions)
        for group in groups
    ]


def _change(policy: Policy) -> None:
    """Weights of a later step, which route otherwise."""
    with torch.no_grad():
        for router in policy.routing.routers:
            router.weight.add_(0.3 * torch.randn(router.weight.shape))
    policy.weights_changed()


@pytest.mark.slow
def test_rows_that_lose_their_pages_keep_their_record():
    policy = mixture("mixtral")
    policy.stop_ids = frozenset()
    prompts = random_prompts(0, PROMPTS[:2])
    plenty, few = [], []
    for groups, pages in ((plenty, 30), (few, 7)):
        engine = Engine(policy, paged=True, kv_memory_gib=pages * 64 * 256 / 2**30)
        groups += in_order(_sample(engine, prompts, max_tokens=70))
    assert engine.stats.replayed
    for a, b in zip(rows_of(plenty), rows_of(few)):
        assert a.token_ids == b.token_ids and torch.equal(a.routing, b.routing)


@pytest.mark.parametrize("family", SHAPES)
def test_a_record_that_is_off_by_one_token_is_stopped_by_the_drift_gate(family):
    policy = mixture(family)
    rows = rows_of(sampled(policy))
    assert _update(policy, rows).drift < 1e-5
    with pytest.raises(GateStop, match="drift"):
        _update(policy, shifted(rows))


def _update(policy: Policy, rows: list[Row]) -> UpdateStats:
    learner = learner_of(policy, lr=0.0)
    learner.temperature = learner.sampled_at = 1.0
    learner.gates = Gates({}, "float32", "cpu")
    denominators = Denominators(len(rows), sum(row.num_tokens for row in rows), TOKENS, {})
    update = Update(tuple(rows), denominators)
    learner.begin(Batch(update.rows, (update,)))
    return learner.update(update)
