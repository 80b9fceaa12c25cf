"""The engine under a budget of memory, with limits of their own, with groups cancelled, and groups carried over."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from tiny import plain_logits, random_prompts, tiny_policy, wide_heads

from grpo.kernels import linear
from grpo.rollout import contiguous_decoder
from grpo.rollout.engine import Engine
from grpo.rollout.memory import OOM_MESSAGES
from grpo.rollout.sampling import Sampling
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
    for place, group in some.items():
        assert all(same(a, b) for a, b in zip(group.completions, others[place].completions)), place


# ------------------------------------------------------------------------------------ limits and order


def test_each_completion_may_have_a_limit_of_its_own(seed):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset()
    found = sample(
        Engine(policy),
        prompts,
        max_tokens=lambda prompt, index: len(prompt.token_ids) % 7 + 5 * index + 1,
    )
    for place, group in found.items():
        for index, c in enumerate(group.completions):
            assert len(c.token_ids) == SIZES[place] % 7 + 5 * index + 1 and c.finish == "length"


def test_prompts_that_took_longest_before_begin_first_and_change_no_token(seed):
    policy, prompts = endless(seed), random_prompts(seed, [5] * 6)
    policy.stop_ids = frozenset()
    engine = Engine(policy, max_rows=8)

    def limit(prompt, index):
        return 10 * (int(prompt.id[1:]) + 1)

    first = list(
        engine.sample(prompts, group_size=8, max_tokens=limit, sampling=Sampling(), seed=(0,))
    )
    assert [place for place, _ in first] == [0, 1, 2, 3, 4, 5]
    assert engine.expected == {f"p{i}": 10 * (i + 1) for i in range(6)}
    second = list(
        engine.sample(prompts, group_size=8, max_tokens=limit, sampling=Sampling(), seed=(0,))
    )
    assert [place for place, _ in second] == [5, 4, 3, 2, 1, 0]
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
def test_a_budget_changes_who_waits_and_no_bit(tokens, seed):
    """Drafts lose their slots in the middle and are fed their own tokens again."""
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset({2}) if seed % 2 else frozenset()
    free = Engine(policy)
    expected = sample(free, prompts)
    token_bytes = 2 * 2 * 2 * 16 * 4  # layers, keys and values, kv heads, width, fp32
    assert free.stats.replayed == 0 and free.stats.kv_bytes > 2000 * token_bytes
    engine = Engine(policy, kv_memory_gib=tokens * token_bytes / 2**30)
    assert_same(sample(engine, prompts), expected)
    assert engine.stats.steps > free.stats.steps
    alone = 320 * token_bytes  # one completion and its prompt may always go on
    assert engine.stats.tokens == free.stats.tokens
    assert engine.stats.kv_bytes <= max(tokens * token_bytes + 24 * 64 * token_bytes, alone)


@pytest.mark.usefixtures("kernels")
def test_drafts_that_lose_their_slots_are_counted_as_replayed(seed):
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
    torch.set_num_threads(1)
    from tiny import random_prompts, tiny_policy
    from grpo.rollout.engine import Engine
    from grpo.rollout.sampling import Sampling

    policy = tiny_policy("llama", 0, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, head_dim=256,
                         max_position_embeddings=2048)
    policy.stop_ids = frozenset()
    prompts = random_prompts(0, [100] * 8)
    options = dict(group_size=8, max_tokens=120, sampling=Sampling(), seed=(0,))
    few = {p: g for p, g in Engine(policy, max_rows=8).sample(prompts, **options)}
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
    engine = Engine(policy, max_rows=64)
    found = {p: g for p, g in engine.sample(prompts, **options)}
    assert all(a.token_ids == b.token_ids and torch.equal(a.sampled_logps, b.sampled_logps)
               for p in few for a, b in zip(few[p].completions, found[p].completions))
    print(engine.stats.notes, engine.stats.replayed)
""")


