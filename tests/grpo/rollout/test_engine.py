"""The embedded engine against plain forwards, and its completions against everything they must not depend on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
import torch
from tiny import (
    FAMILIES,
    byte_tokenizer,
    parrot_policy,
    plain_logits,
    plain_model,
    plain_processed,
    random_prompts,
    tiny_tokenizer,
    wide_heads,
)
from tiny import tiny_policy as narrow_policy

from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.contiguous_cache import ContiguousCache
from grpo.rollout.contiguous_decoder import row_multiple
from grpo.rollout.engine import Engine
from grpo.types import Completion, Prompt

pytestmark = pytest.mark.usefixtures("kernels")
NEAR = 2e-5  # in fp32: 6e-6 at most over sixteen seeds of three families, and each side is 5e-6 off float64
WITH_ADAPTERS = 4e-5  # as large as the tests' are, they amplify rounding: 2e-5 were seen
PLAIN = Sampling()
FILTERED = Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02)


KERNELS = ("native", "torch")
SCENES = ("llama", "gemma3_text", "gemma2", "mixtral")


def pairwise(names: str, families: Iterable[str], others: Sequence[object] = (0,), offset: int = 0):
    """`names` (families, perhaps others, kernels): every pair of values in the fast suite, all triples in the slow."""
    cases = []
    for i, family in enumerate(families):
        for j, other in enumerate(others):
            for k, kernels in enumerate(KERNELS):
                values = (family, other, kernels) if len(others) > 1 else (family, kernels)
                is_fast = (i + j + k + offset) % 2 == 0
                marks = () if is_fast else pytest.mark.slow
                cases.append(pytest.param(*values, marks=marks))
    return pytest.mark.parametrize(names, cases, indirect=["kernels"])


def tiny_policy(family: str = "llama", seed: int = 0, **options):
    return narrow_policy(family, seed, **{**wide_heads(family), **options})


def groups(
    policy,
    prompts,
    *,
    group_size=2,
    max_tokens=40,
    sampling=PLAIN,
    seed=(0,),
    stop=(),
    max_rows=256,
    interrupted=lambda: False,
) -> dict[int, tuple[Completion, ...]]:
    engine = Engine(policy, max_rows=max_rows, stop=stop)
    sampled = list(
        engine.sample(
            prompts,
            group_size=group_size,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed,
            interrupted=interrupted,
        )
    )
    assert sorted(group_index for group_index, _ in sampled) == list(range(len(prompts)))
    assert all(
        group.prompt is prompts[group_index] and len(group.completions) == group_size
        for group_index, group in sampled
    )
    return {group_index: group.completions for group_index, group in sampled}


def completions(policy, prompts, **options) -> dict[str, tuple[Completion, ...]]:
    return {
        prompts[group_index].id: group
        for group_index, group in groups(policy, prompts, **options).items()
    }


def assert_same(one: Completion, other: Completion) -> None:
    assert one.token_ids == other.token_ids
    assert torch.equal(one.sampled_logps, other.sampled_logps)
    assert (one.text, one.finish, one.stop) == (other.text, other.finish, other.stop)


def taken(logp_TV, token_ids):
    return logp_TV.gather(-1, torch.tensor(token_ids)[:, None])[:, 0]


# ------------------------------------------------------------------------------- against plain forwards


@torch.no_grad()
def worst_difference(policy, prompts, sampling, **options) -> tuple[float, int]:
    """The largest |sampled_logp - plain forward's| over all tokens, and the longest sequence."""
    plain, worst, longest = plain_model(policy), 0.0, 0
    for group_index, group in groups(policy, prompts, sampling=sampling, **options).items():
        for c in group:
            logits = plain_logits(policy, prompts[group_index].token_ids, c.token_ids, plain)
            logp = taken((logits / (sampling.temperature or 1)).log_softmax(-1), c.token_ids)
            own = c.sampled_logps if c.log_kept is None else c.sampled_logps + c.log_kept
            assert own.dtype == torch.float32 and len(own) == len(c.token_ids)
            worst = max(worst, (own - logp).abs().max().item())
            longest = max(longest, len(prompts[group_index].token_ids) + len(c.token_ids))
    return worst, longest


@pairwise("family, kernels", FAMILIES)
@pytest.mark.thin(9)
def test_sampled_logps_equal_those_of_a_plain_forward(family, seed):
    policy = tiny_policy(family, seed)
    policy.stop_ids = frozenset({2})
    worst, longest = worst_difference(
        policy, random_prompts(seed, [1, 2, 30, 63, 64, 65, 128, 150]), PLAIN, max_tokens=75
    )
    assert worst <= NEAR and longest > 150


