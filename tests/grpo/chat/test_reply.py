"""A streamed reply has the text of the whole one, and its thinking is told from its answer wherever it is cut."""

from __future__ import annotations

import random

import pytest
from exports import byte_level
from quick_runs import ROOT
from tiny import tiny_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from grpo.chat.reply import ANSWER, THINKING, Splitter, TokenText

REPLIES = {
    "thinking first": ("<think>\n1 + 1\n</think>\n\nTwo.", False, "1 + 1", "Two."),
    "opened by the prompt": ("1 + 1\n</think>\n\nTwo.\n", True, "1 + 1", "Two."),
    "no thinking": ("Two <b>!", False, "", "Two <b>!"),
    "thinking that never ends": ("<think>1 + 1 < 3", False, "1 + 1 < 3", ""),
    "tags of the template": (" <think>so</think> <answer> 2 </answer>", False, "so", "2"),
    "a tag that is only mentioned": ("Use <think> tags.", False, "", "Use <think> tags."),
    "half a tag at the end": ("Two </ans", False, "", "Two </ans"),
    "a comparison in the thinking": ("a<b, </think>yes", True, "a<b,", "yes"),
    "an empty block": ("<think>\n\n</think>\n\nTwo.", False, "", "Two."),
}


@pytest.mark.parametrize("name", REPLIES)
def test_thinking_and_answer_are_told_apart_wherever_the_text_is_cut(name, seed):
    text, opened, thinking, answer = REPLIES[name]
    draw = random.Random(seed)
    for size in (1, 2, 3, 7, len(text)):
        splitter = Splitter(opened)
        pieces = []
        index = 0
        while index < len(text):
            step = min(size, draw.randint(1, size))
            pieces += splitter.push(text[index : index + step])
            index += step
        pieces += splitter.close()
        found = {
            kind: "".join(p.text for p in pieces if p.kind == kind) for kind in (THINKING, ANSWER)
        }
        assert (found[THINKING].strip(), found[ANSWER].strip()) == (thinking, answer)
        assert not found[THINKING][:1].isspace() and not found[ANSWER][:1].isspace()


def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    words = AutoTokenizer.from_pretrained(ROOT / "recipes" / "quickstart_base")
    return {"bytes": byte_level(), "words": words, "letters": tiny_tokenizer()}


TEXTS = {
    "bytes": "na\u00efve \U0001f44d\U0001f3fd 中文 <|im_start|> a\u0301 ¥ ",
    "words": "( 3 + 5 ) * 7 answer no",
    "letters": "a b ab c aa",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_pieces_of_a_reply_make_the_text_of_its_tokens_and_no_half_characters(name):
    tokenizer = tokenizers()[name]
    ids = tokenizer(TEXTS[name], add_special_tokens=False)["input_ids"]
    text = TokenText(tokenizer)
    pieces = [text.push(ids[:length]) for length in range(1, len(ids) + 1)]
    assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
