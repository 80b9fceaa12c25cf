"""What an update computes, counted: forwards, tokens, products, copies, the largest tensor.

A count is the same on a busy machine as on an idle one, so it finds what makes updates slower where seconds would not.
"""

from __future__ import annotations

import pytest
import torch
from operations import (
    HostReads,
    Operations,
    copies_of,
    counted,
    flop_counter,
    tokens_read,
    weight_shapes,
)
from small_updates import TEMPERATURE, batch_of, learner_of, random_groups, tiny_policy
from tiny import tiny_policy as policy_of_vocabulary

from grpo.kernels.log_prob import Gradients, Head, fused_log_prob
from grpo.kernels.log_prob.spec import chunk_rows
from grpo.learner.learner import Learner
from grpo.model.packing import micro_batches
from grpo.model.policy import Policy
from grpo.types import Batch

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it


def warm(policy: Policy, batch: Batch, budget: int = 10**6, /, **loss: object) -> Learner:
    """A learner that has made its first update, which looks for the head and makes the moments."""
    learner = learner_of(policy, budget, **loss)
    learner.begin(batch)
    learner.update(batch.updates[0])
    learner.begin(batch)
    return learner


def num_tokens(batch: Batch) -> tuple[int, int]:
    """Tokens that an update has to forward, each group's prompt once, and those that it learns from."""
    rows = [row for row in batch.updates[0].rows if row.forwarded]
    prompts = {row.group: len(row.prompt_ids) for row in rows}
    completion = sum(row.num_tokens for row in rows)
    return sum(prompts.values()) + completion, completion


def test_each_token_is_forwarded_once_and_a_groups_prompt_once() -> None:
    """Fails where every completion forwards its own copy of the prompt."""
    policy, batch = tiny_policy(), batch_of(random_groups())
    learner = warm(policy, batch)
    with tokens_read(policy.model) as read:
        learner.update(batch.updates[0])
    assert read == [num_tokens(batch)[0]]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_batch_is_forwarded_once_and_its_layers_twice_with_checkpointing(
    checkpointing: bool,
) -> None:
    """Fails where old log-probs, the drift or the entropy take a forward of their own."""
    policy, batch = tiny_policy(checkpointing=checkpointing), batch_of(random_groups())
    learner = warm(policy, batch, 60)
    number = len(micro_batches([row for row in batch.updates[0].rows if row.forwarded], 60))
    forwards: list[int] = []
    for layer in policy.base.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
    with tokens_read(policy.model) as read:
        learner.update(batch.updates[0])
    assert number > 2 and len(read) == number
    assert len(forwards) == number * len(policy.base.model.layers) * (1 + checkpointing)


@pytest.mark.parametrize(("loss", "forwards"), [({"beta": 0.1}, 2), ({"policy": "gspo"}, 1)])
def test_a_reference_costs_one_further_forward_and_other_losses_none(
    loss: dict, forwards: int
) -> None:
    """Fails where the reference's log-probs are taken twice."""
    policy, batch = tiny_policy(), batch_of(random_groups(), kl=True)
    learner = warm(policy, batch, **loss)
    with tokens_read(policy.model) as read:
        learner.update(batch.updates[0])
    assert len(read) == forwards


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_takes_the_products_of_the_closed_form(checkpointing: bool) -> None:
    """6 T W of the layers and 6 N D V of the head; fails where logits are computed again for the backward.

    With checkpointing the forward of the layers is repeated, but for each layer's last product, of which nothing is kept.
    """
    policy, batch = tiny_policy(checkpointing=checkpointing), batch_of(random_groups())
    learner = warm(policy, batch)
    layers = [weight for name, weight in policy.base.named_parameters() if "layers" in name]
    in_layers = sum(weight.numel() for weight in layers if weight.dim() == 2)
    config = policy.base.config
    last = config.num_hidden_layers * config.hidden_size * config.intermediate_size
    forwarded, learnt = num_tokens(batch)
    expected = 6 * forwarded * in_layers + 6 * learnt * config.hidden_size * config.vocab_size
    number = 3 * (7 * config.num_hidden_layers + 1)
    if checkpointing:
        expected += 2 * forwarded * (in_layers - last)
        number += 6 * config.num_hidden_layers
    with flop_counter() as flops, Operations() as operations:
        learner.update(batch.updates[0])
    assert flops.get_total_flops() == expected
    assert operations.products == number


@pytest.mark.parametrize(
    ("gradient", "head_gradient", "products"),
    [(False, False, 1), (True, False, 2), (True, True, 3)],
)
def test_the_head_takes_one_two_or_three_products_a_chunk_and_never_holds_all_logits(
    gradient: bool, head_gradient: bool, products: int
) -> None:
    """Fails where chunks are as long as the micro-batch, or a chunk's logits are computed twice."""
    number, size, width = 1500, 4096, 8
    hidden_TD = torch.randn(number, width, dtype=torch.float64)
    head = Head(torch.randn(size, width, dtype=torch.float64), temperature=TEMPERATURE)
    target_T = torch.randint(size, (number,))
    rows = chunk_rows(head)
    chunks = -(-number // rows)
    assert chunks > 2  # two blocks of a chunk's size are scratch memory
    with Operations() as operations:
        fused_log_prob(
            hidden_TD,
            head,
            target_T,
            (lambda start, end, logp_R, entropy_R: (-logp_R, None)) if gradient else None,
            gradients=Gradients(torch.zeros(size, width, dtype=torch.float64))
            if head_gradient
            else None,
        )
    assert operations.products == products * chunks
    assert operations.largest <= 2 * rows * size < number * size


def test_no_tensor_of_an_update_holds_the_logits_of_all_its_tokens() -> None:
    """Fails where the model's own head makes whole logits."""
    size = 8192
    policy = policy_of_vocabulary(vocabulary=size, tokenizer=tiny_policy().tokenizer)
    batch = batch_of(random_groups(12, 6, longest=30))
    learner = warm(policy, batch)
    assert policy.head is not None
    rows = chunk_rows(policy.head.at(TEMPERATURE))
    learnt = num_tokens(batch)[1]
    with Operations() as operations:
        learner.update(batch.updates[0])
    assert learnt > 1.2 * rows
    assert operations.largest <= rows * size < learnt * size


@pytest.mark.parametrize("lora", [False, True])
def test_an_update_copies_no_weight(lora: bool) -> None:
    """Fails where weights are kept, merged or cast anew in each update."""
    policy, batch = tiny_policy(lora=lora), batch_of(random_groups())
    learner = warm(policy, batch)
    with Operations() as operations:
        assert learner.update(batch.updates[0]).made
    assert copies_of(weight_shapes(policy.model), operations) == 0
    assert len(operations.copied) > 10


def test_the_tokens_of_a_step_are_read_by_the_host_once(monkeypatch) -> None:
    """However many micro-batches there are; fails where each one's loss is read."""
    policy, batch = tiny_policy(torch.float32), batch_of(random_groups())
    learner = warm(policy, batch, 60)
    steps = counted(monkeypatch, learner.optimizer, "step")
    with Operations() as operations, HostReads() as reads:
        learner.update(batch.updates[0])
    assert len(steps) == 1
    assert reads.seen == ["tolist"] and operations.calls["_local_scalar_dense"] == 0
