"""On a CUDA device: kernels beside their references in bf16, and graphs that decode what eager steps decode."""

from __future__ import annotations

import pytest
import torch
from sampling_draws import seeds
from tiny import cuda_policy

from grpo.kernels.decode_attention import dispatch, reference
from grpo.kernels.sampling import exact
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.cuda_graphs import DecodeStep, GraphRunner
from grpo.rollout.memory import EngineStats
from grpo.rollout.paged_cache import PagedCache
from grpo.rollout.prefill import prefill
from grpo.rollout.sequence import RolloutSequence
from grpo.types import Prompt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FILTERS = [
    Sampling(),
    Sampling(0.0),
    Sampling(0.9, 50),
    Sampling(0.9, 0, 0.9),
    Sampling(0.9, 40, 0.9, 0.02),
]


def poisoned(lengths, heads, kv_heads, width, dtype):
    """One group of 3 rows a length, 70 own tokens a row; what no row reads is NaN."""
    groups = PagedCache(
        3 * len(lengths) + 1, 40 * len(lengths), "cuda", max_prefix=max(lengths), max_tokens=70
    )
    for number, length in enumerate(lengths):
        prefix = {0: tuple(torch.randn(2, kv_heads, length, width, device="cuda").to(dtype))}
        if not number:
            groups._make_pool(0, prefix[0][0])
            groups.keys[0].fill_(torch.nan)
            groups.values[0].fill_(torch.nan)
        groups.put(range(3 * number, 3 * number + 3), prefix, length)
    groups.reserve(70)
    for _ in range(70):
        key, value = torch.randn(2, groups.num_rows, kv_heads, 1, width, device="cuda").to(dtype)
        groups.update(key, value, 0)
        groups.advance_device()
    groups._seen_R.sub_(groups._live_R.device)
    return groups, torch.randn(groups.num_rows, heads, width, device="cuda").to(dtype)


@pytest.mark.parametrize(
    "heads, kv_heads, width", [(14, 2, 64), (8, 8, 128), (4, 1, 256), (12, 3, 80)]
)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3), (torch.float32, 1e-5)]
)
@pytest.mark.parametrize("options", [{}, {"window": 100, "softcap": 5.0}], ids=str)
def test_decode_attention_is_the_definition(
    heads, kv_heads, width, dtype, tolerance, options, seed
):
    groups, query = poisoned([1, 200, 1025], heads, kv_heads, width, dtype)
    inputs = groups.keys[0], groups.values[0]
    found = dispatch.attend(query, *inputs, groups.tables(), width**-0.5, **options)
    expected = reference.attend(
        query.double(), *(x.double() for x in inputs), groups.tables(), width**-0.5, **options
    )
    assert not found[-1].any()
    assert (found.double() - expected)[:-1].norm() / expected[:-1].norm() < tolerance


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sampler_draws_the_references_tokens(sampling, dtype, seed):
    logits_RV = (3 * torch.randn(19, 151_936)).to(dtype)
    position_R = torch.arange(19)
    expected = exact.reference(
        logits_RV, seeds(19, seed), position_R, sampling, vocab_size=151_700, entropy=True
    )
    found = exact.sample(
        logits_RV.cuda(),
        seeds(19, seed).cuda(),
        position_R.cuda(),
        sampling,
        vocab_size=151_700,
        entropy=True,
    )
    assert torch.equal(found.token_R.cpu(), expected.token_R)
    torch.testing.assert_close(found.logp_R.cpu(), expected.logp_R, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy_R.cpu(), expected.entropy_R, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_graphs_decode_what_eager_steps_decode(family, seed):
    policy = cuda_policy(family, seed=seed % 1000)
    prompts = [Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (4, 66)]
    members = {
        prompt.token_ids: [RolloutSequence(i, 0, prompt, 0, 24, False)]
        for i, prompt in enumerate(prompts)
    }
    with torch.no_grad():
        found, spans = prefill(policy, members, EngineStats())
    prefixes = {ids: found.prefix(*spans[ids]) for ids in members}
    results = []
    for capture in (False, True):
        cache = PagedCache(8, 40, "cuda", max_prefix=70, max_tokens=24)
        step = DecodeStep(
            lambda token, position, cache=cache: policy.logits(token, position, cache, 1, cache)[
                :, -1
            ],
            cache,
            Sampling(),
            max_rows=8,
            ring=4,
            stop_ids=(),
            device="cuda",
        )
        for place, prompt in enumerate(prompts):
            rows = range(3 * place, 3 * place + 3)
            cache.put(rows, prefixes[prompt.token_ids], len(prompt.token_ids) - 1)
            step.start(rows, [prompt.token_ids[-1]] * 3, seeds(3, place).tolist(), [24] * 3)
        steps, tokens, logps = (
            GraphRunner(step, lambda: list(policy.model.parameters()), capture=capture),
            [],
            [],
        )
        with torch.no_grad():
            for _ in range(6):
                cache.reserve(4)
                read = steps.run(8, 4)
                tokens.append(read.token_KR[:, :6])
                logps.append(read.logp_KR[:, :6])
        assert bool(steps.captures) == capture, steps.eager_because
        results.append((torch.cat(tokens), torch.cat(logps)))
        steps.release()
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
