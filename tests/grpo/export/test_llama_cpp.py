"""llama.cpp, given an exported file, tokenizes and answers as transformers does."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest
import torch
from exports import WORD, byte_level, needs_llama_cpp, random_policy

from grpo.export.vocabulary import MARKS_APART, NAMES, PROBE
from grpo.model.policy import Policy
from grpo.recipe import ModelSection, RecipeError

pytest.importorskip("gguf")
from grpo.export.check import loaded_back  # noqa: E402
from grpo.export.compare import greedy_agreement  # noqa: E402
from grpo.export.gguf_file import About, write_gguf  # noqa: E402
from grpo.export.llama_cpp import LlamaCpp  # noqa: E402
from grpo.export.precision import PRECISIONS  # noqa: E402

pytestmark = needs_llama_cpp
BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"
TEXTS = (
    PROBE,
    f" a {WORD} b {WORD}",
    "<|im_start|>user\nWhat is 12345 + 678?<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x + 1  # done\n\n\n",
    "   leading and trailing   ",
)


def written(policy: Policy, folder: Path, precision: str = "F32") -> Path:
    return write_gguf(
        policy, folder / "model.gguf", PRECISIONS[precision], about=About("tiny")
    ).path


@pytest.fixture(scope="module")
def quickstart() -> Policy:
    return Policy.load(ModelSection(name=str(BASE)))


def countdown_prompts(policy: Policy, number: int) -> list[list[int]]:
    draw = random.Random(1)
    texts = [
        f"{draw.randint(1, 13)} {draw.randint(1, 13)} {draw.randint(1, 13)} make {draw.randint(10, 99)} :"
        for _ in range(number)
    ]
    return [policy.tokenizer(text)["input_ids"] for text in texts]


def test_fifty_greedy_completions_of_the_quickstart_are_the_same(tmp_path, quickstart):
    path = written(quickstart, tmp_path)
    found = greedy_agreement(quickstart, path, countdown_prompts(quickstart, 50), 80)
    assert (found.prompts, found.same, found.tokens) == (50, 50, 1.0)
    assert found.mean < 1e-3


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
WIDE = {"hidden_size": 64}
MODELS = {
    "qwen2": ("qwen2", WIDE, 50),
    "qwen3, wide heads, tied": ("qwen3", {**WIDE, "head_dim": 32, "tie_word_embeddings": True}, 50),
    "qwen3_moe": ("qwen3_moe", {**WIDE, "head_dim": 16}, 10),
    "mistral": ("mistral", {**WIDE, "sliding_window": None}, 10),
    "llama, tied": ("llama", {**WIDE, "tie_word_embeddings": True}, 10),
    "llama, llama3": ("llama", {**WIDE, "rope_parameters": LLAMA3}, 10),
    "llama, linear": ("llama", {**WIDE, "rope_parameters": LINEAR}, 10),
    "llama, yarn": ("llama", {**WIDE, "rope_parameters": {**YARN, "attention_factor": 0.7}}, 10),
    "qwen2, yarn": ("qwen2", {**WIDE, "rope_parameters": YARN}, 10),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_random_model_answers_greedily_as_in_transformers(tmp_path, name, seed):
    family, options, number = MODELS[name]
    policy = random_policy(family, **options)
    path = written(policy, tmp_path)
    draw = random.Random(seed)
    prompts = [
        [draw.randrange(3, policy.vocab_size) for _ in range(draw.randint(20, 70))]
        for _ in range(number)
    ]
    found = greedy_agreement(policy, path, prompts, 12, exact=True)
    assert (found.same, found.tokens) == (number, 1.0)
    assert found.largest < 1e-4


@pytest.mark.parametrize("name, ignores", NAMES)
def test_text_becomes_the_same_tokens_under_each_name_of_splitting(tmp_path, name, ignores):
    policy = random_policy("llama", tokenizer=byte_level(name, ignores))
    runner = LlamaCpp(written(policy, tmp_path), 512)
    for text in TEXTS:
        if name in MARKS_APART:  # which the card says
            text = "".join(char for char in text if not unicodedata.category(char).startswith("M"))
        expected = policy.tokenizer(text)["input_ids"]
        assert runner.tokenize(text, add_special=True) == expected, text


def test_a_vocabulary_of_words_is_read_with_signs_apart_and_written_with_spaces(
    tmp_path, quickstart
):
    runner = LlamaCpp(written(quickstart, tmp_path), 128)
    for text in ("3 5 7 make 56 :", "3  5\t7 make\n56:", "(3+5)*7", "no,answer ( 4 )"):
        expected = quickstart.tokenizer(text)["input_ids"]
        assert runner.tokenize(text, add_special=True) == expected, text
    assert runner.write(runner.tokenize("(3+5)*7", add_special=False)) == " ( 3 + 5 ) * 7"


def test_a_conversation_is_rendered_by_the_same_template(tmp_path):
    policy = random_policy("qwen2")
    runner = LlamaCpp(written(policy, tmp_path), 512)
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n4"},
        {"role": "user", "content": "3 + 3?"},
    ]
    expected = policy.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert runner.render(turns) == expected


@pytest.mark.parametrize(
    "precision, nats", [("F16", 0.02), ("BF16", 0.1), ("Q8_0", 0.2), ("Q4_K", 0.4)]
)
def test_llama_cpp_reads_each_format_as_the_library_does(tmp_path, precision, nats, seed):
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    policy = random_policy("qwen3", **shape)
    path = written(policy, tmp_path, precision)
    same_weights = loaded_back(path)
    draw = random.Random(seed)
    prompts = [[draw.randrange(3, policy.vocab_size) for _ in range(30)] for _ in range(6)]
    found = greedy_agreement(same_weights, path, prompts, 12, exact=True)
    assert found.mean < nats / 5 and found.largest < nats
    assert found.tokens > 0.9
    unlike = random_policy("qwen3", seed=2, **shape)
    assert greedy_agreement(unlike, path, prompts, 12, exact=True).mean > 1.0


def test_a_file_that_is_no_model_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(RecipeError, match="llama.cpp cannot load"):
        LlamaCpp(file, 64)


def test_every_end_token_of_the_model_ends_a_reply(tmp_path):
    policy = random_policy("qwen2", **WIDE)
    assert policy.stop_ids == {0, 2}
    for end in sorted(policy.stop_ids):
        always(policy, end)
        runner = LlamaCpp(written(policy, tmp_path), 64, exact=True)
        assert runner.greedy([5, 6, 7], 20).token_ids == (end,)


@torch.no_grad()
def always(policy: Policy, token: int) -> None:
    """Make `token` the likeliest after everything: the last norm gives a constant that the head reads."""
    base = policy.base
    base.model.embed_tokens.weight.fill_(1.0)
    for layer in base.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    base.model.norm.weight.fill_(1.0)
    base.lm_head.weight.zero_()
    base.lm_head.weight[token] = 1.0


def test_an_id_that_no_token_has_is_never_written(tmp_path):
    policy = random_policy("qwen2", **WIDE)
    always(policy, len(policy.base.lm_head.weight) - 1)
    runner = LlamaCpp(written(policy, tmp_path), 64, exact=True)
    assert all(token < policy.vocab_size for token in runner.greedy([5, 6, 7], 8).token_ids)
