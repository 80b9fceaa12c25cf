"""Which layers get adapters, at one rank, on tied and untied models and on mixtures of experts; and that they merge."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import from_config, tiny_model, tiny_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from grpo.model.adapters import adapter_ranks, routers, stacked_parameters, targets_of
from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.recipe import LoraSection, RecipeError

EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "head_dim": 8,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
MIXTURES = {
    "qwen3_moe": {"mlp_only_layers": [0], "decoder_sparse_step": 1},
    "qwen2_moe": {"mlp_only_layers": [0], "shared_expert_intermediate_size": 40},
    "mixtral": {},
    "olmoe": {},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe": {"first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "phimoe": {},
    "granitemoe": {},
    "jetmoe": {"kv_channels": 8},
}


def mixture(kind: str):
    torch.manual_seed(0)
    return from_config(kind, **{**EXPERTS, **MIXTURES[kind]}).eval()


def changed(adapted) -> None:
    """Give the adapters weights that change what the model says."""
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(0.2 * torch.randn(p.shape))


@torch.no_grad()
def logits_of(model, ids=((5, 9, 40, 7, 7, 60),)):
    return model(input_ids=torch.tensor(ids), use_cache=False).logits


@pytest.mark.parametrize("kind", MIXTURES)
def test_all_linear_is_every_linear_layer_and_expert_but_the_routers_and_the_output_at_one_rank(
    kind,
):
    model = mixture(kind)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    experts = {name for name, p in model.named_parameters() if p.dim() == 3 and "conv" not in name}
    chooses = {name for name in linear if name.endswith((".gate", ".router", ".router.layer"))}
    assert experts and set(routers(model)) == chooses
    assert experts == set(stacked_parameters(model))
    adapted = with_adapters(model, LoraSection(rank=3, alpha=6.0))
    ranks = adapter_ranks(adapted)
    assert set(ranks) == (linear - chooses - {"lm_head"}) | experts
    assert set(ranks.values()) == {3}
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert not any(".gate." in name or "router" in name for name in trained)


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "glm4_moe", "qwen2_moe"])
def test_named_layers_are_dense_shared_and_of_experts_at_one_rank(kind):
    model = mixture(kind)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    named = ("gate_proj", "up_proj", "down_proj")
    dense = {name for name in linear if name.endswith(named)}
    adapted = with_adapters(model, LoraSection(rank=3, targets=list(named)))
    ranks = adapter_ranks(adapted)
    assert dense and set(ranks) == dense | set(stacked_parameters(mixture(kind)))
    assert set(ranks.values()) == {3}


def test_half_of_a_stacked_weight_is_refused():
    with pytest.raises(RecipeError, match="gate_proj and up_proj in one tensor; name both"):
        targets_of(mixture("qwen3_moe"), ["gate_proj", "q_proj"])
    with pytest.raises(RecipeError, match="w1 and w3 in one tensor; name both, or gate_up_proj"):
        targets_of(mixture("mixtral"), ["w1", "w2"])


def test_the_older_names_of_experts_reach_their_stacked_weights():
    ranks = adapter_ranks(
        with_adapters(mixture("mixtral"), LoraSection(rank=2, targets=["w1", "w2", "w3"]))
    )
    assert {path.split("layers.")[1] for path in ranks} == {
        f"{layer}.mlp.experts.{name}" for layer in (0, 1) for name in ("gate_up_proj", "down_proj")
    }


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "glm4_moe"])
def test_saved_adapters_are_put_back_where_they_were_by_peft_itself(tmp_path, kind):
    from peft import PeftModel

    adapted = with_adapters(mixture(kind), LoraSection(rank=3, alpha=6.0))
    changed(adapted)
    policy = Policy(adapted, tiny_tokenizer())
    with policy.own_attention():
        expected = logits_of(policy.model)
        policy.save(tmp_path)
        again = PeftModel.from_pretrained(mixture(kind), tmp_path / "adapter").eval()
        torch.testing.assert_close(logits_of(again), expected, atol=1e-4, rtol=1e-4)
        whole = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(logits_of(whole), expected, atol=1e-4, rtol=1e-4)


def test_a_version_of_peft_that_adapts_other_layers_is_refused(monkeypatch):
    from grpo.model import adapters

    inject = adapters._inject

    def astray(model, config):
        config.target_modules = [name for name in config.target_modules if "q_proj" not in name]
        return inject(model, config)

    monkeypatch.setattr(adapters, "_inject", astray)
    with pytest.raises(RecipeError, match="does not put adapters of rank 8 where.*q_proj"):
        with_adapters(tiny_model("llama", 0), LoraSection(rank=8))


# ---- tied embeddings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "q_proj"]])
def test_an_adapter_on_a_tied_output_layer_is_saved_and_the_embedding_stays(
    tmp_path, family, targets
):
    model = tiny_model(family, 0, tie_word_embeddings=True)
    before = model.get_input_embeddings().weight.detach().clone()
    adapted = with_adapters(model, LoraSection(rank=4, alpha=8.0, targets=targets))
    changed(adapted)
    policy = Policy(adapted, tiny_tokenizer())
    policy.save(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    assert torch.equal(again.get_input_embeddings().weight, before)
    with policy.own_attention():
        expected = logits_of(policy.model)
    again.set_attn_implementation("eager")  # the only one that caps scores in every version
    torch.testing.assert_close(logits_of(again), expected, atol=2e-5, rtol=1e-5)


def test_all_linear_leaves_a_tied_output_layer_tied():
    model = tiny_model("llama", 0, tie_word_embeddings=True)
    with_adapters(model, LoraSection())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings
