"""What a call of the engine computes, counted: forwards, rows, prompt tokens, products, copies, reads by the host."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from operations import HostReads, Operations, copies_of, tokens_read, weight_shapes
from tiny import random_prompts, tiny_policy, wide_heads

from grpo.kernels.sampling.spec import Sampling
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.rollout.contiguous_decoder import row_multiple
from grpo.rollout.engine import Engine
from grpo.types import Prompt

LENGTHS = (20, 33, 7)
LAYERS = 2
GROUP = 4


def endless(**options: Any) -> Policy:
    """A policy whose completions end at their limits alone."""
    policy = tiny_policy("llama", **{**wide_heads("llama"), **options})
    policy.stop_ids = frozenset()
    return policy


def limit(prompt: Prompt, index: int) -> int:
    """Ragged lengths: 2 to 14 tokens."""
    return 2 + 3 * index + int(prompt.id[1:])


def limits() -> list[int]:
    return [limit(prompt, i) for prompt in random_prompts(0, LENGTHS) for i in range(GROUP)]


def alive() -> list[int]:
    """Completions that are not done before each step."""
    return [sum(length > step for length in limits()) for step in range(max(limits()))]


def filled(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def sample(engine: Engine, prompts: list[Prompt], **options: Any) -> None:
    settings = {"group_size": GROUP, "max_tokens": limit, "sampling": Sampling(), "seed": (1,)}
    assert list(engine.sample(prompts, **{**settings, **options}))


def warm(policy: Policy, **options: Any) -> Engine:
    """An engine that knows the size of a token."""
    engine = Engine(policy, **options)
    sample(engine, random_prompts(1, [5]), max_tokens=1)
    return engine


def test_a_step_forwards_the_rows_that_are_alive_and_no_others() -> None:
    """One forward for all prompts, then one a step; fails where rows stay until the longest completion ends."""
    policy = endless()
    engine = warm(policy)
    with tokens_read(policy.model) as read:
        sample(engine, random_prompts(0, LENGTHS))
    multiple = row_multiple(policy.base.dtype)
    prompts = filled(sum(LENGTHS) - len(LENGTHS), MIN_ROWS)
    assert read == [prompts, *(filled(number, multiple) for number in alive())]
    stats = engine.stats
    assert (stats.steps, stats.rows_alive) == (max(limits()), sum(limits()))
    assert stats.rows_computed == sum(read[1:]) and read[-1] < read[1]


@pytest.mark.parametrize("paged", [False, True])
def test_a_prompt_is_read_once_however_large_its_group(paged: bool) -> None:
    """Fails where each completion reads the prompt."""
    policy = endless()
    engine = warm(policy, paged=paged)
    first = []
    for group_size in (1, 8):
        with tokens_read(policy.model) as read:
            sample(engine, random_prompts(0, [41, 41]), group_size=group_size, max_tokens=2)
        first.append(read[0])
        assert engine.stats.prefill_tokens == 2 * 40
    assert first == [80, 80]


def test_a_forward_takes_one_product_a_matrix_and_copies_no_weight() -> None:
    """Seven of each layer and the head; fails where weights are cast or merged, or attention takes products of its own."""
    policy = endless()
    engine = warm(policy)
    with tokens_read(policy.model) as read, Operations() as operations:
        sample(engine, random_prompts(0, LENGTHS))
    assert operations.products == len(read) * (7 * LAYERS + 1)
    assert copies_of(weight_shapes(policy.model), operations) == 0


def test_adapters_are_not_merged_to_sample() -> None:
    """Two further products for each matrix that is adapted; fails where each call, or step, merges them."""
    policy = endless(lora=True)
    engine = warm(policy)
    with tokens_read(policy.model) as read, Operations() as operations:
        sample(engine, random_prompts(0, LENGTHS))
    assert operations.products == len(read) * (3 * 7 * LAYERS + 1)
    assert copies_of(weight_shapes(policy.model), operations) == 0


def reads_of(engine: Engine, **options: Any) -> Counter[str]:
    """What the host reads in a call for one prompt."""
    with HostReads() as reads:
        sample(engine, random_prompts(0, [9]), **options)
    return Counter(reads.seen)


def test_a_step_on_a_cpu_reads_tokens_and_log_probs_and_nothing_else() -> None:
    """Two lists a step whatever the rows; fails where a row's token is read by itself, or a stop is asked for there."""
    engine = warm(endless())
    short, long, wide = (
        reads_of(engine, max_tokens=length, group_size=rows)
        for length, rows in ((8, 4), (14, 4), (14, 16))
    )
    assert long == wide
    assert long - short == Counter(tolist=2 * 6)
    with Operations() as operations:
        sample(engine, random_prompts(0, LENGTHS))
    assert operations.calls["_local_scalar_dense"] == 0


def test_the_loop_of_a_gpu_waits_for_eight_steps_at_once() -> None:
    """Run eagerly on a CPU; fails where each step, or each row, is read by itself. Lists are made of what was read."""
    engine = warm(endless(), paged=True)
    one, eight = (reads_of(engine, max_tokens=32, group_size=rows) for rows in (1, 8))
    assert engine.stats.steps == 32
    assert one["cpu"] == eight["cpu"] == 32 // 8
    assert not {"item", "numpy", "__bool__", "is_nonzero"} & {*one, *eight}


def test_logits_are_those_of_the_rows_that_are_alive() -> None:
    """Not of prompts, nor of all that was sampled; fails where the prefill goes through the head."""
    size = 1021
    policy = endless(vocabulary=size)
    engine = warm(policy)
    with Operations() as operations:
        sample(engine, random_prompts(0, [60, 60, 60]))
    rows = filled(3 * GROUP, row_multiple(policy.base.dtype))
    logits = [shape for shape in operations.made if shape[-1:] == (size,)]
    assert max(map(math.prod, logits)) == rows * size < 180 * size