@pairwise("family, kernels", FAMILIES, offset=1)
@pytest.mark.thin(5)
def test_sampled_logps_equal_those_of_a_plain_forward_with_live_adapters(family, seed):
    policy = tiny_policy(family, seed, lora=True)
    prompts = random_prompts(seed, [1, 30, 65, 140])
    assert worst_difference(policy, prompts, PLAIN, max_tokens=70)[0] <= WITH_ADAPTERS
    logits = plain_logits(policy, prompts[1].token_ids, prompts[2].token_ids)
    with policy.model.disable_adapter():  # the adapters do change what is said
        assert (
            plain_logits(policy, prompts[1].token_ids, prompts[2].token_ids) - logits
        ).abs().max() > 0.1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.6),
        Sampling(temperature=0),
        FILTERED,
        Sampling(top_k=3),
        Sampling(top_p=0.5),
        Sampling(min_p=0.2),
    ],
    ids=str,
)
@pytest.mark.thin(9)
def test_sampled_logps_equal_those_of_a_plain_forward_under_temperature_and_filters(sampling, seed):
    policy = tiny_policy("qwen3", seed)
    assert (
        worst_difference(policy, random_prompts(seed, [1, 30, 65]), sampling, max_tokens=70)[0]
        <= NEAR
    )


@torch.no_grad()
def test_filtered_logps_are_those_of_the_processed_distribution(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [3, 20])
    plain = plain_model(policy)
    for group_index, group in groups(policy, prompts, sampling=FILTERED, max_tokens=30).items():
        for c in group:
            logits = plain_logits(policy, prompts[group_index].token_ids, c.token_ids, plain)
            logp = taken(
                torch.stack([plain_processed(row, FILTERED) for row in logits]), c.token_ids
            )
            torch.testing.assert_close(c.sampled_logps.double(), logp, atol=NEAR, rtol=0)
            assert (c.log_kept <= 1e-6).all() and (c.log_kept < -1e-3).any()


def test_without_filters_there_is_no_kept_mass_to_report(seed):
    (group,) = groups(tiny_policy("llama", seed), random_prompts(seed, [3])).values()
    assert all(c.log_kept is None for c in group)


def test_a_sliding_window_really_cuts_what_these_models_see(seed):
    (prompt,) = random_prompts(seed, [60])
    for family in ("gemma3_text", "gemma2", "mistral"):
        windowed, wide = tiny_policy(family, seed), tiny_policy(family, seed, sliding_window=500)
        one, other = (plain_logits(p, prompt.token_ids, (5,)) for p in (windowed, wide))
        assert (one - other).abs().max() > 0.1


def test_sequences_of_many_blocks_are_summed_right(seed):
    policy = tiny_policy("llama", seed, max_position_embeddings=2048)
    policy.stop_ids = frozenset()
    prompts = random_prompts(seed, [1100, 1016, 1])
    worst, longest = worst_difference(policy, prompts, PLAIN, group_size=1, max_tokens=20)
    assert worst <= NEAR and longest == 1120


# ------------------------------------------------------------------- what a completion does not depend on


@pytest.fixture(scope="module")
def scenes() -> dict:
    """The scenes that were made, by what they were made from."""
    return {}


@pytest.fixture
def scene(family, kernels, seed, scenes):
    """(policy, prompts of many lengths, their completions)"""
    key = (family, kernels, seed)
    if key not in scenes:
        policy = tiny_policy(family, seed)
        lengths = random.Random(seed).choices([1, 2, 5, 17, 40, 64, 65, 127, 129, 200], k=9)
        prompts = random_prompts(seed, lengths)
        sampled = completions(policy, prompts, group_size=3, max_tokens=70)
        scenes[key] = policy, prompts, sampled
    return scenes[key]


def assert_same_groups(some: dict, all_of_them: dict) -> None:
    for name, group in some.items():
        for one, other in zip(group, all_of_them[name]):
            assert_same(one, other)


@pairwise("family, kernels", SCENES)
def test_completions_have_the_same_bits_in_another_order_of_prompts(scene):
    policy, prompts, expected = scene
    assert_same_groups(completions(policy, prompts[::-1], group_size=3, max_tokens=70), expected)


