"""A GGUF file's rotary scaling and splitting of text are those that the model was trained with, or are refused."""

from __future__ import annotations

import warnings

import numpy
import pytest
import torch
from gguf_files import write_gguf
from tiny import byte_tokenizer, tiny_model
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM

from grpo.model.gguf_metadata import (
    SPLITS,
    llama3_divisors,
    read_metadata,
    rotary_scaling,
    split_patterns,
    splitting,
)
from grpo.model.info import load_config, load_tokenizer
from grpo.model.loading import load_model
from grpo.model.policy import Policy
from grpo.model.saved import check_saved
from grpo.recipe import ModelSection, RecipeError

WIDTH = 16  # of a head
IDS = torch.arange(3, 203)[None]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SMALL = {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 64}
ODD = {**SMALL, "factor": 5.0, "low_freq_factor": 1.5, "high_freq_factor": 40.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope",
    "factor": 4.0,
    "attention_factor": 1.25,
    "original_max_position_embeddings": 128,
    "short_factor": [1.0 + 0.1 * i for i in range(WIDTH // 2)],
    "long_factor": [2.0 + i for i in range(WIDTH // 2)],
}


def scaled_model(theta: float, **rope):
    """A tiny Llama of wide heads whose rotary embedding is scaled."""
    rope = {"rope_theta": theta, **(rope or {"rope_type": "default"})}
    return tiny_model(
        "llama",
        1,
        vocabulary=len(byte_tokenizer()) + 2,
        hidden_size=64,
        tie_word_embeddings=True,
        rope_parameters=rope,
    )


def factors(theta: float, scaling) -> dict[str, numpy.ndarray]:
    """The tensor that llama.cpp's converter writes for the scaling of Llama 3.1."""
    frequency = theta ** (-torch.arange(WIDTH // 2, dtype=torch.float64) * 2 / WIDTH)
    divisors = llama3_divisors(frequency, scaling)
    return {"rope_freqs.weight": divisors.float().numpy()}


def yarn_keys(**more):
    return {
        "scaling.type": "yarn",
        "scaling.factor": 4.0,
        "scaling.original_context_length": 128,
        **more,
    }


LINEAR = {"rope_type": "linear", "factor": 4.0}
SCALED = {
    "none": (10000.0, {}, {}, {}),
    "base": (500000.0, {}, {}, {}),
    "llama3": (500000.0, LLAMA3, {}, factors(500000.0, LLAMA3)),
    "llama3 of a small model": (10000.0, SMALL, {}, factors(10000.0, SMALL)),
    "llama3 with other limits": (10000.0, ODD, {}, factors(10000.0, ODD)),
    "linear": (10000.0, LINEAR, {"scaling.type": "linear", "scaling.factor": 4.0}, {}),
    "linear unnamed": (10000.0, LINEAR, {"scaling.factor": 4.0}, {}),
    "linear of old": (10000.0, LINEAR, {"scale_linear": 4.0}, {}),
    "named none": (10000.0, {}, {"scaling.type": "none", "scaling.factor": 4.0}, {}),
    "yarn": (10000.0, YARN, yarn_keys(), {}),
    "yarn with limits": (
        10000.0,
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
        yarn_keys(**{"scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0}),
        {},
    ),
    "yarn with attention": (
        10000.0,
        {**YARN, "attention_factor": 0.5 * (1 + 0.1 * numpy.log(4.0))},
        yarn_keys(**{"scaling.attn_factor": 0.5}),
        {},
    ),
    "longrope": (
        10000.0,
        LONG,
        {
            "scaling.type": "longrope",
            "scaling.attn_factor": 1.25,
            "scaling.original_context_length": 128,
        },
        {
            "rope_factors_short.weight": numpy.array(LONG["short_factor"], dtype=numpy.float32),
            "rope_factors_long.weight": numpy.array(LONG["long_factor"], dtype=numpy.float32),
        },
    ),
}


@pytest.mark.parametrize("name", SCALED)
@torch.no_grad()
def test_the_files_rotary_scaling_is_the_models(tmp_path, name):
    theta, rope, keys, tensors = SCALED[name]
    plain = scaled_model(theta, **rope)
    section = ModelSection(
        name=str(write_gguf(tmp_path / "tiny.gguf", plain, rope=keys, tensors=tensors))
    )
    expected = plain(IDS).logits
    unscaled = scaled_model(theta)(IDS).logits
    model = load_model(section)
    torch.testing.assert_close(model(IDS).logits, expected, atol=2e-3, rtol=1e-3)
    assert bool(rope) == ((expected - unscaled).abs().max() > 0.02)
    kind = rope.get("rope_type", "default")
    assert load_config(section).rope_parameters["rope_type"] == kind
    policy = Policy(model, load_tokenizer(section))
    policy.save(tmp_path / "saved")
    assert not check_saved(policy, tmp_path / "saved").problems
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(IDS).logits, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "keys, tensors, named",
    [
        ({"scaling.type": "ntk", "scaling.factor": 2.0}, {}, "llama.rope.scaling.type"),
        ({"scaling.alpha": 1000.0}, {}, "llama.rope.scaling.alpha"),
        (
            yarn_keys(**{"scaling.yarn_log_multiplier": 0.1}),
            {},
            "llama.rope.scaling.yarn_log_multiplier",
        ),
        (
            yarn_keys(**{"scaling.yarn_ext_factor": 0.5}),
            {},
            "llama.rope.scaling.yarn_ext_factor",
        ),
        (
            {"scaling.type": "linear", "scaling.factor": 2.0, "scaling.attn_factor": 2.0},
            {},
            "llama.rope.scaling.attn_factor",
        ),
        ({"scaling.type": "longrope"}, {}, "llama.rope.scaling.type"),
        (
            {},
            {"rope_freqs.weight": numpy.array([1, 9, 2, 7, 1, 3, 8, 8], dtype=numpy.float32)},
            "rope_freqs.weight",
        ),
        ({}, {"rope_freqs.weight": numpy.array([1, 8], dtype=numpy.float32)}, "rope_freqs.weight"),
        (
            {"scaling.type": "yarn", "scaling.factor": 2.0},
            factors(10000.0, SMALL),
            "rope_freqs.weight",
        ),
    ],
)
def test_a_scaling_that_cannot_be_carried_over_is_refused_by_its_key(
    tmp_path, keys, tensors, named
):
    file = write_gguf(tmp_path / "tiny.gguf", scaled_model(10000.0), rope=keys, tensors=tensors)
    section = ModelSection(name=str(file))
    for load in (load_config, load_model):
        with pytest.raises(RecipeError, match=f"rotary embedding by {named}, which cannot"):
            load(section)


def test_factors_of_one_scale_nothing(tmp_path):
    ones = {"rope_freqs.weight": numpy.ones(WIDTH // 2, dtype=numpy.float32)}
    file = write_gguf(tmp_path / "tiny.gguf", scaled_model(10000.0), tensors=ones)
    assert rotary_scaling(read_metadata(file)) == {}


def test_the_published_scalings_of_llama_3_are_recognized(tmp_path):
    """The models of 128 and 64 dimensions a head, with factors of 8 and 32."""
    for width, factor in ((128, 8.0), (64, 32.0), (128, 8.0)):
        scaling = {**LLAMA3, "factor": factor}
        frequency = 500000.0 ** (-torch.arange(width // 2, dtype=torch.float64) * 2 / width)
        tensor = llama3_divisors(frequency, scaling).float().numpy()
        file = tmp_path / f"{width}-{factor}.gguf"
        write_gguf(file, scaled_model(500000.0), tensors={"rope_freqs.weight": tensor})
        assert rotary_scaling(read_metadata(file), dimensions=width) == scaling


# ---- splitting --------------------------------------------------------------------------------------------------

TEXT = (
    "In 2024, it's 12345 items\n\n  at 3.50!  I'LL pay؟ ÉTÉ naïve_x 数学 x²+1\tEND cafe\u0301 e\u0301a!\n\n"
    " a/b //\n camelCase HTTPServer $abc ~12,345~ ?!\n/x don't  "
)


def pieces(patterns) -> list[str]:
    """The pieces of the text, bytes spelled as letters."""
    return [piece for piece, _ in splitting(patterns).pre_tokenize_str(TEXT)]


def split_as(*steps) -> list[str]:
    return [p for p, _ in pre_tokenizers.Sequence(list(steps)).pre_tokenize_str(TEXT)]


def test_known_ways_split_as_the_published_tokenizers_do():
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_of_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert pieces(split_patterns("gpt-2")) == split_as(bytes_of_gpt2)
    assert pieces(split_patterns("smollm")) == split_as(digits, bytes_of_gpt2)
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    by_qwen = pre_tokenizers.Split(Regex(qwen), behavior="isolated")
    assert pieces(split_patterns("qwen2")) == split_as(by_qwen, spell)
    by_llama = pre_tokenizers.Split(
        Regex(qwen.replace(r"\p{N}|", r"\p{N}{1,3}|")), behavior="isolated"
    )
    assert pieces(split_patterns("llama-bpe")) == split_as(by_llama, spell)


def test_every_known_way_keeps_the_whole_text_and_differs_from_the_others():
    ways = {names: pieces(patterns) for names, patterns in SPLITS.items()}
    spelled = "".join(pieces(split_patterns("gpt-2")))
    assert all("".join(found) == spelled for found in ways.values())
    assert len({tuple(found) for found in ways.values()}) == len(ways)
    names = [name for names in SPLITS for name in names]
    assert len(set(names)) == len(names)


def test_digits_are_tokens_of_their_own_where_the_file_says_smollm(tmp_path):
    words = dict(words=["12", "ab"], merges=["1 2", "a b"])
    for pre, expected in (("smollm", ["1", "2", "ab"]), ("llama-bpe", ["12", "ab"])):
        file = write_gguf(tmp_path / f"{pre}.gguf", scaled_model(10000.0), pre=pre, **words)
        tokenizer = load_tokenizer(ModelSection(name=str(file)))
        assert tokenizer.convert_ids_to_tokens(tokenizer("12ab")["input_ids"])[
            -len(expected) :
        ] == (expected)
        assert len(tokenizer) == 261


@pytest.mark.parametrize("pre", ["unheard-of", "default", None])
def test_a_way_that_is_not_known_is_said(tmp_path, pre):
    file = write_gguf(tmp_path / "tiny.gguf", scaled_model(10000.0), pre=pre)
    with pytest.warns(
        UserWarning, match="tokenizer.ggml.pre.*take the tokenizer as tokenizer.json"
    ):
        load_tokenizer(ModelSection(name=str(file)))


def test_a_known_way_says_nothing(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", scaled_model(10000.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(ModelSection(name=str(file)))
