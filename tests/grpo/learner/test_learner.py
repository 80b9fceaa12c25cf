"""The update's gradient: the same for every split, order and neighbour, and equal to a slow twin, in fp64."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from operations import HostReads
from small_updates import (
    TEMPERATURE,
    VOCABULARY,
    batch_of,
    difference,
    gradient,
    gradient_of,
    learner_of,
    random_groups,
    tiny_policy,
)

from grpo.model.packing import micro_batches
from grpo.model.policy import Float64Mode, Policy
from grpo.objective.objective import Objective, TokenInputs
from grpo.recipe import LossSection
from grpo.recipe.objectives import POLICY_LOSS_SPECS
from grpo.types import Batch, Completion, Group, Prompt, Row, ScoredGroup, Update
from rewards import Score

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it


def slow_gradient(policy: Policy, batch: Batch, aggregation: str) -> torch.Tensor:
    """One row at a time through the plain eager model; the published sums written out."""
    model = copy.deepcopy(policy.base)
    model.set_attn_implementation("eager")
    counted = [row for row in batch.rows if row.mask]
    total = torch.zeros((), dtype=torch.float64)
    for row in counted:
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
        with Float64Mode():
            logp = (model(input_ids=ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
        taken = logp.gather(-1, ids[0, 1:, None])[len(row.prompt_ids) - 1 :, 0]
        surrogate = -(taken - taken.detach()).exp() * row.advantage
        weight = {
            "sequence_mean": 1 / (len(counted) * row.num_tokens),
            "token_mean": 1 / sum(r.num_tokens for r in counted),
            "constant": 1 / (len(counted) * 40),
        }[aggregation]
        total = total + weight * surrogate.sum()
    with Float64Mode():
        total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
def test_the_gradient_is_that_of_the_plain_model_one_row_at_a_time(aggregation: str) -> None:
    policy, batch = tiny_policy(), batch_of(random_groups())
    fast = gradient(policy, batch.updates[0], aggregation=aggregation)
    assert difference(fast, slow_gradient(policy, batch, aggregation)) < 1e-10


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"aggregation": "token_mean", "epsilon_high": 0.28},
        {"aggregation": "constant"},
        {"beta": 0.05},
    ],
)
@pytest.mark.thin(4)
def test_the_gradient_does_not_change_with_the_micro_batch_split(loss: dict, lora: bool) -> None:
    policy, batch = tiny_policy(lora=lora), batch_of(random_groups(), kl="beta" in loss)
    whole = gradient(policy, batch.updates[0], **loss)
    assert whole.norm() > 0
    for budget in (1, 17, 40, 100, 333):
        assert difference(gradient(policy, batch.updates[0], budget, **loss), whole) < 1e-10


def test_micro_batches_keep_every_row_once_within_the_budget() -> None:
    rows = batch_of(random_groups(7, 5)).updates[0].rows
    for budget in (1, 30, 64, 200):
        chunks = micro_batches(rows, budget)
        assert sorted(row.index for chunk in chunks for row in chunk) == [row.index for row in rows]
        for chunk in chunks:
            prompts = {row.group: len(row.prompt_ids) for row in chunk}
            assert (
                len(chunk) == 1
                or sum(prompts.values()) + sum(row.num_tokens for row in chunk) <= budget
            )


def test_the_gradient_does_not_change_with_the_order_of_rows() -> None:
    policy, batch = tiny_policy(), batch_of(random_groups())
    whole = gradient(policy, batch.updates[0])
    order = list(range(len(batch.rows)))
    for _ in range(3):
        random.shuffle(order)
        assert difference(gradient(policy, batch.updates[0], 70, order), whole) < 1e-10


def test_rows_that_do_not_count_change_nothing_whatever_they_hold() -> None:
    groups = random_groups(3)
    policy = tiny_policy()
    clean = gradient(policy, batch_of(groups).updates[0])
    garbage = ScoredGroup(
        Prompt("garbage", (5, 6), {}),
        tuple(
            Completion(
                "",
                tuple(random.choices(range(VOCABULARY), k=30)),
                torch.full((30,), torch.nan),
                finish,
            )
            for finish in ("error", "cancelled", "stop", "stop")
        ),
        tuple(Score(None, status="fault") for _ in range(4)),
    )
    assert difference(gradient(policy, batch_of([*groups, garbage]).updates[0]), clean) < 1e-10


def test_a_flat_group_is_not_forwarded_but_stays_in_the_denominators() -> None:
    groups = random_groups(3)
    flat = replace(groups[0], prompt=Prompt("flat", (3, 4), {}), scores=(Score(1.0),) * 4)
    policy, batch = tiny_policy(), batch_of([*groups, flat])
    assert [row.forwarded for row in batch.rows[-4:]] == [False] * 4
    assert batch.updates[0].denominators.num_completions == 16
    alone = gradient(policy, batch_of(groups).updates[0])
    assert difference(gradient(policy, batch.updates[0]) * 16 / 12, alone) < 1e-10


def test_a_flat_group_is_forwarded_where_a_kl_reaches_it() -> None:
    groups = [replace(group, scores=(Score(1.0),) * 4) for group in random_groups(2)]
    batch = batch_of(groups, kl=True)
    assert all(row.forwarded for row in batch.rows) and all(
        row.outcome == "flat" for row in batch.rows
    )


def test_the_stop_token_is_trained() -> None:
    policy = tiny_policy()
    prompt = Prompt("p", (7, 8, 9), {})
    ends = [
        Completion("", (1,), torch.zeros(1), "stop", 1),
        Completion("", (5,), torch.zeros(1), "length"),
    ]
    group = ScoredGroup(prompt, tuple(ends), (Score(1.0), Score(0.0)))
    learner = learner_of(policy, lr=1e-2)
    before = next_token_logp(policy, prompt, 1)
    batch = batch_of([group])
    learner.begin(batch)
    learner.update(batch.updates[0])
    assert next_token_logp(policy, prompt, 1) > before


def next_token_logp(policy: Policy, prompt: Prompt, token: int) -> float:
    model = copy.deepcopy(policy.base)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return (
            model(input_ids=torch.tensor([prompt.token_ids]))
            .logits[0, -1]
            .log_softmax(-1)[token]
            .item()
        )


def test_the_filler_of_a_short_batch_gets_no_gradient() -> None:
    policy = tiny_policy()
    group = ScoredGroup(
        Prompt("p", (7,), {}),
        (
            Completion("", (1,), torch.zeros(1), "stop"),
            Completion("", (5,), torch.zeros(1), "stop"),
        ),
        (Score(1.0), Score(0.0)),
    )
    learner = learner_of(policy)
    learner.optimizer.step = lambda: None
    batch = batch_of([group])
    learner.begin(batch)
    learner.update(batch.updates[0])
    embedding = policy.base.model.embed_tokens.weight.grad
    assert (embedding[0] == 0).all() and (embedding[7] != 0).any()


def test_dropout_in_the_model_still_gives_ratio_exactly_one_on_the_first_update() -> None:
    policy, batch = tiny_policy(dropout=0.3), batch_of(random_groups())
    learner = learner_of(policy)
    policy.model.train()
    learner.begin(batch)
    assert learner.update(batch.updates[0]).ratio_max == 1.0


def test_later_updates_compare_with_the_policy_before_the_first() -> None:
    policy, groups = tiny_policy(), random_groups(6)
    batch = batch_of(groups, num_updates=3, epochs=2)
    before = copy.deepcopy(policy)
    learner = learner_of(policy, budget=60, lr=1e-2)
    learner.begin(batch)
    for update in batch.updates:
        stats = learner.update(update)
        assert stats.made
    for update in batch.updates:
        for row in update.rows:
            old = learner._old_logps[row.index]
            expected = slow_logp(before, row)
            assert torch.allclose(old, expected, atol=1e-10)
    assert stats.ratio_max > 1.0001


def slow_logp(policy: Policy, row: Row) -> torch.Tensor:
    model = copy.deepcopy(policy.base)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
    with torch.no_grad(), Float64Mode():
        logp = (model(input_ids=ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
    return logp.gather(-1, ids[0, 1:, None])[len(row.prompt_ids) - 1 :, 0]


def test_the_samplers_log_probs_become_old_logp_only_when_the_recipe_says_so() -> None:
    policy, batch = tiny_policy(), batch_of(random_groups(4), num_updates=2)
    learner = learner_of(policy, old="sampler")
    learner.begin(batch)
    first, second = batch.updates
    assert not any(row.index in learner._old_logps for row in first.rows)
    assert all(torch.equal(learner._old_logps[row.index], row.sampled_logps) for row in second.rows)


def without_tokens(update: Update, index: int, tokens: slice) -> Update:
    """`update`, its denominators too, with no advantage at some tokens of a row."""
    rows = []
    for row in update.rows:
        if row.index == index:
            advantage = torch.full((row.num_tokens,), float(row.advantage), dtype=torch.float64)
            advantage[tokens] = 0.0
            logps = row.sampled_logps.masked_fill(advantage == 0.0, 0.0)
            row = replace(row, advantage=advantage, sampled_logps=logps)
        rows.append(row)
    return replace(update, rows=tuple(rows))


@pytest.mark.parametrize("budget", [10**6, 30])
@pytest.mark.parametrize("missing", [slice(0, 1), slice(None)], ids=["one token", "whole row"])
def test_a_missing_log_prob_of_the_sampler_as_old_logp_teaches_nothing_and_spoils_nothing(
    missing: slice, budget: int
) -> None:
    """The gradient is that of the update in which the tokens have no advantage: all else is bit for bit the same."""
    groups = random_groups(4)
    groups[3].completions[0].sampled_logps[missing] = torch.nan
    batch = batch_of(groups, num_updates=2)
    update = batch.updates[1]
    broken = next(row for row in update.rows if row.group == 3)
    assert broken.sampled_logps.isnan().any() and broken.advantage

    def second_gradient(update: Update) -> torch.Tensor:
        learner = learner_of(tiny_policy(), budget, old="sampler")
        learner.begin(Batch(batch.rows, (batch.updates[0], update)))
        return gradient_of(learner, update)

    actual = second_gradient(update)
    assert actual.isfinite().all() and actual.norm() > 0
    assert torch.equal(actual, second_gradient(without_tokens(update, broken.index, missing)))
    whole = learner_of(policy := tiny_policy(), budget, old="sampler")
    whole.begin(batch)
    assert all(whole.update(part).made for part in batch.updates)
    assert all(p.isfinite().all() for p in policy.trainable().values())
    assert (broken.index in whole.trained_rows) == (
        missing != slice(None) and broken.num_tokens > 1
    )
    others = {row.index for part in batch.updates for row in part.rows if row.forwarded}
    assert others - {broken.index} <= whole.trained_rows


def test_updates_are_disjoint_whole_groups_with_denominators_of_their_own() -> None:
    batch = batch_of(random_groups(7), num_updates=3)
    seen = [{row.group for row in update.rows} for update in batch.updates]
    assert set().union(*seen) == set(range(7)) and sum(map(len, seen)) == 7
    for update in batch.updates:
        assert update.denominators.num_tokens == sum(row.num_tokens for row in update.rows)
        assert update.denominators.num_completions == len(update.rows)


def test_the_reference_is_the_first_policy_until_it_is_replaced() -> None:
    policy = tiny_policy(lora=True)
    learner = learner_of(policy, lr=1e-2, beta=0.1, reference_every=2)
    start, kls = policy.snapshot(), []
    for _ in range(3):
        batch = batch_of(random_groups(2), kl=True)
        learner.begin(batch)
        kls.append(learner.update(batch.updates[0]).kl)
        if len(kls) == 1:
            assert all(torch.equal(learner.reference[name], start[name]) for name in start)
    assert kls[0] == 0.0 and kls[1] > 0.0 and kls[2] == 0.0


def test_kl_pulls_back_to_the_reference() -> None:
    policy = tiny_policy()
    learner = learner_of(policy, lr=3e-3, beta=1.0)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(torch.randn_like(p) * 0.05)
    groups = [replace(group, scores=(Score(1.0),) * 4) for group in random_groups(4)]
    kls = []
    for _ in range(8):
        batch = batch_of(groups, kl=True)
        learner.begin(batch)
        kls.append(learner.update(batch.updates[0]).kl)
    assert kls[-1] < 0.7 * kls[0]


def test_nothing_to_learn_leaves_the_weights_and_counts_as_no_update() -> None:
    policy = tiny_policy()
    before = policy.snapshot()
    groups = [replace(group, scores=(Score(0.5),) * 4) for group in random_groups(2)]
    learner = learner_of(policy)
    batch = batch_of(groups)
    learner.begin(batch)
    stats = learner.update(batch.updates[0])
    assert not stats.made and learner.optimizer.num_updates == 0
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched() -> None:
    policy = tiny_policy()
    groups = random_groups(2)
    batch = batch_of(groups)
    rows = tuple(replace(row, advantage=float("nan")) for row in batch.rows)
    update = Update(rows, batch.updates[0].denominators)
    before = policy.snapshot()
    learner = learner_of(policy)
    learner.begin(Batch(rows, (update,)))
    with pytest.raises(FloatingPointError, match="weights were not touched"):
        learner.update(update)
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())


def test_drift_is_the_mean_distance_between_sampler_and_old_policy() -> None:
    policy, batch = tiny_policy(), batch_of(random_groups(3))
    learner = learner_of(policy)
    learner.begin(batch)
    stats = learner.update(batch.updates[0])
    moved = tiny_policy()
    distance = torch.cat([(row.sampled_logps - slow_logp(moved, row)).abs() for row in batch.rows])
    assert stats.drift == pytest.approx(distance.mean().item(), rel=1e-6)
    assert stats.drift_max == pytest.approx(distance.max().item(), rel=1e-6)


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    policy, batch = tiny_policy(), batch_of(random_groups())
    plain = gradient(policy, batch.updates[0])
    again = Policy(copy.deepcopy(policy.base), policy.tokenizer, gradient_checkpointing=True)
    assert difference(gradient(again, batch.updates[0]), plain) < 1e-10


def test_a_cancelled_completion_is_counted_and_never_learnt_from() -> None:
    group = random_groups(1)[0]
    completions = list(group.completions)
    completions[1] = replace(completions[1], finish="cancelled")
    scores = [*group.scores[:1], Score(None, status="not_applicable"), *group.scores[2:]]
    batch = batch_of([ScoredGroup(group.prompt, tuple(completions), tuple(scores))])
    assert batch.ledger["cancelled"] == 1 and not batch.rows[1].mask
    assert (
        sum(batch.ledger[outcome] for outcome in batch.ledger if outcome != "sampled")
        == batch.ledger["sampled"]
        == 4
    )


def test_groups_become_batches_without_losing_a_completion() -> None:
    groups = random_groups(9, 3)
    batch = batch_of(groups, num_updates=4, epochs=3)
    assert len(batch.updates) == 12 and batch.ledger["sampled"] == 27
    assert isinstance(groups[0], ScoredGroup) and not isinstance(groups[0], Group)


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"beta": 0.1},
        {"policy": "cispo", "correction": "token"},
        {"policy": "gspo"},
        {"entropy": 0.01},
    ],
)
def test_an_update_waits_for_the_device_once(loss: dict) -> None:
    policy, batch = (
        tiny_policy(torch.float32),
        batch_of(random_groups(), kl=bool({"beta", "entropy"} & set(loss))),
    )
    learner = learner_of(policy, 60, **loss)
    rows = [row for row in batch.updates[0].rows if row.forwarded]
    assert len(micro_batches(rows, 60)) > 2 and policy.head is not None
    learner.begin(batch)
    with HostReads() as waits:
        assert learner.update(batch.updates[0]).made
    assert waits.seen == ["tolist"]


@pytest.mark.parametrize("policy_loss", sorted(POLICY_LOSS_SPECS))
def test_a_loss_that_is_not_said_to_span_completions_is_the_sum_of_its_tokens(
    policy_loss: str,
) -> None:
    """What `couples_tokens` says decides whether a chunk of the head may cut a completion."""
    torch.manual_seed(0)
    lengths = (5, 1, 7, 4)
    number, settings = (
        sum(lengths),
        LossSection(policy=policy_loss, correction="token", divergence=0.02),
    )
    objective = Objective(settings)
    logp_T = -torch.rand(number, dtype=torch.float64)
    near = [logp_T + 0.4 * torch.randn(number, dtype=torch.float64) for _ in range(3)]
    advantage_T = torch.randn(4, dtype=torch.float64).repeat_interleave(torch.tensor(lengths))
    inputs = TokenInputs(
        lengths=lengths,
        share_T=torch.rand(number, dtype=torch.float64),
        sampled_logp_T=near[0],
        advantage_T=advantage_T,
        old_logp_T=near[1],
        ref_logp_T=near[2],
        teacher_logp_T=None,
        keep_T=None,
        flag_T=torch.rand(number) < 0.5,
    )
    whole = objective.coefficients(inputs, logp_T, 1.0)
    parts = torch.cat(
        [
            objective.coefficients(inputs.span(a, a + 3), logp_T[a : a + 3], 1.0)
            for a in range(0, number, 3)
        ]
    )
    assert torch.allclose(parts, whole[: len(parts)], atol=1e-12, rtol=0) == (
        not POLICY_LOSS_SPECS[policy_loss].couples_tokens
    )


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"policy": "gspo"},
        {"policy": "kimi", "entropy": 0.02},
        {"beta": 0.05},
        {"correction": "sequence"},
        {"entropy": 0.05},
        {"off_policy_mask": 0.01},
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_small_chunks_of_the_head_change_no_gradient(
    loss: dict, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass with completions cut, one pass of whole completions, and after the whole: the same update."""
    policy, batch = (
        tiny_policy(lora=lora),
        batch_of(random_groups(), kl=bool({"beta", "entropy"} & set(loss))),
    )
    actual = []
    for rows in (4096, 23, 5):
        monkeypatch.setattr("grpo.kernels.log_prob.spec.MIN_CHUNK", rows)
        monkeypatch.setattr("grpo.kernels.log_prob.spec.MAX_CHUNK", {"cpu": rows})
        actual.append(gradient(policy, batch.updates[0], **loss))
    assert actual[0].norm() > 0 and all(difference(part, actual[0]) < 1e-10 for part in actual[1:])
