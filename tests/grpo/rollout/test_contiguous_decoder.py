"""The engine within a memory budget, with limits for each completion, cancelled groups and partial groups."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Collection
from ctypes.util import find_library

import pytest
import torch
from tiny import plain_logits, random_prompts, tiny_policy, wide_heads

from grpo.kernels import linear
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout import contiguous_decoder
from grpo.rollout.engine import Engine
from grpo.rollout.memory import OOM_MESSAGES
from grpo.rollout.sequence import PartialGroup
from grpo.types import Completion, Group, Prompt

SIZES = [9, 30, 1, 140, 64, 200, 5, 150]


def endless(seed: int, **options):
    """A policy whose completions seldom end by themselves."""
    policy = tiny_policy(
        "llama", seed, peak=1.5, max_position_embeddings=1024, **wide_heads("llama"), **options
    )
    policy.stop_ids = frozenset({2})
    return policy


def sample(engine: Engine, prompts, **options) -> dict[int, Group]:
    options = {"group_size": 3, "max_tokens": 90, "sampling": Sampling(), "seed": (0,), **options}
    return dict(engine.sample(prompts, **options))


def same(one: Completion, other: Completion) -> bool:
    return (one.token_ids, one.text, one.finish, one.stop) == (
        other.token_ids,
        other.text,
        other.finish,
        other.stop,
    ) and torch.equal(one.sampled_logps, other.sampled_logps)


def assert_same(some: dict[int, Group], others: dict[int, Group]) -> None:
    assert some.keys() == others.keys()
    for group_index, group in some.items():
        assert all(
            same(a, b) for a, b in zip(group.completions, others[group_index].completions)
        ), group_index


# ------------------------------------------------------------------------------------ limits and order


def test_each_completion_may_have_a_limit_of_its_own(seed):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset()
    sampled = sample(
        Engine(policy),
        prompts,
        max_tokens=lambda prompt, index: len(prompt.token_ids) % 7 + 5 * index + 1,
    )
    for group_index, group in sampled.items():
        for index, c in enumerate(group.completions):
            assert (
                len(c.token_ids) == SIZES[group_index] % 7 + 5 * index + 1 and c.finish == "length"
            )


def test_prompts_that_took_longest_before_begin_first_and_change_no_token(seed):
    policy, prompts = endless(seed), random_prompts(seed, [5] * 6)
    policy.stop_ids = frozenset()
    engine = Engine(policy, max_rows=8)

    def limit(prompt, index):
        return 10 * (int(prompt.id[1:]) + 1)

    first = list(
        engine.sample(prompts, group_size=8, max_tokens=limit, sampling=Sampling(), seed=(0,))
    )
    assert [group_index for group_index, _ in first] == [0, 1, 2, 3, 4, 5]
    assert engine.expected == {f"p{i}": 10 * (i + 1) for i in range(6)}
    second = list(
        engine.sample(prompts, group_size=8, max_tokens=limit, sampling=Sampling(), seed=(0,))
    )
    assert [group_index for group_index, _ in second] == [5, 4, 3, 2, 1, 0]
    assert_same(dict(first), dict(second))


def test_what_is_alive_is_nearly_all_that_is_computed_while_a_queue_waits(seed):
    policy, prompts = endless(seed), random_prompts(seed, [5] * 80)
    policy.stop_ids = frozenset()
    drawn = torch.Generator().manual_seed(seed)
    limits = (torch.randn(80, 3, generator=drawn) * 0.8).exp().mul(25).clamp(3, 90).int().tolist()
    engine = Engine(policy, max_rows=32)
    sample(engine, prompts, max_tokens=lambda prompt, index: limits[int(prompt.id[1:])][index])
    assert engine.stats.tokens == engine.stats.rows_alive == sum(map(sum, limits))
    assert engine.stats.rows_alive >= 0.9 * engine.stats.rows_computed


# -------------------------------------------------------------------------------------------- memory


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("tokens", [1, 900, 1900])
@pytest.mark.thin(2)
def test_a_budget_changes_who_waits_and_no_bit(tokens, seed):
    """Sequences lose their rows in the middle and replay their own tokens."""
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset({2}) if seed % 2 else frozenset()
    free = Engine(policy)
    expected = sample(free, prompts)
    token_bytes = 2 * 2 * 2 * 16 * 4  # layers, keys and values, kv heads, width, fp32
    assert free.stats.replayed == 0 and free.stats.kv_bytes > 2000 * token_bytes
    engine = Engine(policy, kv_memory_gib=tokens * token_bytes / 2**30)
    assert_same(sample(engine, prompts), expected)
    assert engine.stats.steps >= free.stats.steps
    waits = engine.stats.steps > free.stats.steps
    assert waits or (tokens == 1900 and engine.stats.kv_bytes < free.stats.kv_bytes)
    alone = 320 * token_bytes  # one completion and its prompt may always go on
    assert engine.stats.tokens == free.stats.tokens
    assert engine.stats.kv_bytes <= max(tokens * token_bytes + 24 * 64 * token_bytes, alone)


@pytest.mark.usefixtures("kernels")
def test_sequences_that_lose_their_rows_are_counted_as_replayed(seed):
    policy, prompts = endless(seed), random_prompts(seed, [60] * 8)
    policy.stop_ids = frozenset()
    expected = sample(Engine(policy), prompts, max_tokens=150)
    engine = Engine(policy, kv_memory_gib=24 * 128 * 512 / 2**30)  # all begin, few may grow
    assert_same(sample(engine, prompts, max_tokens=150), expected)
    assert engine.stats.replayed > 0


OUT_OF_MEMORY = textwrap.dedent("""
    import resource, sys
    sys.path[:0] = ["tests/support", "."]
    import torch
    torch.set_num_threads(int(sys.argv[2]))
    from tiny import random_prompts, tiny_policy
    from grpo.rollout.engine import Engine
    from grpo.kernels.sampling.spec import Sampling

    policy = tiny_policy("llama", 0, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, head_dim=256,
                         max_position_embeddings=2048)
    policy.stop_ids = frozenset()
    prompts = random_prompts(0, [100] * 8)
    options = dict(group_size=8, max_tokens=72, sampling=Sampling(), seed=(0,))
    few = {p: g for p, g in Engine(policy, max_rows=8).sample(prompts, **options)}
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
    engine = Engine(policy, max_rows=64)
    sampled = {p: g for p, g in engine.sample(prompts, **options)}
    tolerance = 0 if torch.get_num_threads() == 1 else 1e-5  # two threads split a product by its rows
    for p in few:
        for a, b in zip(few[p].completions, sampled[p].completions):
            assert a.token_ids == b.token_ids
            torch.testing.assert_close(a.sampled_logps, b.sampled_logps, atol=tolerance, rtol=0)
    print(engine.stats.notes, engine.stats.replayed)
