"""A tokenizer's splitting is found by what it does, and whatever GGUF has no place for is refused in a sentence."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from exports import byte_level
from tiny import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grpo.export.vocabulary import NAMES, PROBE, vocabulary_of
from grpo.model.gguf_metadata import split_patterns, splitting
from grpo.recipe import RecipeError


def split(pre):
    return splitting(split_patterns(pre)).pre_tokenize_str(PROBE)


def test_no_two_names_split_the_probe_alike_unless_they_differ_in_merging():
    alike = [
        (first, second)
        for first, second in combinations(NAMES, 2)
        if split(first[0]) == split(second[0]) and first[1] == second[1]
    ]
    assert not alike


@pytest.mark.parametrize("name, ignores", NAMES)
def test_the_name_of_a_splitting_is_found_whatever_the_tokenizer_is_called(name, ignores):
    tokenizer = byte_level(name, ignores)
    assert vocabulary_of(tokenizer, len(tokenizer)).pre == name


def test_gpt2s_own_spelling_of_its_splitting_and_smollms_are_found():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert vocabulary_of(tokenizer, 600).pre == "gpt-2"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    assert vocabulary_of(tokenizer, 600).pre == "smollm"


def test_special_tokens_keep_their_kinds_and_rows_without_a_token_get_a_name():
    tokenizer = byte_level()
    tokenizer.add_tokens(["<think>"])
    size = len(tokenizer) + 2
    found = vocabulary_of(tokenizer, size, end_ids=[2, 0])
    assert (len(found.tokens), len(set(found.tokens)), len(found.kinds)) == (size, size, size)
    assert found.kinds[:4] == [3, 3, 3, 1]
    assert found.kinds[tokenizer.convert_tokens_to_ids("<think>")] == 4
    assert found.kinds[-2:] == [5, 5] and found.tokens[-1] == f"[PAD{size - 1}]"
    assert found.special_ids == {"eos": 2, "eot": 0, "padding": 0}
    assert not found.add_bos and not found.add_eos


def changed(**parts):
    """A byte-level tokenizer with other parts of its backend."""
    tokenizer = byte_level()
    for name, value in parts.items():
        setattr(tokenizer.backend_tokenizer, name, value)
    return tokenizer


def with_model(**values):
    state = json.loads(byte_level().backend_tokenizer.to_str())
    state["model"].update(values)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))


ODD_SPLIT = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\d{2}|\D+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
REFUSED = {
    "another splitting": (lambda: changed(pre_tokenizer=ODD_SPLIT), "no name in llama.cpp"),
    "a space before the text": (
        lambda: changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "no name in llama.cpp",
    ),
    "lower case": (lambda: changed(normalizer=normalizers.Lowercase()), "normalizer is Lowercase"),
    "a suffix": (lambda: with_model(end_of_word_suffix="</w>"), "end_of_word_suffix is '</w>'"),
    "other tokens around a text": (
        lambda: changed(
            post_processor=processors.TemplateProcessing(
                single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
            )
        ),
        "adds other tokens to a text",
    ),
    "words joined without spaces": (lambda: tiny_tokenizer(20), "joins words otherwise"),
    "pieces of words": (
        lambda: PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
        ),
        "its model is WordPiece",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_cannot_be_written_is_refused_with_the_reason(case):
    make, reason = REFUSED[case]
    with pytest.raises(RecipeError, match="the tokenizer cannot be written as GGUF") as refused:
        vocabulary_of(make(), 600)
    assert reason in str(refused.value)


def test_a_fourth_end_token_that_llama_cpp_does_not_know_is_refused():
    tokenizer = byte_level()
    with pytest.raises(RecipeError, match="more than three end tokens"):
        vocabulary_of(tokenizer, 600, end_ids=[0, 1, 2, 40])


def test_a_splitting_named_by_hand_is_taken_and_said_to_be_unchecked():
    found = vocabulary_of(changed(pre_tokenizer=ODD_SPLIT), 600, pre="qwen2")
    assert found.pre == "qwen2" and any("unchecked" in note for note in found.notes)
