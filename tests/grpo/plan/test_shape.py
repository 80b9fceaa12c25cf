"""The shape of a model counts the numbers that transformers' own module has, and peft's adapters."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import FAMILIES, LATENT
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.plan.shape import KNOWN, Shape, known_shape, shape_of_config
from grpo.recipe import RecipeError

DENSE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "olmo2", "granite", "gemma3_text")
EXPERTS = [family for family, own in FAMILIES.items() if any("experts" in key for key in own)]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def config_of(family: str, **options):
    own = {**FAMILIES, **LATENT}.get(family, {})
    own = {key: value for key, value in own.items() if key not in ("head_dim", "layer_types")}
    return AutoConfig.for_model(
        family, **{**SIZES, **own, "vocab_size": 600, "pad_token_id": 0, **options}
    )


def matrices_of(config) -> int:
    """Numbers of all parameters of two and more dimensions; no memory is taken."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("tied", [True, False])
def test_a_dense_model_has_as_many_numbers_as_its_matrices(family, tied):
    config = config_of(family, tie_word_embeddings=tied)
    assert shape_of_config(config, family).total == matrices_of(config)


def test_there_are_mixtures_of_experts_to_count():
    assert len(EXPERTS) >= 2


@pytest.mark.parametrize("family", [*EXPERTS, *LATENT])
def test_a_mixture_of_experts_has_as_many_numbers_as_its_matrices(family):
    config = config_of(family)
    assert shape_of_config(config, family).total == matrices_of(config)


def test_layers_without_experts_are_counted_as_dense_ones():
    config = config_of("qwen3_moe", num_hidden_layers=4, mlp_only_layers=[1], decoder_sparse_step=2)
    shape = shape_of_config(config, "mixed")
    assert shape.dense_layers == 3
    assert shape.total == matrices_of(config)


def test_a_token_goes_through_its_own_experts_alone():
    shape = shape_of_config(config_of("qwen3_moe"), "moe")
    unused = shape.expert_layers * (shape.experts - shape.experts_per_token) * shape.expert
    assert shape.body - shape.active_body == unused > 0


def test_experts_that_are_read_grow_with_the_rows_from_one_tokens_to_all():
    shape = known_shape("qwen3-30b-a3b")
    assert shape.touched(1) == pytest.approx(shape.active)
    assert shape.touched(10_000) == pytest.approx(shape.body + shape.head)
    assert shape.active < shape.touched(8) < shape.touched(64) < shape.body + shape.head


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapters_of_all_linear_layers_have_the_numbers_that_peft_makes(family):
    config = config_of(family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    numbers = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert shape_of_config(config, family).adapters(8) == numbers


PUBLISHED = {
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-1.5b": 1.54,
    "qwen2.5-7b": 7.62,
    "qwen2.5-72b": 72.7,
    "qwen3-0.6b": 0.596,
    "qwen3-8b": 8.19,
    "qwen3-30b-a3b": 30.5,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.6,
    "deepseek-v3": 671.0,
    "smollm2-135m": 0.1345,
}


@pytest.mark.parametrize("name, billions", PUBLISHED.items())
def test_published_models_have_their_published_size(name, billions):
    assert known_shape(name).total / 1e9 == pytest.approx(billions, rel=0.005)


def test_mixtures_of_experts_have_their_published_active_size():
    assert known_shape("qwen3-30b-a3b").active / 1e9 == pytest.approx(3.3, rel=0.12)
    assert known_shape("deepseek-v3").active / 1e9 == pytest.approx(37, rel=0.02)


def test_a_hub_id_finds_its_shape_and_a_strangers_does_not():
    assert known_shape("Qwen/Qwen2.5-1.5B-Instruct").layers == 28
    assert known_shape("deepseek-ai/DeepSeek-V3-Base").experts == 256
    assert known_shape("someone/qwen2.5-1.5bx") is None
    assert len(KNOWN) == len({known_shape(name).total for name in KNOWN})


def test_a_configuration_without_sizes_is_refused_by_the_name_of_what_it_lacks():
    with pytest.raises(RecipeError, match="has no hidden_size"):
        shape_of_config({"model_type": "mamba"}, "x")


def test_latent_attention_keeps_one_vector_a_token():
    shape: Shape = known_shape("deepseek-v3")
    assert shape.key_numbers == 512 + 64


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"intermediate_size": [320, 640, 320]}, r"has intermediate_size \[320, 640, 320\]"),
        ({"head_dim": "wide"}, "has head_dim wide"),
        ({"is_encoder_decoder": True}, "an encoder with a decoder"),
    ],
)
def test_what_is_no_decoder_of_equal_layers_is_refused(changed, words):
    with pytest.raises(RecipeError, match=words):
        shape_of_config({**SIZES, "vocab_size": 600, **changed}, "odd")


def test_a_size_for_each_layer_is_one_where_all_are_equal():
    plain = shape_of_config({**SIZES, "vocab_size": 600}, "same")
    each = {**SIZES, "vocab_size": 600, "intermediate_size": [320, 320, 320]}
    assert shape_of_config(each, "same") == plain