def test_when_memory_runs_out_fewer_are_decoded_and_nothing_is_lost():
    """The address space of a process of its own is limited; keys and values of all rows would take 256 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, "200"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "memory ran out; continuing with" in done.stdout and "nothing is lost" in done.stdout


@pytest.mark.slow
def test_when_there_is_no_memory_for_a_handful_the_error_is_not_hidden():
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, "8"], capture_output=True, text=True
    )
    assert done.returncode == 1 and any(
        words in done.stderr for words in (*OOM_MESSAGES, "MemoryError")
    )


# --------------------------------------------------------------------------------- cancelled, carried over


@pytest.mark.usefixtures("kernels")
def test_a_cancelled_group_is_delivered_at_once_and_the_others_do_not_notice(seed):
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    expected = sample(Engine(policy), prompts)
    engine, found = Engine(policy, max_rows=8), {}
    for place, group in engine.sample(
        prompts, group_size=3, max_tokens=90, sampling=Sampling(), seed=(0,)
    ):
        if not found:
            engine.cancel(6)
            engine.cancel(7)
        found[place] = group
    assert found.keys() == expected.keys()
    ends = [c.finish for place in (6, 7) for c in found[place].completions]
    assert "cancelled" in ends and not any(
        c.finish == "cancelled" for p in range(6) for c in found[p].completions
    )
    for place, group in found.items():
        for c, whole in zip(group.completions, expected[place].completions):
            assert (
                same(c, whole)
                or c.finish == "cancelled"
                and c.token_ids == whole.token_ids[: len(c.token_ids)]
            )
    assert engine.stats.tokens == sum(
        len(c.token_ids) for group in found.values() for c in group.completions
    )


def carried_on(engine: Engine, prompts, enough: int) -> tuple[dict[str, Group], int]:
    """All groups by prompt id, sampled in as many calls as it takes; nothing new is drawn."""
    found, calls, carried, waiting = {}, 0, [], list(prompts)
    while waiting or carried:
        names = [group.prompt.id for group in carried] + [prompt.id for prompt in waiting]
        groups = dict(
            engine.sample(
                waiting,
                group_size=3,
                max_tokens=90,
                sampling=Sampling(),
                seed=("s", calls),
                enough=enough,
                partial_groups=carried,
            )
        )
        found |= {names[place]: group for place, group in groups.items()}
        assert len(groups) >= min(enough, len(names)) and len(groups) + len(
            engine.partial_groups
        ) == len(names)
        carried, waiting, calls = engine.partial_groups, [], calls + 1
    return found, calls


@pytest.mark.usefixtures("kernels")
def test_what_is_carried_over_goes_on_as_if_nothing_had_happened(seed):
    """With the same weights the tokens are those of one call; log-probs agree to rounding, for keys are made anew."""
    policy, prompts = endless(seed), random_prompts(seed, SIZES)
    whole = {
        prompts[place].id: group
        for place, group in Engine(policy).sample(
            prompts, group_size=3, max_tokens=90, sampling=Sampling(), seed=("s", 0)
        )
    }
    found, calls = carried_on(Engine(policy, max_rows=16), prompts, 2)
    assert calls >= 2 and found.keys() == whole.keys()
    for name, group in found.items():
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
def test_carried_tokens_keep_their_logps_and_their_version_and_new_ones_come_from_the_new_weights(
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
def test_carried_groups_survive_being_written_down(seed):
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
    found = sample(engine, prompts, enough=4, max_tokens=7)
    assert (
        len(found) == 6 and not engine.partial_groups
    )  # all ended in the same step: nothing is unfinished


def test_a_prompt_of_one_token_can_be_carried(seed):
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
    assert [place for place, _ in engine.sample(prompts, enough=1, **options)] == [1]
    (carried,) = engine.partial_groups
    assert all(len(c.token_ids) in (5, 6) for c in carried.completions)
    ((_, group),) = engine.sample([], partial_groups=[carried], **options)
    whole = dict(Engine(policy).sample(prompts[:1], **options))[0]
    assert [c.token_ids for c in group.completions] == [c.token_ids for c in whole.completions]


@pytest.mark.skipif(not linear.available(), reason="torch's own products are the fast ones here")
def test_packed_weights_live_as_long_as_a_call_and_change_no_bit(seed, monkeypatch):
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
