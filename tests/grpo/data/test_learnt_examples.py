"""Which tokens of a row are learnt, over the shapes of chat templates and the forms of rows; and that none is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import (
    CHATML,
    EOS_BEHIND_ALL,
    KEEPS_OPENED,
    LLAMA3,
    MARKED,
    MARKED_WITHOUT_END,
    NO_END,
    OPENS_THINKING,
    THINKING,
    chat_tokenizer,
)
from tiny import byte_tokenizer, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from grpo.data.example_rows import load_example_rows
from grpo.data.examples import Example, ExampleSet, load_examples
from grpo.data.sources import load_sources
from grpo.model.info import ModelInfo
from grpo.recipe import Recipe, RecipeError, RowsSection

TURNS = [
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "one, two"},
    {"role": "user", "content": "three?"},
    {"role": "assistant", "content": "all three"},
]
THOUGHT = [{**turn} for turn in TURNS]
THOUGHT[3]["content"] = "<think>\nhm\n</think>\n\nall three"
THOUGHT_TWICE = [{**turn} for turn in THOUGHT]
THOUGHT_TWICE[1]["content"] = "<think>\nwell\n</think>\n\none, two"


def loaded(rows: list[dict], tokenizer, *overrides: str) -> ExampleSet:
    """The examples of some rows."""
    recipe = Recipe.from_mapping({"stage": "sft", "model": {"name": "x"}}, *overrides)
    model = tiny_model("llama", 0, vocabulary=len(tokenizer))
    sources = load_sources(
        recipe.data,
        rows,
        load=lambda section, given, report: load_example_rows(
            section, given, report, form=recipe.sft.form
        ),
    )
    info = ModelInfo(model.config, tokenizer, frozenset([tokenizer.eos_token_id]))
    return load_examples(recipe, info, sources)


def learnt(example: Example, tokenizer) -> list[str]:
    """The learnt stretches as text, special tokens shown."""
    ids = example.prompt.token_ids
    return [tokenizer.decode(ids[start:end]) for start, end in example.learnt]


def only(rows: list[dict], tokenizer, *overrides: str) -> list[str]:
    (example,) = loaded(rows, tokenizer, *overrides).train
    return learnt(example, tokenizer)


# ---- chats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (MARKED, "<|im_end|>"),
        (MARKED_WITHOUT_END, "<|im_end|>"),
        (EOS_BEHIND_ALL, "<|im_end|>"),
    ],
    ids=["chatml", "llama3", "marked", "marked without its end", "an end of text behind all"],
)
def test_of_a_chat_each_turn_of_the_assistant_is_learnt_with_its_end(
    template: str, end: str
) -> None:
    tokenizer = chat_tokenizer(template)
    rows = [{"messages": TURNS}]
    assert only(rows, tokenizer) == [f"one, two{end}", f"all three{end}"]
    assert loaded(rows, tokenizer).end_ids == {tokenizer.convert_tokens_to_ids(end)}
    assert only(rows, tokenizer, "sft.train_on=last") == [f"all three{end}"]
    (whole,) = loaded(rows, tokenizer, "sft.train_on=all").train
    assert whole.learnt == ((1, len(whole.prompt.token_ids)),)


def test_the_tokens_are_those_of_the_rendered_conversation() -> None:
    tokenizer = chat_tokenizer(CHATML)
    (example,) = loaded([{"messages": TURNS}], tokenizer).train
    rendered = tokenizer.apply_chat_template(TURNS, tokenize=True, return_dict=True)["input_ids"]
    assert (
        list(example.prompt.token_ids) == rendered[:-1]
    )  # but for the line break behind the last turn
    asked = tokenizer.apply_chat_template(
        TURNS[:3], tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert list(example.prompt.token_ids[: example.learnt[-1][0]]) == asked


def test_reasoning_of_the_last_turn_is_learnt_where_the_template_keeps_it() -> None:
    tokenizer = chat_tokenizer(THINKING)
    expected = ["<think>\nhm\n</think>\n\nall three<|im_end|>"]
    assert only([{"messages": THOUGHT}], tokenizer, "sft.train_on=last") == expected
    assert only([{"messages": THOUGHT[2:]}], tokenizer) == expected
    opened = only([{"messages": THOUGHT[2:]}], chat_tokenizer(KEEPS_OPENED))
    assert opened == ["hm\n</think>\n\nall three<|im_end|>"]
    off = only([{"messages": TURNS[:2]}], tokenizer, "data.template_args={enable_thinking: false}")
    assert off == ["one, two<|im_end|>"]  # the empty reasoning is part of the prompt


@pytest.mark.parametrize("turns", [TURNS, THOUGHT_TWICE], ids=["plain", "with reasoning"])
def test_a_template_that_rewrites_earlier_turns_is_refused_by_its_name(turns: list[dict]) -> None:
    tokenizer = chat_tokenizer(THINKING)
    tokenizer.name_or_path = "some/model"
    with pytest.raises(RecipeError, match="the chat template of some/model .*sft.train_on: last"):
        loaded([{"messages": turns}], tokenizer)


def test_a_template_that_drops_what_the_assistant_wrote_is_refused() -> None:
    dropping = CHATML.replace("m.content +", "m.content.split('</think>')[-1] +")
    with pytest.raises(RecipeError, match="leaves out of what the assistant wrote .*hm"):
        loaded([{"messages": THOUGHT[2:]}], chat_tokenizer(dropping))
    with pytest.raises(RecipeError, match="otherwise once turn 2"):
        loaded([{"messages": THOUGHT[2:]}], chat_tokenizer(OPENS_THINKING))
    key = [TURNS[0], {**TURNS[1], "reasoning_content": "counting"}]
    with pytest.raises(RecipeError, match="reasoning_content 'counting'"):
        loaded([{"messages": key}], chat_tokenizer(CHATML))


def test_marks_that_do_not_match_the_turns_are_refused() -> None:
    broken = MARKED.replace("m.role == 'assistant' %}{% gen", "loop.last %}{% gen")
    with pytest.raises(RecipeError, match="marks 1 stretches as generated .* 2 turns"):
        loaded([{"messages": TURNS}], chat_tokenizer(broken))


def test_a_template_without_an_end_of_turn_gets_the_end_token_after_the_last() -> None:
    assert only([{"messages": TURNS}], chat_tokenizer(NO_END)) == ["one, two", "all three</s>"]


def test_turns_after_the_last_learnt_one_are_left_out_and_a_greeting_is_learnt() -> None:
    tokenizer = chat_tokenizer(CHATML)
    turns = [{"role": "assistant", "content": "Hello"}, *TURNS[:3]]
    (example,) = loaded([{"messages": turns}], tokenizer).train
    assert learnt(example, tokenizer) == ["Hello<|im_end|>", "one, two<|im_end|>"]
    assert example.learnt[-1][1] == len(example.prompt.token_ids)


def test_other_spellings_systems_and_tools_reach_the_template() -> None:
    template = "{{ tools | tojson if tools else '' }}" + CHATML
    row = {
        "conversations": json.dumps(
            [{"from": "human", "value": "two?"}, {"from": "gpt", "value": "one, two"}]
        ),
        "tools": '[{"name": "count"}]',
    }
    tokenizer = chat_tokenizer(template)
    (example,) = loaded(
        [row], tokenizer, "data.columns.messages=conversations", "data.system=Count."
    ).train
    text = example.prompt.text
    assert text.startswith('[{"name": "count"}]<|im_start|>system\nCount.<|im_end|>')
    assert learnt(example, tokenizer) == ["one, two<|im_end|>"]


# ---- prompts and completions, texts ---------------------------------------------------------------------------------


def test_a_completion_is_learnt_as_it_stands_with_the_end_token() -> None:
    tokenizer = byte_tokenizer()
    rows = [{"prompt": "2 + 2 =", "completion": " 4 "}]
    assert only(rows, tokenizer, "data.template=plain") == [" 4 </s>"]
    ended = [{"prompt": "2 + 2 =", "completion": " 4</s>"}]
    assert only(ended, tokenizer, "data.template=plain") == [" 4</s>"]


def test_a_completion_keeps_reasoning_that_the_chat_template_would_drop() -> None:
    tokenizer = chat_tokenizer(OPENS_THINKING)
    completion = "<think>\nhm\n</think>\n\nall three"
    for answer in (completion, [{"role": "assistant", "content": completion}]):
        rows = [{"prompt": "three?", "completion": answer}]
        (example,) = loaded(rows, tokenizer, "data.template=chat").train
        assert learnt(example, tokenizer) == ["hm\n</think>\n\nall three<|im_end|>"]
        assert example.prompt.text.endswith("assistant\n<think>\nhm\n</think>\n\nall three")


def test_a_completion_of_several_messages_is_learnt_turn_by_turn() -> None:
    row = {"prompt": TURNS[:1], "completion": TURNS[1:]}
    ends = ["one, two<|im_end|>", "all three<|im_end|>"]
    assert only([row], chat_tokenizer(CHATML), "data.template=chat") == ends
    later = {"prompt": TURNS[:3], "completion": [{**TURNS[3], "name": "bot"}]}
    assert only([later], chat_tokenizer(CHATML), "data.template=chat") == ends[1:]


def test_a_prompt_that_runs_into_its_completion_is_tokenized_apart() -> None:
    tokenizer = tiny_tokenizer()  # whole words: "a:b" would be one that it does not know
    (example,) = loaded(
        [{"prompt": "a b", "completion": "c d"}], tokenizer, "data.template=plain"
    ).train
    assert tokenizer.convert_ids_to_tokens(example.prompt.token_ids) == ["a", "b", "c", "d", "</s>"]
    assert example.learnt == ((2, 5),)


def test_specials_that_the_tokenizer_adds_stay_in_front_and_are_not_doubled_behind() -> None:
    tokenizer = byte_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    rows = [{"prompt": "2 + 2 =", "completion": " 4"}]
    (example,) = loaded(rows, tokenizer, "data.template=plain").train
    assert tokenizer.decode(example.prompt.token_ids) == "<s>2 + 2 = 4</s>"
    assert learnt(example, tokenizer) == [" 4</s>"]
    (text,) = loaded([{"text": "ab"}], tokenizer).train
    assert tokenizer.decode(text.prompt.token_ids) == "<s>ab</s>" and text.learnt == ((1, 4),)


def test_a_tokenizer_that_puts_a_space_before_each_text_puts_none_before_the_completion() -> None:
    """As SentencePiece's do: a completion tokenized by itself would begin with a word's first piece."""
    letters = ["<pad>", "<s>", "</s>", "\u2581", *"abcdef", "\u2581a"]
    pieces = Tokenizer(models.BPE({piece: i for i, piece in enumerate(letters)}, [("\u2581", "a")]))
    pieces.pre_tokenizer = Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    (example,) = loaded(
        [{"prompt": "ab", "completion": "cd"}], tokenizer, "data.template=plain"
    ).train
    tokens = tokenizer.convert_ids_to_tokens(example.prompt.token_ids)
    assert tokens == ["\u2581a", "b", "c", "d", "</s>"] and example.learnt == ((2, 5),)


def test_a_text_is_learnt_from_its_second_token_on() -> None:
    tokenizer = byte_tokenizer()
    (example,) = loaded([{"text": "abc"}], tokenizer).train
    assert tokenizer.decode(example.prompt.token_ids) == "abc</s>"
    assert example.learnt == ((1, 4),)


def test_rows_of_no_form_are_refused_with_the_columns_that_may_be_meant() -> None:
    with pytest.raises(RecipeError, match="columns.prompt=question .*columns.completion=response"):
        loaded([{"question": "2?", "response": "2"}], byte_tokenizer())
    with pytest.raises(RecipeError, match="columns.messages=conversations"):
        loaded([{"conversations": TURNS}], byte_tokenizer())
    with pytest.raises(RecipeError, match="row 2 .* no column completion"):
        loaded([{"prompt": "a", "completion": "b"}, {"prompt": "c"}], byte_tokenizer())
    with pytest.raises(RecipeError, match="data.template is r1"):
        loaded([{"messages": TURNS}], chat_tokenizer(CHATML), "data.template=r1")
    with pytest.raises(RecipeError, match="no chat template"):
        loaded([{"messages": TURNS}], byte_tokenizer())
    with pytest.raises(RecipeError, match="a part of type image"):
        image = [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]]
        loaded([{"messages": image}], chat_tokenizer(CHATML))


# ---- every row is accounted for -------------------------------------------------------------------------------------


def test_no_row_is_cut_and_each_is_counted_once() -> None:
    tokenizer = byte_tokenizer()
    rows = [{"prompt": f"p{n}", "completion": "c" * n, "level": n} for n in range(12)]
    rows.append({**rows[3]})
    settings = ["data.template=plain", "sft.max_tokens=10", "data.where={level: '>= 0'}"]
    with pytest.raises(RecipeError, match="4 rows are longer than 10 tokens .* has 15.*too_long"):
        loaded(rows, tokenizer, *settings)
    settings += ["sft.too_long=drop", "data.held_out=3", "data.where={level: '< 11'}"]
    found = loaded(rows, tokenizer, *settings)
    assert sum(found.counts.values()) == len(rows)
    assert found.counts["left_out"] == 1 and found.counts["too_long"] >= 1
    everything = [*found.train, *found.held_out]
    assert max(len(example.prompt.token_ids) for example in everything) <= 10
    held = {example.prompt.truth["prompt"] for example in found.held_out}
    assert held.isdisjoint(example.prompt.truth["prompt"] for example in found.train)


def test_a_chat_with_nothing_of_the_assistants_is_counted_and_left_out() -> None:
    rows = [{"messages": TURNS[:1]}, {"messages": TURNS}]
    counts = loaded(rows, chat_tokenizer(CHATML)).counts
    assert counts["nothing_to_learn"] == 1 and counts["train"] == 1


def test_every_reader_of_the_data_layer_reads_rows_to_learn(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": {"text": "2?"}, "steps": "think", "a": 2}\n')
    section = RowsSection(
        source=str(file), columns={"prompt": "q.text", "completion": "{steps} -> {a}"}
    )
    (row,) = load_example_rows(section).rows
    assert (row["prompt"], row["completion"]) == ("2?", "think -> 2")