@pairwise("family, max_rows, kernels", SCENES, [1, 16])
@pytest.mark.thin(4)
def test_completions_have_the_same_bits_however_many_are_decoded_at_once(scene, max_rows):
    policy, prompts, expected = scene
    assert_same_groups(
        completions(policy, prompts, group_size=3, max_tokens=70, max_rows=max_rows), expected
    )


@pairwise("family, kernels", SCENES)
def test_completions_have_the_same_bits_alone_as_among_others(scene):
    policy, prompts, expected = scene
    for prompt in prompts[:4]:
        assert_same_groups(completions(policy, [prompt], group_size=1, max_tokens=70), expected)


@pairwise("family, kernels", SCENES)
def test_the_first_completions_of_a_bigger_group_are_those_of_a_smaller_one(scene):
    policy, prompts, expected = scene
    bigger = completions(policy, prompts, group_size=5, max_tokens=70)
    assert_same_groups(expected, bigger)


@pairwise("family, kernels", SCENES)
def test_a_shorter_limit_only_cuts(scene):
    policy, prompts, expected = scene
    for name, group in completions(policy, prompts, group_size=3, max_tokens=20).items():
        for short, long in zip(group, expected[name]):
            assert short.token_ids == long.token_ids[:20]
            assert torch.equal(short.sampled_logps, long.sampled_logps[:20])


def assert_same_tokens(some: dict, others: dict) -> None:
    assert some.keys() == others.keys()
    for name, group in some.items():
        assert [c.token_ids for c in group] == [c.token_ids for c in others[name]]


