"""Models that keep their own attention: sampled by `generate`, trained in whole rows, with the same semantics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import (
    FAMILIES,
    from_config,
    plain_logits,
    plain_processed,
    random_prompts,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)

from grpo.kernels.sampling.spec import Sampling
from grpo.model.loading import with_adapters
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.recipe import LoraSection
from grpo.rollout.compatibility import check_support, unsupported_reason
from grpo.rollout.engine import Engine
from grpo.types import Row

KINDS = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "attention_window_size": 8,
        "lru_width": 32,
        "head_dim": 8,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


def plain_policy(kind: str, seed: int, *, lora: bool = False) -> Policy:
    torch.manual_seed(seed)
    model = from_config(kind, **KINDS[kind])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and "conv" not in name and "A_log" not in name:
                p.mul_(8 if p.shape[0] == 89 else 3)
    if lora:
        model = with_adapters(model, LoraSection(rank=4, alpha=8.0))
    policy = Policy(model, tiny_tokenizer())
    policy.stop_ids = frozenset({2})
    assert policy.unsupported_reason
    return policy


@torch.no_grad()
def logps_of(policy: Policy, prompt_ids, token_ids, sampling=Sampling()) -> torch.Tensor:
    """Log-probs of one sequence alone, by the model's own forward."""
    ids = torch.tensor([[*prompt_ids, *token_ids]])
    logits = policy.model(input_ids=ids, use_cache=False).logits[
        0, len(prompt_ids) - 1 : -1, : policy.vocab_size
    ]
    return (
        (logits / sampling.temperature)
        .log_softmax(-1)
        .gather(-1, torch.tensor(token_ids)[:, None])[:, 0]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_logps_equal_those_of_a_plain_forward(kind, seed):
    policy, prompts = plain_policy(kind, seed), random_prompts(seed, [1, 9, 30, 9])
    sampling = Sampling(temperature=0.8)
    engine = Engine(policy, max_rows=16)
    groups = dict(engine.sample(prompts, group_size=3, max_tokens=25, sampling=sampling, seed=(0,)))
    assert sorted(groups) == [0, 1, 2, 3]
    ends = set()
    for index, group in groups.items():
        for c in group.completions:
            expected = logps_of(policy, prompts[index].token_ids, c.token_ids, sampling)
            torch.testing.assert_close(c.sampled_logps, expected, atol=2e-5, rtol=1e-5)
            assert (
                c.finish == "stop"
                and c.token_ids[-1] == 2
                or c.finish == "length"
                and len(c.token_ids) == 25
            )
            ends.add(c.finish)
    assert engine.stats.tokens == sum(
        len(c.token_ids) for g in groups.values() for c in g.completions
    )


def on_a_boundary(policy, prompt, completion, sampling) -> bool:
    """Whether each log-prob is that of a filter whose limits were moved by no more than logits are rounded.

    Where a token is exactly on a limit, two ways to compute the logits may keep it or not.
    """
    logits_TV = plain_logits(policy, prompt.token_ids, completion.token_ids)
    moves = [(p, m) for p in (-1e-5, 0, 1e-5) for m in (-1e-5, 0, 1e-5)]
    nudged = [
        replace(sampling, top_p=sampling.top_p * (1 + p), min_p=sampling.min_p * (1 + m))
        for p, m in moves
    ]
    for logits_V, token, logp in zip(logits_TV, completion.token_ids, completion.sampled_logps):
        near = [float(plain_processed(logits_V, filters)[token]) for filters in nudged]
        if min(abs(value - float(logp)) for value in near) > 2e-5:
            return False
    return True


def assert_drawn_alike(policy, prompt, a, b, sampling) -> None:
    """The same tokens with the same log-probs, but for tokens that are on a filter's limit."""
    assert (a.token_ids, a.text, a.finish, a.stop) == (b.token_ids, b.text, b.finish, b.stop)
    torch.testing.assert_close(
        a.sampled_logps + a.log_kept, b.sampled_logps + b.log_kept, atol=2e-5, rtol=0
    )
    if not torch.allclose(a.sampled_logps, b.sampled_logps, atol=1e-5, rtol=0):
        for completion in (a, b):
            assert on_a_boundary(policy, prompt, completion, sampling)


def drawn_alike(seed: int) -> None:
    """Compare a model that the engine serves with itself, made to keep its own attention."""
    prompts = random_prompts(seed, [1, 9, 30, 9])
    served, plain = tiny_policy("llama", seed, peak=1.5), tiny_policy("llama", seed, peak=1.5)
    plain.unsupported_reason = "the test says so"
    plain.base.set_attn_implementation("sdpa")
    sampling = Sampling(0.9, 30, 0.95, 0.01)
    options = dict(group_size=4, max_tokens=40, seed=(3,), sampling=sampling)
    for stop in ((), ("ab", "c")):
        one, other = (
            dict(Engine(policy, stop=stop).sample(prompts, **options)) for policy in (served, plain)
        )
        for index, group in one.items():
            for a, b in zip(group.completions, other[index].completions):
                assert_drawn_alike(served, prompts[index], a, b, sampling)


def test_generate_draws_the_tokens_that_the_engine_draws(seed):
    drawn_alike(seed)


def test_a_token_on_a_filters_limit_is_no_difference_of_the_two():
    """With this seed one token is on the limit of min-p or top-p to the last digits."""
    drawn_alike(99847830)


class Refusing:
    """Refuses the calls of a module that have these numbers."""

    def __init__(self, *calls: int):
        self.calls = calls
        self.number = 0

    def __call__(self, module, args):
        self.number += 1
        if self.number in self.calls:
            raise MemoryError("12 MiB are left of this process's limit of memory")


@pytest.mark.parametrize("calls, rows", [((1,), 4), ((7,), 4), ((3, 9), 2), ((3, 9, 12), 1)])
@pytest.mark.thin(2)
def test_whichever_product_refuses_generate_goes_on_with_fewer_rows(calls, rows, seed):
    policy, prompts = plain_policy("bloom", seed), random_prompts(seed, [9] * 4)
    options = dict(group_size=2, max_tokens=20, sampling=Sampling(), seed=(0,))
    expected = dict(Engine(policy).sample(prompts, **options))
    engine = Engine(policy, max_rows=8)
    product = policy.base.transformer.h[1].mlp.dense_h_to_4h
    hook = product.register_forward_pre_hook(Refusing(*calls))
    sampled = dict(engine.sample(prompts, **options))
    hook.remove()
    assert len(engine.stats.notes) == len(calls)
    assert f"continuing with {rows} completion" in engine.stats.notes[-1]
    for index, group in expected.items():
        for a, b in zip(group.completions, sampled[index].completions):
            assert (a.token_ids, a.finish) == (b.token_ids, b.finish)
            torch.testing.assert_close(a.sampled_logps, b.sampled_logps, atol=1e-5, rtol=0)


def test_a_product_of_generate_that_refuses_a_single_row_is_an_error(seed):
    policy = plain_policy("bloom", seed)
    product = policy.base.transformer.h[1].mlp.dense_h_to_4h
    product.register_forward_pre_hook(Refusing(*range(1, 100)))
    with pytest.raises(MemoryError, match="12 MiB are left"):
        dict(
            Engine(policy).sample(
                random_prompts(seed, [9]),
                group_size=2,
                max_tokens=20,
                sampling=Sampling(),
                seed=(0,),
            )
        )


def test_groups_are_interrupted_and_continued(seed):
    policy, prompts = plain_policy("bloom", seed), random_prompts(seed, [5, 9, 30, 9])
    policy.stop_ids = frozenset()
    options = dict(
        group_size=2,
        max_tokens=lambda prompt, index: 10 + len(prompt.token_ids),
        sampling=Sampling(),
        seed=("s", 0),
    )
    whole = dict(Engine(policy).sample(prompts, **options))
    engine = Engine(policy, max_rows=2)
    first = dict(engine.sample(prompts, enough=2, **options))
    assert len(first) + len(engine.partial_groups) == 4 and engine.partial_groups
    rest = {
        group.prompt.id: group
        for _, group in engine.sample([], partial_groups=engine.partial_groups, **options)
    }
    for index, prompt in enumerate(prompts):
        group = first.get(index) or rest[prompt.id]
        assert [c.token_ids for c in group.completions] == [
            c.token_ids for c in whole[index].completions
        ]
    calls = iter(range(1000))
    cut = dict(engine.sample(prompts, interrupted=lambda: next(calls) > 12, **options))
    assert sorted(cut) == [0, 1, 2, 3]
    assert "cancelled" in {c.finish for group in cut.values() for c in group.completions}


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_and_gradients_of_packed_rows_are_those_of_each_row_alone(kind, seed):
    policy = plain_policy(kind, seed)
    prompts = random_prompts(seed, [7, 12, 20, 4, 17, 9])
    rows = [
        Row(
            i,
            i // 2,
            prompts[i // 2].token_ids,
            prompts[3 + i % 3].token_ids,
            torch.zeros(0),
            0.0,
            True,
            True,
            "trained",
        )
        for i in range(6)
    ]
    stats = policy.token_stats(pack(rows), 1.0)
    expected = torch.cat([logps_of(policy, row.prompt_ids, row.token_ids) for row in rows])
    torch.testing.assert_close(stats.logp_T, expected, atol=2e-5, rtol=1e-5)
    weight_T = torch.randn(len(expected))
    names, parameters = zip(*policy.trainable().items())
    gradients = torch.autograd.grad((stats.logp_T * weight_T).sum(), parameters, allow_unused=True)
    alone = []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
        logits = policy.model(input_ids=ids, use_cache=False).logits[
            0, len(row.prompt_ids) - 1 : -1, : policy.vocab_size
        ]
        alone.append(logits.log_softmax(-1).gather(-1, torch.tensor(row.token_ids)[:, None])[:, 0])
    expected = torch.autograd.grad(
        (torch.cat(alone) * weight_T).sum(), parameters, allow_unused=True
    )
    for name, one, other in zip(names, gradients, expected):
        assert (one is None) == (other is None), name
        if one is not None:
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-5, name


def test_adapters_of_such_a_model_are_trained(seed):
    policy = plain_policy("bloom", seed, lora=True)
    row = Row(0, 0, (5, 6, 7), (8, 9, 10), torch.zeros(0), 0.0, True, True, "trained")
    policy.token_stats(pack([row]), 1.0).logp_T.sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in policy.trainable().values() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_the_engine_serves_pass_the_probe(family, seed):
    policy = tiny_policy(family, seed)
    assert unsupported_reason(policy) == "" and not policy.unsupported_reason
    check_support(policy)
    assert policy.base.config._attn_implementation == "grpo"


def test_a_model_whose_attention_does_something_of_its_own_is_detected(seed):
    """One that scales its queries behind the interface's back only where its own attention runs."""
    model = tiny_model("llama", seed)
    for layer in model.model.layers:
        forward = layer.self_attn.forward

        def bent(*arguments, inner=forward, owner=layer.self_attn, **keywords):
            out, *rest = inner(*arguments, **keywords)
            return (out * 1.5 if owner.config._attn_implementation == "sdpa" else out, *rest)

        layer.self_attn.forward = bent
    model.set_attn_implementation("sdpa")
    policy = Policy(model, tiny_tokenizer())
    check_support(policy)
    assert (
        "gives other logits" in policy.unsupported_reason
        and policy.base.config._attn_implementation == "sdpa"
    )


def test_a_model_whose_forward_fails_on_this_attention_is_served_by_generate(seed):
    policy = tiny_policy("llama", seed)
    policy.model.model.layers[0].self_attn.scaling = "wrong"
    policy.base.set_attn_implementation("grpo")
    inner = policy.model.model.layers[0].self_attn.forward

    def picky(*arguments, **keywords):
        owner = policy.model.model.layers[0].self_attn
        owner.scaling = "wrong" if owner.config._attn_implementation == "grpo" else 0.35
        return inner(*arguments, **keywords)

    policy.model.model.layers[0].self_attn.forward = picky
    check_support(policy)
    assert "does not run on this library's attention" in policy.unsupported_reason
