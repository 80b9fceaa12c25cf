"""Observations are in the context of what is learnt and in nothing else: loss, ratio, denominators, lengths, drift."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from small_updates import (
    TEMPERATURE,
    VOCABULARY,
    batch_of,
    difference,
    gradient,
    learner_of,
    tiny_policy,
)
from tiny import plain_model

from grpo.learner.batch import make_batch
from grpo.learner.diagnosis import arbitrate
from grpo.model.float64_mode import Float64Mode
from grpo.model.policy import Policy
from grpo.run.metrics import sampled_record
from grpo.types import Batch, Completion, Prompt, Row, ScoredGroup
from rewards import Score
from rewards.environments import Turn

pytestmark = pytest.mark.usefixtures("seed")


def conversation(num_turns: int) -> Completion:
    """Random turns with random observations between them; one may be empty, and one may stand before the first."""
    tokens: list[int] = []
    given: list[tuple[int, int]] = []
    turns: list[Turn] = []
    for turn in range(num_turns):
        if turn or random.random() < 0.3:
            start = len(tokens)
            tokens += random.choices(range(2, VOCABULARY), k=random.choice([0, 1, 2, 9]) or turn)
            given.append((start, len(tokens)))
            turns.append(Turn("", "seen", calls=("f",)))
        tokens += [*random.choices(range(2, VOCABULARY), k=random.randint(0, 9)), 1]
    num_written = len(tokens) - sum(end - start for start, end in given)
    spans = tuple(span for span in given if span != (0, 0))
    return Completion(
        "", tuple(tokens), torch.randn(num_written) - 4, "stop", given=spans, turns=tuple(turns)
    )


def conversations(num_groups: int = 4, group_size: int = 3) -> list[ScoredGroup]:
    groups = []
    for g in range(num_groups):
        prompt_ids = tuple(random.choices(range(2, VOCABULARY), k=random.randint(1, 12)))
        completions = [conversation(random.choice([1, 2, 5])) for _ in range(group_size)]
        scores = [Score(float(index)) for index in range(group_size)]
        groups.append(
            ScoredGroup(Prompt(str(g), prompt_ids, {}), tuple(completions), tuple(scores))
        )
    return groups


def plain_gradient(policy: Policy, batch: Batch, aggregation: str) -> torch.Tensor:
    """A row at a time through transformers' own forward; the loss never sees the tokens that were given."""
    model = plain_model(policy)
    rows = [row for row in batch.rows if row.mask]
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
        with Float64Mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        logp = (logits / TEMPERATURE).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        seen = {index for start, end in row.given for index in range(start, end)}
        wanted = [index for index in range(len(row.token_ids)) if index not in seen]
        taken = logp[len(row.prompt_ids) - 1 :][wanted]
        correction = (taken.detach() - row.sampled_logps.double()).exp().clamp(max=2.0)
        surrogate = -correction * (taken - taken.detach()).exp() * row.advantage
        share = {
            "sequence_mean": 1 / (len(rows) * len(wanted)),
            "token_mean": 1 / sum(each.num_tokens for each in rows),
            "constant": 1 / (len(rows) * 40),
        }[aggregation]
        total = total + share * surrogate.sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, parameters)])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
def test_the_gradient_is_that_of_a_loss_that_never_saw_the_observations(
    aggregation: str, lora: bool
) -> None:
    policy = tiny_policy(lora=lora)
    batch = batch_of(conversations())
    expected = plain_gradient(policy, batch, aggregation)
    (update,) = batch.updates
    for budget in (1, 37, 10**6):
        found = gradient(policy, update, budget, aggregation=aggregation, correction="token")
        assert difference(found, expected) < 1e-10
    order = random.sample(range(len(update.rows)), len(update.rows))
    shuffled = gradient(policy, update, 61, order, aggregation=aggregation, correction="token")
    assert difference(shuffled, expected) < 1e-10


def test_other_observations_of_the_same_length_change_no_denominator_and_no_count() -> None:
    groups = conversations()
    (update,) = batch_of(groups).updates
    written = sum(c.num_tokens for group in groups for c in group.completions)
    assert update.denominators.num_tokens == written == sum(row.num_tokens for row in update.rows)
    assert written < sum(len(row.token_ids) for row in update.rows)
    record = sampled_record(groups, {}, is_answered=True)
    number = sum(len(group.completions) for group in groups)
    assert record["completion/tokens"] == written
    assert record["completion/length"] == pytest.approx(written / number)
    assert record["completion/longest"] == max(
        c.num_tokens for group in groups for c in group.completions
    )
    seen = sum(len(row.token_ids) - row.num_tokens for row in update.rows)
    assert record["tool/observation_tokens"] == pytest.approx(seen / number)


def test_an_advantage_by_token_has_a_value_for_each_token_that_was_written() -> None:
    groups = conversations()
    rows = batch_of(groups, rule="reinforce_pp", kl=True).rows
    policy = tiny_policy()
    learner = learner_of(policy, beta=0.1, kl_in="reward")
    penalties = learner.penalties(rows)
    for row in rows:
        assert len(penalties[row.index]) == row.num_tokens == len(row.sampled_logps)


def test_drift_is_measured_on_what_this_steps_weights_wrote_alone() -> None:
    policy = tiny_policy(torch.float32)
    completion = Completion(
        "",
        (5, 6, 7, 8, 9, 10),
        torch.zeros(4),
        "stop",
        versions=((1, 0, 4), (2, 4, 6)),
        given=((1, 3),),
    )
    group = ScoredGroup(Prompt("0", (3,), {}), (completion, completion), (Score(0.0), Score(1.0)))
    options = {"num_updates": 1, "epochs": 1, "max_tokens": 9, "mask_truncated": False}
    batch = make_batch([group], [[0.5, 1.0]], forward_flat=True, version=2, **options)
    own = own_logps(policy, batch.rows[0])
    own[:2] += 3  # 5 and 8 were written under older weights
    rows = tuple(replace(row, sampled_logps=own) for row in batch.rows)
    update = replace(batch.updates[0], rows=rows)
    learner = learner_of(policy, correction="none")
    learner.begin(Batch(rows, (update,)))
    stats = learner.update(update)
    assert stats.num_tokens == 8 and stats.drift is not None and stats.drift < 1e-5


def test_the_arbiter_compares_the_written_tokens_with_the_models_own() -> None:
    policy = tiny_policy(torch.float32)
    rows = [
        replace(row, sampled_logps=own_logps(policy, row)) for row in batch_of(conversations()).rows
    ]
    old = {row.index: row.sampled_logps for row in rows}
    found = arbitrate(policy, rows, old, TEMPERATURE)
    assert found is not None and found.sampler < 1e-5 and found.trainer < 1e-5


def own_logps(policy: Policy, row: Row) -> torch.Tensor:
    ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
    with torch.no_grad():
        logits = plain_model(policy)(input_ids=ids, use_cache=False).logits[0, :-1]
    logp = (logits / TEMPERATURE).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return logp[len(row.prompt_ids) - 1 :][row.written]