""")


ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "one arena": {"MALLOC_ARENA_MAX": "1"},
    "maps": {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed leaves the address space at once
    "heap": {"MALLOC_MMAP_THRESHOLD_": "1000000000"},  # it does only at the top of the heap
    # it never does, and by default keeps what it freed in pieces, so that fewer rows free no room: see docs/resilience.md
    "jemalloc": {"LD_PRELOAD": find_library("jemalloc") or "", "MALLOC_CONF": "retain:false"},
    "tcmalloc": {"LD_PRELOAD": find_library("tcmalloc_minimal") or ""},
}


def run_out_of_memory(
    mebibytes: int, *, threads: int = 1, allocator: str = "default"
) -> subprocess.CompletedProcess[str]:
    """Sample with that much address space to spare, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(mebibytes), str(threads)],
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATORS[allocator]},
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_when_memory_runs_out_fewer_are_decoded_and_nothing_is_lost(threads, allocator):
    """Keys and values of all rows take 192 MiB, and moving them to wider buckets 128 MiB more.

    How much of that the process can take from what it freed before depends on the allocator and on the threads, so
    the room is narrowed until it does not suffice.
    """
    if ALLOCATORS[allocator].get("LD_PRELOAD") == "":
        pytest.skip(f"{allocator} is not installed")
    for mebibytes in (200, 160, 130, 105, 85, 70):
        done = run_out_of_memory(mebibytes, threads=threads, allocator=allocator)
        assert done.returncode == 0, (mebibytes, done.stderr[-2000:])
        if "memory ran out; continuing with" in done.stdout:
            break
    assert "memory ran out; continuing with" in done.stdout and "nothing is lost" in done.stdout


@pytest.mark.slow
def test_when_there_is_no_memory_for_a_handful_the_error_is_not_hidden():
    done = run_out_of_memory(8)
    assert done.returncode == 1 and any(
        message in done.stderr for message in (*OOM_MESSAGES, "MemoryError")
    )


class Refusing:
    """Refuses the calls of a product that have these numbers, from the engine's measuring of a token (1) on."""

    def __init__(self, calls: Collection[int]):
        self.calls = calls
        self.number = 0

    def __call__(self, module, args):
        self.number += 1
        if self.number in self.calls:
            raise MemoryError("12 MiB are left of this process's limit of memory")