@pairwise("family, kernels", SCENES)
@pytest.mark.thin(2)
def test_a_second_thread_changes_no_token(scene, threads):
    policy, prompts, expected = scene
    threads(2)
    again = completions(policy, prompts, group_size=3, max_tokens=70)
    assert_same_tokens(again, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", SCENES)
def test_the_number_of_threads_changes_no_token(scene, threads):
    policy, prompts, expected = scene
    for number in (1, 2, 3):
        threads(number)
        assert_same_tokens(completions(policy, prompts, group_size=3, max_tokens=70), expected)


@torch.no_grad()
@pairwise("family, number, kernels", FAMILIES, [1, 2, 3])
@pytest.mark.thin(12)
def test_a_row_has_the_same_bits_among_any_number_of_rows_that_a_step_computes(
    family, number, threads, seed
):
    threads(number)
    policy = tiny_policy(family, seed)
    token_R = torch.randint(3, policy.vocab_size - 1, (64,))

    def second_logits(rows: int) -> torch.Tensor:
        cache = ContiguousCache()
        for row in range(rows):
            cache.add([row], (row,), {}, 0)
        for position in range(2):
            cache.begin()
            position_R1 = torch.full((rows, 1), position)
            logits_RV = policy.next_logits(token_R[:rows, None] + position, position_R1, cache)
            cache.advance()
        return logits_RV

    whole = second_logits(64)
    multiple = row_multiple(torch.float32)
    for rows in range(multiple, 64, multiple):
        assert torch.equal(second_logits(rows), whole[:rows]), rows


def test_filtered_completions_have_the_same_bits_in_any_company(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [9, 30, 1, 64])
    expected = completions(policy, prompts, group_size=4, sampling=FILTERED)
    assert_same_groups(
        completions(policy, prompts[2:], group_size=4, sampling=FILTERED, max_rows=8), expected
    )


def test_nothing_is_left_of_one_call_in_the_next(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [9, 30, 70])
    engine = Engine(policy, max_rows=8)
    options = dict(group_size=3, max_tokens=50, sampling=PLAIN, seed=(0,))
    first = {
        group_index: group.completions for group_index, group in engine.sample(prompts, **options)
    }
    for _ in engine.sample(random_prompts(seed + 1, [100, 3]), **options):
        break  # left in the middle
    assert_same_groups(
        {
            group_index: group.completions
            for group_index, group in engine.sample(prompts, **options)
        },
        first,
    )


def test_completions_differ_by_seed_prompt_id_and_index(seed):
    policy, (prompt,) = tiny_policy("llama", seed, peak=1.0), random_prompts(seed, [9])
    twin = Prompt("twin", prompt.token_ids, {})
    policy.stop_ids = frozenset()
    sampled = [
        c.token_ids
        for name in ((0, 1), (0, 2), (1, 1))
        for group in groups(policy, [prompt, twin], seed=name, group_size=3).values()
        for c in group
    ]
    assert len(set(sampled)) == 3 * 2 * 3


def test_prompts_are_told_apart_by_their_tokens_even_if_their_ids_agree(seed):
    policy, (one, other) = tiny_policy("llama", seed), random_prompts(seed, [20, 33])
    alone = groups(policy, [other])[0]
    other = Prompt(other.id, other.token_ids, {})
    both = groups(policy, [Prompt(other.id, one.token_ids, {}), other])
    for c, expected in zip(both[1], alone):
        assert_same(c, expected)


# --------------------------------------------------------------------------------------- how they end


def test_the_stop_token_is_kept_with_its_logp(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, [9, 30, 1])
    policy.stop_ids = frozenset(range(2, 12))
    stopped = [
        c for g in groups(policy, prompts, group_size=8).values() for c in g if c.finish == "stop"
    ]
    assert len({c.stop for c in stopped}) > 1
    for c in stopped:
        assert c.token_ids[-1] == c.stop and c.stop in policy.stop_ids
        assert not policy.stop_ids & set(c.token_ids[:-1])
        assert len(c.sampled_logps) == len(c.token_ids) and c.sampled_logps.isfinite().all()
        assert c.text == policy.tokenizer.decode(c.token_ids[:-1]) and not c.truncated


def test_each_stop_string_ends_a_completion_at_the_token_that_completes_it(seed):
    policy, prompts = tiny_policy("llama", seed, peak=1.5), random_prompts(seed, [9, 30, 1])
    policy.stop_ids = frozenset({2})
    free, decode = completions(policy, prompts, group_size=4), policy.tokenizer.decode
    texts = [c.text for g in free.values() for c in g if len(c.text) > 12]
    stops = [texts[0][4:6], texts[1][5:8], texts[2][9:10] + texts[2][10:12]]
    seen = 0
    for name, group in completions(policy, prompts, group_size=4, stop=stops).items():
        for c, whole in zip(group, free[name]):
            ends = [
                n
                for n in range(1, len(whole.token_ids) + 1)
                if any(stop in decode(whole.token_ids[:n]) for stop in stops)
            ]
            if not ends or whole.token_ids[ends[0] - 1] == 2:
                assert_same(c, whole)
                continue
            seen += 1
            assert (
                c.token_ids == whole.token_ids[: ends[0]] and c.finish == "stop" and c.stop in stops
            )
            assert torch.equal(c.sampled_logps, whole.sampled_logps[: ends[0]])
            assert c.text == "".join(decode(c.token_ids).partition(c.stop)[:2])
    assert seen >= 3


def test_a_stop_string_of_many_bytes_is_found_where_each_byte_is_a_token():
    tokenizer = byte_tokenizer()
    smile = tokenizer("😀")["input_ids"]
    policy = parrot_policy(
        dict(zip(smile, [*smile[1:], smile[0]])), tokenizer, vocabulary=len(tokenizer)
    )
    prompt = Prompt("p", (smile[-1],), {})
    (c,) = groups(policy, [prompt], group_size=1, stop=["😀" * 5], max_tokens=60)[0]
    assert (c.finish, c.stop, c.text, len(c.token_ids)) == ("stop", "😀" * 5, "😀" * 5, 20)


def test_length_and_context_are_told_apart(seed):
    policy = tiny_policy("gpt2", seed, n_positions=48)
    policy.stop_ids = frozenset()
    long, edge, short = random_prompts(seed, [40, 47, 10])
    cut = completions(policy, [long, edge, short], max_tokens=12)
    assert [(c.finish, len(c.token_ids)) for c in cut[long.id]] == [("context", 8)] * 2
    assert [(c.finish, len(c.token_ids)) for c in cut[edge.id]] == [("context", 1)] * 2
    assert [(c.finish, len(c.token_ids)) for c in cut[short.id]] == [("length", 12)] * 2
    assert all(c.truncated and c.stop is None for g in cut.values() for c in g)
    (exact,) = completions(policy, [long], max_tokens=8, group_size=1)[long.id]
    assert exact.finish == "length"


@pytest.mark.parametrize(
    "length, reason", [(48, "leaves no room in the model's context of 48"), (0, "has no tokens")]
)
def test_a_prompt_that_nothing_can_follow_is_refused(length, reason):
    policy = tiny_policy("llama", max_position_embeddings=48)
    with pytest.raises(ValueError, match=f"prompt p0 .*{reason}"):
        groups(policy, random_prompts(0, [length]))


@pytest.mark.parametrize("after", [0, 1, 13])
def test_an_interruption_delivers_groups_whole_with_the_rest_cancelled(after, seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [9, 30, 1, 64, 5])
    whole = completions(policy, prompts, group_size=3)
    calls = iter(range(1000))
    for name, group in completions(
        policy, prompts, group_size=3, max_rows=8, interrupted=lambda: next(calls) >= after
    ).items():
        for c, expected in zip(group, whole[name]):
            if c.finish != "cancelled":
                assert_same(c, expected)
            assert (
                c.token_ids == expected.token_ids[: len(c.token_ids)] and len(c.token_ids) <= after
            )
            assert torch.equal(c.sampled_logps, expected.sampled_logps[: len(c.token_ids)])


def test_every_completion_is_delivered_once_where_the_queue_is_longer_than_the_rows(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [3, 9, 1] * 5)
    policy.stop_ids = frozenset(range(2, 12))
    engine = Engine(policy, max_rows=8)
    sampled = list(engine.sample(prompts, group_size=3, max_tokens=25, sampling=PLAIN, seed=(0,)))
    assert sorted(group_index for group_index, _ in sampled) == list(range(15))
    tokens = sum(len(c.token_ids) for _, g in sampled for c in g.completions)
    assert engine.stats.tokens == engine.stats.rows_alive == tokens <= engine.stats.rows_computed
    assert engine.stats.prefill_tokens == sum(len(p.token_ids) - 1 for p in prompts)


# -------------------------------------------------------------------------------- rows that go wrong


def test_a_row_that_turns_nan_fails_alone_and_leaves_no_trace_in_its_row(seed):
    """Token 50's embedding is NaN: whoever reads it fails; nobody else, not even the next in its row."""
    clean = tiny_policy("llama", seed, peak=1.5)
    prompts = [
        Prompt(p.id, tuple(51 if t == 50 else t for t in p.token_ids), {})
        for p in random_prompts(seed, [9, 70, 30, 1, 64, 5, 17, 66])
    ]
    poisoned = Prompt("poisoned", (5, 50, 7, 9), {})
    expected = completions(clean, prompts, group_size=5, max_tokens=60)
    with torch.no_grad():
        clean.model.model.embed_tokens.weight[50] = torch.nan
    sampled = completions(
        clean, [*prompts[:3], poisoned, *prompts[3:]], group_size=5, max_tokens=60, max_rows=8
    )
    assert [(c.finish, c.token_ids) for c in sampled.pop("poisoned")] == [("error", ())] * 5
    failed = 0
    for name, group in sampled.items():
        for c, whole in zip(group, expected[name]):
            at = whole.token_ids.index(50) + 1 if 50 in whole.token_ids else len(whole.token_ids)
            if at == len(whole.token_ids):
                assert_same(c, whole)
            else:
                failed += 1
                assert c.finish == "error" and c.token_ids == whole.token_ids[:at]
                assert torch.equal(c.sampled_logps, whole.sampled_logps[:at])
    assert failed and failed < 40


def test_padding_that_is_the_end_of_sequence_token_changes_nothing(seed):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    prompts = random_prompts(seed, [9, 30, 1])
    one, other = (
        completions(tiny_policy("llama", seed, tokenizer=t), prompts) for t in (None, tokenizer)
    )
    assert_same_groups(one, other)


@torch.no_grad()
def test_ids_beyond_the_tokenizer_are_never_sampled_and_take_no_probability(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [9, 30, 1])
    policy.model.lm_head.weight[policy.vocab_size :] = 3 * policy.model.lm_head.weight[3:8]
    assert policy.vocab_size == len(policy.tokenizer) == 84 < policy.base.config.vocab_size
    sampled = completions(policy, prompts, group_size=8)
    assert all(token < 84 for group in sampled.values() for c in group for token in c.token_ids)
    assert worst_difference(policy, prompts, PLAIN)[0] <= NEAR


def test_gradient_checkpointing_changes_no_completion(seed):
    prompts = random_prompts(seed, [9, 70, 1])
    one, other = (
        completions(tiny_policy("llama", seed, checkpointing=on), prompts) for on in (False, True)
    )
    assert_same_groups(one, other)


def test_half_precision_rows_are_sampled_from_fp32_log_probs(seed):
    policy = tiny_policy("qwen3", seed, dtype=torch.bfloat16)
    for group in groups(policy, random_prompts(seed, [9, 70, 1])).values():
        for c in group:
            assert c.sampled_logps.dtype == torch.float32 and c.sampled_logps.isfinite().all()
