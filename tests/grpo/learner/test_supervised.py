"""The gradient of supervised training is that of a plain transformers loss, however rows are packed, split and shared."""

from __future__ import annotations

import random

import pytest
import torch
from small_updates import VOCABULARY, difference, gradient_of, tiny_policy
from tiny import plain_model

from grpo.data.examples import Example
from grpo.distributed.process_group import Ranks
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.learner.supervised import after_update, row_of, supervised_batch, supervised_loss
from grpo.model.float64_mode import Float64Mode
from grpo.model.policy import Policy
from grpo.recipe import OptimSection
from grpo.types import Batch, Prompt


class HalfOfTwo(Ranks):
    """One of two ranks that only divides the micro-batches, so that the halves can be added up here."""

    def sum(self, tensors: list[torch.Tensor]) -> None: ...

    def max(self, tensor: torch.Tensor) -> None: ...

    def gather(self, items: list) -> list:
        return items


def random_examples(number: int = 9) -> list[Example]:
    """Rows of odd lengths, some with several learnt stretches."""
    examples = []
    for index in range(number):
        length = random.randint(2, 40)
        token_ids = tuple(random.choices(range(2, VOCABULARY), k=length))
        places = sorted(
            random.sample(range(1, length), k=min(length - 1, random.choice([1, 3, 5])))
        )
        places = places if len(places) % 2 else places[:-1]
        bounds = [*places, length]
        examples.append(
            Example(Prompt(str(index), token_ids, {}), tuple(zip(bounds[::2], bounds[1::2])))
        )
    return examples


def gradient(
    policy: Policy,
    batch: Batch,
    budget: int = 10**6,
    aggregation: str = "token_mean",
    ranks: Ranks = Ranks(),
) -> torch.Tensor:
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), OptimSection(lr=1e-3, max_grad_norm=0.0), 10),
        supervised_loss(aggregation),
        temperature=1.0,
        tokens_per_micro_batch=budget,
        ranks=ranks,
    )
    learner.begin(batch)
    return gradient_of(learner, batch.updates[0])


def reference(policy: Policy, examples: list[Example], aggregation: str) -> torch.Tensor:
    """Cross-entropy of transformers' own forward, a row at a time, with labels of -100 where nothing is learnt."""
    model = plain_model(policy)
    total = torch.zeros((), dtype=torch.float64)
    num_learnt = sum(example.num_learnt for example in examples)
    for example in examples:
        input_ids = torch.tensor([example.prompt.token_ids])
        labels = torch.full_like(input_ids, -100)
        for start, end in example.learnt:
            labels[0, start:end] = input_ids[0, start:end]
        with Float64Mode():
            logits = model(input_ids=input_ids, use_cache=False).logits
        summed = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
        by_row = example.num_learnt * len(examples)
        total = total + summed / (num_learnt if aggregation == "token_mean" else by_row)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, parameters)
    return torch.cat([part.flatten() for part in gradients])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_the_gradient_is_that_of_transformers_under_any_packing_and_split(
    seed: int, aggregation: str, lora: bool
) -> None:
    policy = tiny_policy(lora=lora)
    examples = random_examples()
    expected = reference(policy, examples, aggregation)
    batch = supervised_batch(examples)
    for budget in (1, 37, 10**6):  # one row a micro-batch, some, all in one
        assert difference(gradient(policy, batch, budget, aggregation), expected) < 1e-10
    halves = [gradient(policy, batch, 50, aggregation, HalfOfTwo(rank, 2)) for rank in (0, 1)]
    assert difference(halves[0] + halves[1], expected) < 1e-10
    shuffled = supervised_batch(random.sample(examples, len(examples)))
    assert difference(gradient(policy, shuffled, 61, aggregation), expected) < 1e-10


def test_a_row_does_not_see_the_rows_it_is_packed_with(seed: int) -> None:
    policy = tiny_policy()
    first, *others = random_examples()
    alone = supervised_batch([first])
    packed = supervised_batch([first, *others])
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), OptimSection(), 1),
        supervised_loss("token_mean"),
        temperature=1.0,
        tokens_per_micro_batch=10**6,
    )
    logps = []
    for batch in (alone, packed):
        learner.begin(batch)
        gradient_of(learner, batch.updates[0])
        logps.append(learner._old_logps[0])
    assert len(logps[0]) == first.num_learnt
    assert (logps[0] - logps[1]).abs().max() < 1e-12


def test_what_others_wrote_between_two_turns_is_read_and_not_learnt() -> None:
    example = Example(Prompt("0", (5, 6, 7, 8, 9, 10, 11), {}), ((2, 3), (5, 7)))
    row = row_of(example, 4)
    assert row.prompt_ids == (5, 6) and row.token_ids == (7, 8, 9, 10, 11)
    assert row.given == ((1, 3),) and row.written == [0, 3, 4]
    assert row.num_tokens == example.num_learnt == len(row.sampled_logps) == 3


def test_rows_that_did_not_train_are_counted_as_what_they_were() -> None:
    batch = supervised_batch(random_examples(5))
    assert batch.ledger == {"drawn": 5, "skipped": 0, "faulted": 0, "trained": 5}
    after = after_update(batch, trained={0, 1, 3}, masked={2})
    assert after.ledger == {"drawn": 5, "skipped": 1, "faulted": 1, "trained": 3}
    assert [row.outcome for row in after.rows][2:] == ["faulted", "trained", "skipped"]