@pytest.mark.parametrize(
    "calls, rows",
    [([2], 8), ([3], 8), ([12], 8), ([2, 3], 4), ([2, 12, 14, 16], 1), ([12, 14, 16, 20], 1)],
    ids=str,
)
@pytest.mark.thin(2)
def test_whichever_product_refuses_rows_shrink_and_nothing_is_lost(calls, rows, seed, monkeypatch):
    """Prefill (2), the first step (3), steps of packed weights (12), one after another: down to a single row."""
    policy, prompts = endless(seed, vocabulary=640), random_prompts(seed, SIZES)
    expected = sample(Engine(policy), prompts, group_size=2, max_tokens=40)
    monkeypatch.setattr(contiguous_decoder, "PACK_AFTER", 3)
    engine = Engine(policy)
    product = policy.base.model.layers[1].mlp.down_proj
    hook = product.register_forward_pre_hook(Refusing(calls))
    sampled = sample(engine, prompts, group_size=2, max_tokens=40)
    hook.remove()
    assert_same(sampled, expected)
    assert len(engine.stats.notes) == len(calls)
    assert f"continuing with {rows} completion" in engine.stats.notes[-1]


def test_a_product_that_refuses_a_single_row_is_an_error(seed):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    engine = Engine(policy)
    product = policy.base.model.layers[1].mlp.down_proj
    product.register_forward_pre_hook(Refusing(range(2, 1000)))
    with pytest.raises(MemoryError, match="12 MiB are left"):
        sample(engine, prompts)
    assert "continuing with 1 completion at a time" in engine.stats.notes[-1]


# ----------------------------------------------------------------------------- cancelled, partial groups


@pytest.mark.usefixtures("kernels")
def test_a_cancelled_group_is_delivered_at_once_and_the_others_do_not_notice(seed):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    expected = sample(Engine(policy), prompts)
    engine, sampled = Engine(policy, max_rows=8), {}
    for group_index, group in engine.sample(
        prompts, group_size=3, max_tokens=90, sampling=Sampling(), seed=(0,)
    ):
        if not sampled:
            engine.cancel(6)
            engine.cancel(7)
        sampled[group_index] = group
    assert sampled.keys() == expected.keys()
    ends = [c.finish for group_index in (6, 7) for c in sampled[group_index].completions]
    assert "cancelled" in ends and not any(
        c.finish == "cancelled" for p in range(6) for c in sampled[p].completions
    )
    for group_index, group in sampled.items():
        for c, whole in zip(group.completions, expected[group_index].completions):
            assert (
                same(c, whole)
                or c.finish == "cancelled"
                and c.token_ids == whole.token_ids[: len(c.token_ids)]
            )
    assert engine.stats.tokens == sum(
        len(c.token_ids) for group in sampled.values() for c in group.completions
    )


def resumed(engine: Engine, prompts, enough: int) -> tuple[dict[str, Group], int]:
    """All groups by prompt id, sampled in as many calls as it takes; nothing new is drawn."""
    sampled, calls, partial_groups, waiting = {}, 0, [], list(prompts)
    while waiting or partial_groups:
        names = [group.prompt.id for group in partial_groups] + [prompt.id for prompt in waiting]
        groups = dict(
            engine.sample(
                waiting,
                group_size=3,
                max_tokens=90,
                sampling=Sampling(),
                seed=("s", calls),
                enough=enough,
                partial_groups=partial_groups,
            )
        )
        sampled |= {names[group_index]: group for group_index, group in groups.items()}
        assert len(groups) >= min(enough, len(names)) and len(groups) + len(
            engine.partial_groups
        ) == len(names)
        partial_groups, waiting, calls = engine.partial_groups, [], calls + 1
    return sampled, calls


@pytest.mark.usefixtures("kernels")
def test_partial_groups_resume_as_if_nothing_had_happened(seed):
    """With the same weights the tokens are those of one call; log-probs agree to rounding, for keys are made anew."""
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    whole = {
        prompts[group_index].id: group
        for group_index, group in Engine(policy).sample(
            prompts, group_size=3, max_tokens=90, sampling=Sampling(), seed=("s", 0)
        )
    }
    sampled, calls = resumed(Engine(policy, max_rows=16), prompts, 2)
    assert calls >= 2 and sampled.keys() == whole.keys()
    for name, group in sampled.items():
        for c, other in zip(group.completions, whole[name].completions):
            assert c.token_ids == other.token_ids and (c.text, c.finish, c.stop) == (
                other.text,
                other.finish,
                other.stop,
            )
            torch.testing.assert_close(c.sampled_logps, other.sampled_logps, atol=1e-5, rtol=0)
            assert [span[1:] for span in c.versions] == (
                [(0, len(c.token_ids))]
                if len(c.versions) == 1
                else [span[1:] for span in c.versions]
            )


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_resumed_tokens_keep_their_logps_and_their_version_and_new_ones_come_from_the_new_weights(
    seed,
):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset()
    engine = Engine(policy, max_rows=8)

    def limit(prompt, index):
        return 60 + 10 * index

    sample(engine, prompts, enough=1, max_tokens=limit)
    before = {group.prompt.id: group for group in engine.partial_groups}
    assert any(
        c.finish == "cancelled" and c.token_ids
        for group in before.values()
        for c in group.completions
    )
    assert any(not c.token_ids for group in before.values() for c in group.completions)
    for p in policy.model.parameters():
        p.mul_(1.05)
    policy.weights_changed()
    after = dict(
        engine.sample(
            [],
            group_size=3,
            max_tokens=limit,
            sampling=Sampling(),
            seed=(1,),
            partial_groups=engine.partial_groups,
        )
    )
    assert len(after) == len(before) and not engine.partial_groups
    seen = 0
    for group in after.values():
        for index, (c, old) in enumerate(
            zip(group.completions, before[group.prompt.id].completions)
        ):
            known, whole = len(old.token_ids), 60 + 10 * index
            assert c.token_ids[:known] == old.token_ids and len(c.token_ids) == whole
            assert torch.equal(c.sampled_logps[:known], old.sampled_logps)
            spans = [(0, 0, known), (1, known, whole)]
            assert list(c.versions) == [span for span in spans if span[1] < span[2]]
            seen += 0 < known < whole
            new = plain_logits(policy, group.prompt.token_ids, c.token_ids)[known:].log_softmax(-1)
            taken = new.gather(-1, torch.tensor(c.token_ids[known:])[:, None])[:, 0]
            torch.testing.assert_close(c.sampled_logps[known:], taken, atol=1e-5, rtol=0)
    assert seen


