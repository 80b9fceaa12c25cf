"""The policy: log-probs without randomness, saved folders that compute the same, weights lent and given back, refusals."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from tiny import (
    FAMILIES,
    byte_tokenizer,
    from_config,
    plain_logits,
    random_prompts,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.model.info import longest_sequence
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.types import Row

IDS = torch.tensor([[5, 9, 3, 30, 41, 7, 2, 11]])
DROPOUTS = {
    "llama": {"attention_dropout": 0.5},
    "gpt2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "phi3": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "gpt_neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "mixtral": {"attention_dropout": 0.5, "router_jitter_noise": 0.3},
}


def some_rows(seed: int) -> list[Row]:
    prompt, *texts = random_prompts(seed, [9, 14, 3])
    return [
        Row(
            i,
            0,
            prompt.token_ids,
            text.token_ids,
            torch.zeros(len(text.token_ids)),
            1.0,
            True,
            True,
            "trained",
        )
        for i, text in enumerate(texts)
    ]


def gradients(policy: Policy, rows: list[Row]) -> dict[str, torch.Tensor]:
    policy.model.zero_grad()
    (policy.token_stats(pack(rows), 1.0).logp_T * torch.arange(1, 18)).sum().backward()
    return {name: p.grad.clone() for name, p in policy.trainable().items()}


# -------------------------------------------------------------------------------------- log-probs


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", DROPOUTS)
def test_dropout_that_the_model_configures_is_off_and_the_ratio_exactly_one(
    family, checkpointing, seed
):
    policy = tiny_policy(family, seed, checkpointing=checkpointing, **DROPOUTS[family])
    packed = pack(some_rows(seed))
    first, second = (policy.token_stats(packed, 1.0).logp_T for _ in range(2))
    assert (second - first).exp().eq(1).all() and first.requires_grad
    with torch.no_grad():
        assert torch.equal(policy.token_stats(packed, 1.0).logp_T, first)
    for name, value in DROPOUTS[family].items():
        assert getattr(policy.base.config, name) == value, (
            "what is saved still says what was configured"
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox"])
def test_dropout_stays_off_when_someone_puts_the_model_into_training_mode(family, seed):
    policy = tiny_policy(family, seed, **DROPOUTS[family])
    packed = pack(some_rows(seed))
    expected = policy.token_stats(packed, 1.0).logp_T
    policy.model.train()
    assert torch.equal(policy.token_stats(packed, 1.0).logp_T, expected)


@pytest.mark.parametrize(
    "family, lora",
    [
        ("llama", False),
        ("llama", True),
        ("gemma3_text", False),
        ("gpt2", False),
        ("mixtral", False),
    ],
)
def test_gradient_checkpointing_gives_the_same_gradient(family, lora, seed):
    rows = some_rows(seed)
    plain, checkpointed = (
        gradients(tiny_policy(family, seed, lora=lora, checkpointing=on), rows)
        for on in (False, True)
    )
    assert plain.keys() == checkpointed.keys() and any(g.abs().max() > 0 for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_really_recomputes_the_layers(seed):
    policy, calls = tiny_policy("llama", seed, checkpointing=True), []
    assert policy.head is not None  # found by a forward of its own
    policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(policy, some_rows(seed))
    assert len(calls) == 2


def test_entropy_is_that_of_the_distribution_at_the_temperature(seed):
    policy, rows = tiny_policy("qwen2", seed), some_rows(seed)
    with torch.no_grad():
        stats = policy.token_stats(pack(rows), 0.6)
        logits = torch.cat([plain_logits(policy, row.prompt_ids, row.token_ids) for row in rows])
    expected = torch.distributions.Categorical(logits=logits.double() / 0.6).entropy()
    torch.testing.assert_close(stats.entropy_T.double(), expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------- weights


def test_weights_are_lent_and_given_back_also_after_an_error(seed):
    policy, rows = tiny_policy("llama", seed), some_rows(seed)
    old, packed = policy.snapshot(), pack(rows)
    with torch.no_grad():
        before = policy.token_stats(packed, 1.0).logp_T
        for p in policy.trainable().values():
            p.add_(0.1 * torch.randn_like(p))
        changed, storage = (
            policy.snapshot(),
            {n: p.data_ptr() for n, p in policy.trainable().items()},
        )
        with policy.as_if(old):
            assert torch.equal(policy.token_stats(packed, 1.0).logp_T, before)
        with pytest.raises(KeyError), policy.as_if({}):
            pass
    assert {n: p.data_ptr() for n, p in policy.trainable().items()} == storage
    assert all(torch.equal(p, changed[name]) for name, p in policy.trainable().items())


def test_a_snapshot_does_not_follow_the_weights(seed):
    policy = tiny_policy("llama", seed)
    taken = policy.snapshot()
    copied = copy.deepcopy(taken)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(1)
    assert all(torch.equal(taken[name], copied[name]) for name in copied)


def test_the_reference_of_fresh_adapters_is_the_model_without_them(seed):
    policy = tiny_policy("llama", seed, lora=True)
    fresh = {
        name: torch.zeros_like(p) if "lora_B" in name else p.detach()
        for name, p in policy.trainable().items()
    }
    packed = pack(some_rows(seed))
    with torch.no_grad():
        with policy.as_if(fresh):
            actual = policy.token_stats(packed, 1.0).logp_T
        with policy.model.disable_adapter():
            assert torch.equal(actual, policy.token_stats(packed, 1.0).logp_T)
        assert not torch.equal(actual, policy.token_stats(packed, 1.0).logp_T)


def test_with_adapters_nothing_else_trains():
    policy = tiny_policy("llama", lora=True)
    assert policy.trainable() and all("lora_" in name for name in policy.trainable())
    layers, kinds = policy.base.config.num_hidden_layers, 7
    assert len(policy.trainable()) == 2 * kinds * layers and "LoRA" in policy.describe()


# ----------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "family, options",
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {}),
        ("gemma3_text", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("gpt2", {}),
        ("qwen3_moe", {}),
    ],
)
def test_a_saved_folder_gives_the_same_logits_to_whoever_loads_it(
    family, options, lora, seed, tmp_path
):
    policy = tiny_policy(family, seed, lora=lora, **options)
    policy.save(tmp_path / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    with torch.no_grad():
        actual = loaded(IDS).logits[0, 3:-1, : policy.vocab_size]
        expected = plain_logits(policy, IDS[0, :4].tolist(), IDS[0, 4:].tolist())
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)
    assert (
        tokenizer.get_vocab().items() >= policy.tokenizer.get_vocab().items()
        and tokenizer.eos_token_id == 2
    )
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "final").config._attn_implementation
        != "grpo"
    )


@pytest.mark.parametrize("lora", [False, True])
def test_saving_leaves_the_policy_as_it_was(lora, seed, tmp_path):
    policy, packed = tiny_policy("llama", seed, lora=lora), pack(some_rows(seed))
    before, names = gradients(policy, some_rows(seed)), list(policy.trainable())
    policy.save(tmp_path / "final")
    assert list(policy.trainable()) == names
    after = gradients(policy, some_rows(seed))
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert policy.token_stats(packed, 1.0).logp_T.requires_grad


def test_saved_adapters_load_onto_the_base(seed, tmp_path):
    from peft import PeftModel

    policy = tiny_policy("llama", seed, lora=True)
    policy.save(tmp_path / "final")
    again = PeftModel.from_pretrained(tiny_model("llama", seed), tmp_path / "final" / "adapter")
    with torch.no_grad():
        expected = plain_logits(policy, IDS[0, :4].tolist(), IDS[0, 4:].tolist())
        torch.testing.assert_close(
            again(IDS).logits[0, 3:-1, : policy.vocab_size], expected, atol=1e-5, rtol=0
        )


# ------------------------------------------------------------------------------------ stop, vocabulary


def test_every_token_that_ends_a_completion_is_known():
    model, tokenizer = tiny_model("llama", 0), tiny_tokenizer()
    model.generation_config.eos_token_id = [40, 41]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert Policy(model, tokenizer).stop_ids == {
        2,
        40,
        41,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }


def test_a_vocabulary_ends_with_the_tokenizers_last_id_or_the_models():
    assert tiny_policy("llama").vocab_size == 84
    assert tiny_policy("llama", vocabulary=84, tokenizer=tiny_tokenizer(84)).vocab_size == 84
    assert tiny_policy("llama", vocabulary=300, tokenizer=byte_tokenizer()).vocab_size == 259


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "kind, options, reason",
    [
        (
            "llama4_text",
            {"intermediate_size_mlp": 48, "num_local_experts": 2},
            "layers of chunked_attention",
        ),
        ("recurrent_gemma", {}, "layers of .*linear_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of conv"),
        (
            "deepseek_v3",
            {
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "n_group": 2,
                "topk_group": 1,
                "moe_intermediate_size": 24,
                "num_key_value_heads": 4,
            },
            "compressed keys and values",
        ),
        ("bloom", {"n_head": 4, "n_layer": 2}, "does not take its attention"),
    ],
)
def test_models_whose_attention_cannot_be_taken_over_keep_their_own_and_say_why(
    kind, options, reason
):
    policy = Policy(from_config(kind, **options), tiny_tokenizer())
    assert re.search(reason, policy.unsupported_reason)
    (line,) = policy.describe_fallback()
    assert "slower: sampled by transformers' generate" in line and policy.unsupported_reason in line


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_describes_itself_in_a_line(family):
    assert "parameters, float32 on cpu" in tiny_policy(family).describe()


@pytest.mark.parametrize(
    "rope, context",
    [
        (None, 4096),
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64}, 4096),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"rope_type": "dynamic", "factor": 2.0}, 4096),
        (
            {
                "full_attention": {"rope_type": "dynamic", "original_max_position_embeddings": 32},
                "sliding_attention": {"rope_type": "default"},
            },
            32,
        ),
    ],
)
def test_the_context_ends_where_rotary_embeddings_would_change_for_a_whole_batch(rope, context):
    assert (
        longest_sequence(SimpleNamespace(max_position_embeddings=4096, rope_parameters=rope))
        == context
    )
