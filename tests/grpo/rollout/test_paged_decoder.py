"""The paged decoder, eagerly on a CPU: the completions that the contiguous decoder samples."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, plain_logits, plain_model, random_prompts, tiny_policy

from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine, EngineFailed

SIZES = [9, 30, 1, 140, 64, 65, 5]


def sample(
    policy,
    prompts,
    *,
    paged=True,
    max_rows=256,
    stop=(),
    budget=None,
    deterministic=False,
    **options,
):
    engine = Engine(
        policy,
        paged=paged,
        max_rows=max_rows,
        stop=stop,
        kv_memory_gib=budget,
        deterministic=deterministic,
    )
    options = {"group_size": 3, "max_tokens": 70, "sampling": Sampling(), "seed": (0,), **options}
    return dict(engine.sample(prompts, **options)), engine


def assert_alike(sampled, expected, tolerance=1e-5):
    assert sampled.keys() == expected.keys()
    for group_index, group in expected.items():
        for c, other in zip(sampled[group_index].completions, group.completions):
            assert (c.token_ids, c.finish, c.stop, c.text) == (
                other.token_ids,
                other.finish,
                other.stop,
                other.text,
            )
            torch.testing.assert_close(c.sampled_logps, other.sampled_logps, atol=tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.thin(7)
def test_sampled_logps_equal_those_of_a_plain_forward(family, lora, seed):
    policy = tiny_policy(family, seed, lora=lora)
    policy.stop_ids = frozenset()
    prompts = random_prompts(seed, [1, 64, 150])
    plain, longest = plain_model(policy), 0
    for group_index, group in sample(policy, prompts, group_size=2)[0].items():
        for c in group.completions:
            logits = plain_logits(policy, prompts[group_index].token_ids, c.token_ids, plain)
            taken = logits.log_softmax(-1).gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(c.sampled_logps, taken, atol=1e-5, rtol=0)
            longest = max(longest, len(c.token_ids))
    assert longest > 20


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0), Sampling(0.8, 20, 0.9, 0.02)], ids=str
)
@pytest.mark.parametrize("max_rows", [8, 64])
@pytest.mark.thin(3)
def test_both_decoders_sample_the_same_completions(sampling, max_rows, seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    expected, _ = sample(policy, prompts, paged=False, sampling=sampling)
    sampled, engine = sample(policy, prompts, max_rows=max_rows, sampling=sampling)
    assert_alike(sampled, expected)
    assert engine.stats.tokens == sum(
        len(c.token_ids) for g in sampled.values() for c in g.completions
    )


def test_stop_strings_limits_and_context_end_completions_as_in_the_contiguous_decoder(seed):
    policy, prompts = (
        tiny_policy("llama", seed, peak=1.5, max_position_embeddings=160),
        random_prompts(seed, SIZES),
    )
    options = dict(stop=["ab", "c"], max_tokens=lambda prompt, index: 5 + 11 * index)
    sampled, expected = (
        sample(policy, prompts, paged=paged, **options)[0] for paged in (True, False)
    )
    assert_alike(sampled, expected)
    ends = {c.stop for g in sampled.values() for c in g.completions if c.finish == "stop"}
    assert ends & {"ab", "c"} and {"length"} <= {
        c.finish for g in sampled.values() for c in g.completions
    }


@pytest.mark.parametrize("pages", [20, 1, 25, 45])
@pytest.mark.thin(1)
def test_sequences_that_lose_their_pages_continue_and_are_counted_whole(pages, seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset()
    expected, _ = sample(policy, prompts, paged=False, max_tokens=150)
    sampled, engine = sample(policy, prompts, budget=pages * 64 * 256 / 2**30, max_tokens=150)
    assert_alike(sampled, expected)
    assert engine.stats.replayed or pages in (1, 45)
    assert engine.stats.tokens == 150 * 3 * len(prompts)
    assert {c.versions for group in sampled.values() for c in group.completions} == {((0, 0, 150),)}
    assert engine.stats.kv_bytes <= max(pages, 8) * 64 * 256


def test_groups_are_cancelled_and_resumed(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    policy.stop_ids = frozenset({2})
    expected, _ = sample(policy, prompts, paged=False, seed=("s", 0))
    engine, sampled = Engine(policy, paged=True, max_rows=16), {}
    options = dict(group_size=3, max_tokens=70, sampling=Sampling(), seed=("s", 0), enough=3)
    names = [prompt.id for prompt in prompts]
    groups, partial_groups = dict(engine.sample(prompts, **options)), []
    while True:
        sampled |= {names.index(group.prompt.id): group for group in groups.values()}
        partial_groups = engine.partial_groups
        if not partial_groups:
            break
        groups = dict(engine.sample([], partial_groups=partial_groups, **options))
    assert_alike(sampled, expected)
    calls = iter(range(1000))
    cut, _ = sample(
        policy, prompts, seed=("s", 0), max_rows=8, interrupted=lambda: next(calls) >= 2
    )
    finishes = [c.finish for group in cut.values() for c in group.completions]
    assert "cancelled" in finishes and cut.keys() == expected.keys()
    for group_index, group in cut.items():
        for c, whole in zip(group.completions, expected[group_index].completions):
            assert c.token_ids == whole.token_ids[: len(c.token_ids)]


def test_deterministic_steps_compute_the_same_rows_however_few_are_alive(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    sampled, engine = sample(policy, prompts, deterministic=True, max_rows=16)
    again, _ = sample(policy, prompts[::-1], deterministic=True, max_rows=16)
    assert engine.stats.rows_computed == 16 * engine.stats.steps
    for group_index, group in sampled.items():
        for c, other in zip(group.completions, again[len(prompts) - 1 - group_index].completions):
            assert c.token_ids == other.token_ids and torch.equal(
                c.sampled_logps, other.sampled_logps
            )


def test_a_row_that_turns_nan_fails_alone(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, [9, 70, 30])
    with torch.no_grad():
        policy.model.model.embed_tokens.weight[50] = torch.nan
    expected, _ = sample(policy, prompts, paged=False)
    sampled, _ = sample(policy, prompts)
    assert_alike(sampled, expected, tolerance=1e-5)


def test_a_kept_pool_serves_the_next_run_at_the_same_addresses_and_reads_no_old_keys(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    engine = Engine(policy, paged=True, keep=True, max_rows=16)
    options = dict(group_size=3, sampling=Sampling(), seed=(0,))
    first = dict(engine.sample(prompts, max_tokens=70, **options))
    addresses = engine._paged_decoder.pool.step.addresses()
    for _ in engine.sample(prompts[::-1], max_tokens=60, **options):
        break  # left in the middle
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1.1)
    policy.weights_changed()
    second = dict(engine.sample(prompts[1:], max_tokens=50, **options))
    assert engine._paged_decoder.pool.step.addresses() == addresses
    assert_alike(second, sample(policy, prompts[1:], paged=False, max_tokens=50)[0])
    assert any(
        a.token_ids[:50] != b.token_ids
        for group_index, group in second.items()
        for a, b in zip(first[group_index + 1].completions, group.completions)
    )
    engine.release()
    assert_alike(
        dict(engine.sample(prompts, max_tokens=90, **options)),
        sample(policy, prompts, paged=False, max_tokens=90)[0],
    )


class Device:
    """A device whose memory holds no more than `rows` rows and `pages` pages: a layer asked for more has none."""

    def __init__(self, policy, engine, rows=10**9, pages=10**9, failing=()):
        self.engine, self.rows, self.pages, self.failing, self.calls, self.raised = (
            engine,
            rows,
            pages,
            failing,
            0,
            0,
        )
        policy.base.model.layers[1].register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, layer, args, kwargs):
        paging, rows = self.engine._paged_decoder, args[0].shape[0]
        if paging is None:  # a token's size is being measured
            return
        self.calls += 1
        if (
            rows > self.rows
            or paging.pool.cache.num_pages > self.pages
            or self.calls in self.failing
        ):
            self.raised += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "limits", [{"rows": 8}, {"pages": 40}, {"failing": (1, 2)}, {"failing": (9, 30)}], ids=str
)
@pytest.mark.thin(1)
def test_where_the_devices_memory_runs_out_fewer_rows_write_the_same_completions(limits, seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, SIZES)
    options = dict(group_size=6, max_tokens=50, sampling=Sampling(0.9, 30), seed=(0,))
    expected, _ = sample(policy, prompts, paged=False, **options)
    engine = Engine(policy, paged=True, max_rows=64)
    device = Device(policy, engine, **limits)
    sampled = dict(engine.sample(prompts, **options))
    assert_alike(sampled, expected)
    assert device.raised == len(engine.stats.notes) > 0
    rows = engine._paged_decoder.most_rows
    assert (
        rows <= limits.get("rows", 32)
        and f"continuing with {rows} completion" in engine.stats.notes[-1]
    )
    assert engine.stats.tokens == sum(
        len(c.token_ids) for g in sampled.values() for c in g.completions
    )
    assert all(
        c.versions == ((0, 0, len(c.token_ids)),) for g in sampled.values() for c in g.completions
    )
    again = dict(engine.sample(prompts, **options))
    assert_alike(again, expected)
    assert not engine.stats.notes or limits.get("failing"), "the smaller layout is kept"


def test_too_little_memory_for_the_fewest_rows_is_an_error(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, SIZES)
    engine = Engine(policy, paged=True, max_rows=16)
    device = Device(policy, engine, pages=0)
    with pytest.raises(torch.OutOfMemoryError):
        dict(engine.sample(prompts, group_size=3, max_tokens=70, sampling=Sampling(), seed=(0,)))
    assert device.raised > 2
    policy.base.model.layers[1].register_forward_pre_hook(broken := lambda *_: 1 / 0)
    device.pages = 10**9
    with pytest.raises(EngineFailed, match="ZeroDivisionError"):
        dict(engine.sample(prompts, group_size=3, max_tokens=70, sampling=Sampling(), seed=(0,)))
    assert broken and not engine.stats.notes