@pytest.mark.usefixtures("kernels")
def test_partial_groups_survive_a_checkpoint(seed):
    import json

    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    engine = Engine(policy, max_rows=8)
    sample(engine, prompts, enough=3, sampling=Sampling(top_p=0.9))
    written = json.loads(json.dumps([group.to_mapping() for group in engine.partial_groups]))
    read = [
        PartialGroup.from_mapping(values, {prompt.id: prompt for prompt in prompts})
        for values in written
    ]
    options = dict(group_size=3, max_tokens=90, sampling=Sampling(top_p=0.9), seed=(1,))
    one, other = (
        dict(Engine(policy).sample([], partial_groups=groups, **options))
        for groups in (engine.partial_groups, read)
    )
    assert_same(one, other)
    assert all(
        torch.equal(a.log_kept, b.log_kept) and a.versions == b.versions
        for p in one
        for a, b in zip(one[p].completions, other[p].completions)
    )


def test_enough_is_enough_also_where_groups_end_together(seed):
    policy, prompts = endless(seed), random_prompts(seed, [5] * 6)
    policy.stop_ids = frozenset()
    engine = Engine(policy)
    sampled = sample(engine, prompts, enough=4, max_tokens=7)
    assert (
        len(sampled) == 6 and not engine.partial_groups
    )  # all ended in the same step: nothing is unfinished


def test_a_group_of_a_one_token_prompt_can_be_resumed(seed):
    policy = endless(seed)
    policy.stop_ids = frozenset()
    prompts = [Prompt("long", (5,), {}), Prompt("short", (6,), {})]
    engine = Engine(policy)
    limits = {"long": 60, "short": 5}
    options = dict(
        group_size=2,
        max_tokens=lambda prompt, index: limits[prompt.id],
        sampling=Sampling(),
        seed=(0,),
    )
    assert [group_index for group_index, _ in engine.sample(prompts, enough=1, **options)] == [1]
    (partial,) = engine.partial_groups
    assert all(len(c.token_ids) in (5, 6) for c in partial.completions)
    ((_, group),) = engine.sample([], partial_groups=[partial], **options)
    whole = dict(Engine(policy).sample(prompts[:1], **options))[0]
    assert [c.token_ids for c in group.completions] == [c.token_ids for c in whole.completions]


@pytest.mark.skipif(not linear.available(), reason="torch's own products are the fast ones here")
def test_packed_weights_live_as_long_as_a_call_and_change_no_bit(seed, monkeypatch):
    monkeypatch.setattr(linear, "min_weight_size", lambda: 128 * 128)
    policy, prompts = tiny_policy("qwen2", seed, vocabulary=640), random_prompts(seed, [5, 40])
    policy.stop_ids = frozenset()
    engine = Engine(policy)

    def packed() -> int:
        return sum("packed" in module.__dict__ for module in policy.model.modules())

    monkeypatch.setattr(contiguous_decoder, "PACK_AFTER", 10**9)
    expected = sample(engine, prompts)
    monkeypatch.setattr(contiguous_decoder, "PACK_AFTER", 16)
    begun = engine.sample(
        prompts,
        group_size=3,
        sampling=Sampling(),
        seed=(0,),
        max_tokens=lambda prompt, index: 20 if prompt is prompts[0] else 90,
    )
    next(begun)
    assert packed()
    begun.close()
    assert not packed()
    assert_same(sample(engine, prompts), expected)
    assert not packed()
