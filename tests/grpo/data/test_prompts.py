"""Rows become prompts, in an order that the seed fixes."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import normalizers, processors
from transformers import PretrainedConfig

from grpo.data.prompts import PromptSet, load_prompts
from grpo.data.rows import load_rows
from grpo.data.sources import SourceRows
from grpo.data.stream import PromptStream
from grpo.data.templates import R1_TEMPLATE, Template, template_of
from grpo.model.info import ModelInfo
from grpo.recipe import DataSection, RecipeError
from grpo.types import Prompt

# ---- templates -------------------------------------------------------------------------------------------------


def text_of(question, template: str, tokenizer=None) -> str:
    return Template(template).render(question, tokenizer or tiny_tokenizer())[0]


def test_the_r1_template_is_the_papers():
    assert text_of("1 + 1", "r1") == R1_TEMPLATE.replace("{prompt}", "1 + 1")
    assert (
        R1_TEMPLATE.endswith("User: {prompt}. Assistant:")
        and "<think>" in R1_TEMPLATE
        and "<answer>" in R1_TEMPLATE
    )


def test_a_template_of_ones_own_takes_the_prompt_once_and_keeps_its_braces():
    assert (
        text_of("f({x}) {prompt}", "Q: {prompt} {} {other} A:")
        == "Q: f({x}) {prompt} {} {other} A:"
    )
    assert text_of("q", "plain") == "q"


def chat_tokenizer(
    template="{% for m in messages %}<{{m.role}}>{{m.content}}{% endfor %}{% if add_generation_prompt %}"
    "<assistant>{% endif %}",
):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_the_chat_template_is_the_tokenizers_and_asks_for_an_answer():
    assert text_of("q", "chat", chat_tokenizer()) == "<user>q<assistant>"


def test_messages_go_to_the_chat_template_as_they_are(tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"prompt": messages}))
    (row,) = load_rows(DataSection(source=str(file), template="chat")).rows
    assert text_of(row["prompt"], "chat", chat_tokenizer()) == "<system>s<user>q<assistant>"


def test_a_base_model_without_chat_template_is_refused_for_chat_and_for_nothing_else():
    with pytest.raises(
        RecipeError,
        match="data.template is chat, but the tokenizer has no chat template; use r1, plain",
    ):
        template_of(DataSection(template="chat"), tiny_tokenizer(), ())
    for template in ("r1", "plain", "x {prompt}"):
        assert template_of(DataSection(template=template), tiny_tokenizer(), ()).pattern == template
    assert template_of(DataSection(template="chat"), chat_tokenizer(), ()).pattern == "chat"


def test_a_chat_template_that_refuses_a_prompt_is_reported():
    with pytest.raises(RecipeError, match="chat template fails on a prompt: no system"):
        text_of("q", "chat", chat_tokenizer("{{ raise_exception('no system') }}"))


def test_the_template_follows_the_model():
    """Chat where one of the model's end tokens ends a turn; a base model with its family's chat template is none."""
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}"
        + "</s>"
        + "{% endif %}{% endfor %}"
    )
    end = tokenizer.convert_tokens_to_ids("</s>")
    assert end == tokenizer.eos_token_id
    assert template_of(DataSection(), tokenizer, {end}).pattern == "chat"
    assert template_of(DataSection(), tokenizer, {end + 1}).pattern == "r1"
    assert template_of(DataSection(), tiny_tokenizer(), {end}).pattern == "r1"
    assert template_of(DataSection(template="plain"), tokenizer, {end}).pattern == "plain"


def test_a_system_message_and_arguments_reach_the_chat_template_and_no_other():
    template = "{% for m in messages %}<{{m.role}}>{{m.content}}{% endfor %}{% if thinking %}<think>{% endif %}"
    tokenizer = chat_tokenizer(template)
    section = DataSection(template="chat", system="be brief", template_args={"thinking": True})
    made = template_of(section, tokenizer, ())
    assert made.render("q", tokenizer) == ("<system>be brief<user>q<think>", False)
    own = [{"role": "system", "content": "its own"}, {"role": "user", "content": "q"}]
    assert made.render(own, tokenizer)[0] == "<system>its own<user>q<think>"
    with pytest.raises(
        RecipeError, match="data.system and data.template_args are read by the chat"
    ):
        template_of(DataSection(system="be brief"), tiny_tokenizer(), ())


# ---- tokens and lengths ----------------------------------------------------------------------------------------


def prompts_of(texts, *, context=None, max_tokens=4, held=(), tokenizer=None, **section):
    source = SourceRows(
        "",
        DataSection(template="plain", **section),
        train=[{"prompt": text, "answer": 1} for text in texts],
        held_out=[{"prompt": text} for text in held],
    )
    return loaded(source, tokenizer or tiny_tokenizer(), context, max_tokens)


def loaded(source, tokenizer, context=None, max_tokens=4) -> PromptSet:
    config = PretrainedConfig(max_position_embeddings=context, vocab_size=len(tokenizer))
    return load_prompts([source], ModelInfo(config, tokenizer), max_tokens=max_tokens)


def test_a_prompt_has_its_text_its_tokens_and_its_row():
    (prompt,) = prompts_of(["a b ab"]).train
    assert prompt.text == "a b ab" and prompt.truth == {"prompt": "a b ab", "answer": 1}
    assert (
        list(prompt.token_ids) == tiny_tokenizer()("a b ab")["input_ids"] and prompt.id == "train-0"
    )


def test_prompts_that_leave_no_room_for_a_completion_are_dropped_and_counted():
    texts = ["a", "a b", "a b c", "a b c d"]
    prompts = prompts_of(texts, context=6, max_tokens=4, held=["a", "a b c"])
    assert [p.text for p in prompts.train] == ["a", "a b"]
    assert [p.text for p in prompts.held_out] == ["a"]
    assert (prompts.num_dropped, prompts.longest) == (3, 4)


def test_the_smaller_of_both_limits_holds_and_the_limit_itself_fits():
    texts = ["a", "a b", "a b c"]
    assert prompts_of(texts, max_prompt_tokens=2).num_dropped == 1
    assert prompts_of(texts, max_prompt_tokens=2, context=5, max_tokens=4).num_dropped == 2
    assert prompts_of(texts, max_prompt_tokens=1, context=100).num_dropped == 2
    assert prompts_of(texts).num_dropped == 0


def test_a_kept_prompt_keeps_its_name_whatever_is_dropped():
    texts = ["a b c", "a"]
    assert prompts_of(texts, max_prompt_tokens=2).train[0].id == prompts_of(texts).train[1].id


def test_all_prompts_too_long_is_refused_with_the_longest():
    with pytest.raises(
        RecipeError,
        match="every prompt is longer than 2 tokens \\(the longest has 4\\); lower "
        "sample.max_tokens, raise data.max_prompt_tokens",
    ):
        prompts_of(["a b c", "a b c d"], context=6)


def test_a_context_without_room_for_any_prompt_is_refused():
    with pytest.raises(
        RecipeError, match="sample.max_tokens is 64, but the model's context is 64 tokens"
    ):
        prompts_of(["a"], context=64, max_tokens=64)


def test_a_prompt_without_any_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("zz", "")
    with pytest.raises(RecipeError, match="makes no token of the prompt 'zz'"):
        prompts_of(["a", "zz"], tokenizer=tokenizer)


def test_an_end_token_that_the_tokenizer_adds_is_no_part_of_the_prompt_and_a_begin_token_is():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    (prompt,) = prompts_of(["a b"], tokenizer=tokenizer).train
    assert prompt.token_ids == (1, 3, 4)


def test_chat_text_gets_no_second_begin_token():
    tokenizer = chat_tokenizer("{% for m in messages %}{{ bos_token }} {{ m.content }}{% endfor %}")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    source = SourceRows("", DataSection(template="chat"), train=[{"prompt": "a"}])
    prompts = loaded(source, tokenizer)
    assert prompts.train[0].token_ids == (1, 3)


# ---- order -----------------------------------------------------------------------------------------------------


def stream(number: int, seed: int = 0) -> PromptStream:
    return PromptStream([Prompt(f"p{i}", (i,), {}) for i in range(number)], seed)


def taken(order: PromptStream, number: int) -> list[str]:
    return [prompt.id for prompt in order.take(number)]


def test_the_seed_fixes_the_order_and_another_seed_gives_another():
    first, same, other = stream(50, 3), stream(50, 3), stream(50, 4)
    random.seed(9)
    runs = [[taken(order, 8) for _ in range(20)] for order in (first, same, other)]
    assert runs[0] == runs[1] != runs[2]


def test_the_order_is_known_for_good():
    assert taken(stream(6), 6) == ["p2", "p3", "p1", "p0", "p5", "p4"]


def test_each_epoch_has_an_order_of_its_own():
    order = stream(30)
    assert taken(order, 30) != taken(order, 30)


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 23), data=st.data(), seed=st.integers(0, 5))
def test_no_take_holds_a_prompt_twice_and_every_epoch_covers_every_prompt(number, data, seed):
    order, counts = stream(number, seed), Counter({f"p{i}": 0 for i in range(number)})
    for _ in range(data.draw(st.integers(1, 40))):
        got = taken(order, data.draw(st.integers(1, number)))
        assert len(set(got)) == len(got)
        counts.update(got)
        # each shuffled epoch holds a prompt once, and only the few deferred are behind their turn
        assert all(order.epoch - 1 <= n <= order.epoch + 1 for n in counts.values()), counts
        assert len(order.deferred) < number


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 23), data=st.data())
def test_a_stream_continues_from_its_state_as_if_it_had_never_stopped(number, data):
    sizes = data.draw(st.lists(st.integers(1, number), min_size=2, max_size=20))
    stop = data.draw(st.integers(0, len(sizes)))
    whole, first, second = stream(number), stream(number), stream(number)
    expected = [taken(whole, size) for size in sizes]
    before = [taken(first, size) for size in sizes[:stop]]
    second.restore(json.loads(json.dumps(first.state())))
    assert before + [taken(second, size) for size in sizes[stop:]] == expected


def test_the_state_is_a_copy():
    order = stream(5)
    taken(order, 4), taken(order, 4)
    state = order.state()
    taken(order, 4)
    assert state != order.state()


def test_a_stream_does_not_resume_on_other_prompts():
    with pytest.raises(RecipeError, match="began with 5 training prompts, now there are 6"):
        stream(6).restore(stream(5).state())
