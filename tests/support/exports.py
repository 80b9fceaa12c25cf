"""Models to export: byte-level tokenizers that split text in each named way, and random models over them."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_model
from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from grpo.export import llama_cpp
from grpo.export.vocabulary import PROBE
from grpo.model.gguf_metadata import split_patterns, splitting
from grpo.model.policy import Policy

WORD = "zqxvkw"
"""A token that no merge makes: only a tokenizer that ignores merges finds it."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.is_installed(),
    reason="llama.cpp's package xllamacpp is not installed",
)


def byte_level(pre: str = "qwen2", ignores_merges: bool = False) -> PreTrainedTokenizerFast:
    """A trained byte-level BPE of about 500 tokens that splits text as `pre` names it, with ChatML's special tokens."""
    patterns = split_patterns(pre)
    assert patterns is not None
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignores_merges))
    tokenizer.pre_tokenizer = splitting(patterns)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROBE] * 3, trainer)
    state = json.loads(tokenizer.to_str())
    state["model"]["vocab"][f"\u0120{WORD}"] = len(state["model"]["vocab"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    fast.chat_template = CHAT
    return fast


def random_policy(family: str, seed: int = 1, tokenizer=None, **options) -> Policy:
    """A random model over a byte-level tokenizer, with rows in its embedding that no token has."""
    tokenizer = tokenizer or byte_level()
    model = tiny_model(family, seed, vocabulary=len(tokenizer) + 3, **options)
    return Policy(model, tokenizer)
