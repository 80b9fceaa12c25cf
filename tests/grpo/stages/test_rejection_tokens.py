"""Whether accepted rows train the tokens that were sampled, whatever shows the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import byte_tokenizer, tiny_model

from grpo.data.prompts import make_prompts
from grpo.data.sources import SourceRows
from grpo.model.info import ModelInfo
from grpo.recipe import RowsSection
from grpo.stages.rejection.candidates import Candidate, Origin
from grpo.stages.rejection.rows import accepted_row
from grpo.stages.rejection.tokens import kinds_of_tokens
from grpo.types import Completion, Prompt
from rewards import Score

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if thinking %}<think>\n{% endif %}{% endif %}"
)
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2 + 2?"}]
SHOWN = {
    "plain": (RowsSection(template="plain"), "2 + 2?", " 4"),
    "r1": (RowsSection(template="r1"), "2 + 2?", " <think>so 4</think> <answer>4</answer>"),
    "a pattern": (RowsSection(template="Q: {prompt}\nA:"), "2 + 2?", " 4"),
    "a chat of text": (
        RowsSection(template="chat", system="Be brief."),
        "2 + 2?",
        "<think>4</think>4",
    ),
    "a chat of messages": (RowsSection(template="chat"), MESSAGES, "4"),
    "a chat that opens the reasoning": (
        RowsSection(template="chat", template_args={"thinking": True}),
        MESSAGES,
        "2 and 2\n</think>\n\n4",
    ),
}


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    config = tiny_model("llama", 0, vocabulary=300, num_hidden_layers=1).config
    return ModelInfo(config, tokenizer, frozenset({tokenizer.eos_token_id}))


def made(
    info: ModelInfo, section: RowsSection, prompt: Any, text: str, **more: Any
) -> tuple[Candidate, dict]:
    """A candidate whose tokens spell `text`, and its row; `more` has other tokens or another end."""
    row = {"prompt": prompt, "answer": "4", "completion": "a reference", "pass_rate": "high"}
    shown: Prompt = make_prompts(SourceRows("", section, train=[row]), info).train[0]
    token_ids = info.tokenizer(text, add_special_tokens=False)["input_ids"]
    token_ids = more.get("token_ids", [*token_ids, info.tokenizer.eos_token_id])
    stop = more.get("stop", info.tokenizer.eos_token_id)
    candidate = Candidate(
        prompt=shown,
        completion=Completion(text, tuple(token_ids), torch.zeros(len(token_ids)), "stop", stop),
        score=Score(1.0),
        verdict={"correct": Score(1.0)},
        right=True,
        num_tokens=more.get("num_tokens", len(token_ids)),
        origin=Origin(0),
        has_token_ids=more.get("has_token_ids", True),
    )
    return candidate, accepted_row(candidate, 0.5, info.tokenizer)


@pytest.mark.parametrize("name", SHOWN)
def test_the_row_trains_the_tokens_that_were_sampled(info, name):
    section, prompt, text = SHOWN[name]
    candidate, row = made(info, section, prompt, text)
    assert kinds_of_tokens([candidate], [row], section, info) == ["same"]
    assert row["prompt"] == prompt and row["answer"] == "4" and row["completion"] == text


def test_columns_of_our_names_are_kept_under_others(info):
    _, row = made(info, *SHOWN["plain"])
    assert (row["source_completion"], row["source_pass_rate"]) == ("a reference", "high")
    assert row["pass_rate"] == 0.5 and row["sampled"]["stop"] == "</s>"


def test_other_tokens_a_further_end_and_what_is_not_known_are_told_apart(info):
    section = SHOWN["plain"][0]
    plain = info.tokenizer(" 4.", add_special_tokens=False)["input_ids"]
    cases = {
        "end_added": made(info, section, "2 + 2?", " 4.", token_ids=plain, stop="."),
        "others": made(info, section, "2 + 2?", " 4.", token_ids=[*plain[1:], plain[0], 2]),
        "unknown": made(info, section, "2 + 2?", " 4.", has_token_ids=False),
    }
    for kind, (candidate, row) in cases.items():
        assert kinds_of_tokens([candidate], [row], section, info) == [kind]
    shorter, row = made(info, section, "2 + 2?", " 4.", has_token_ids=False, num_tokens=2)
    blank, empty = made(info, section, "2 + 2?", " ")
    assert kinds_of_tokens([shorter, blank], [row, empty], section, info) == ["others", "others"]


def test_a_tag_that_the_prompt_has_opened_already_is_told(info):
    section, prompt, _ = SHOWN["a chat that opens the reasoning"]
    candidate, row = made(info, section, prompt, "<think>so</think>4")
    assert kinds_of_tokens([candidate], [row], section, info) == ["others"]
