"""Rows become prompts in an order that the seed fixes; whatever is wrong with a data set is said with its place."""

import json
import random
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import normalizers, processors

from grpo.data.prompts import (
    R1_TEMPLATE,
    PromptStream,
    check_template,
    load_rows,
    make_prompts,
    render,
    split_rows,
)
from grpo.recipe import DataSection, RecipeError
from grpo.types import Prompt
from rewards.tasks import TASKS

ROWS = [
    {"prompt": 'a b, "c"\nd', "answer": "1"},
    {"prompt": "ü → 雪", "answer": "2"},
    {"prompt": "e", "answer": ""},
]


@pytest.fixture
def rows_of(tmp_path):
    """Reads a data file from its name and content."""

    def read(name: str, content: str | bytes, **section) -> list[dict]:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_rows(DataSection(source=str(file), **section))

    return read


@pytest.fixture
def refusal(rows_of):
    """The sentence with which a data file is refused."""

    def refused(name: str, content: str | bytes, **section) -> str:
        with pytest.raises(RecipeError) as caught:
            rows_of(name, content, **section)
        return str(caught.value)

    return refused


# ---- reading ---------------------------------------------------------------------------------------------------


def test_jsonl_is_read_line_by_line(rows_of):
    text = "\n\n".join(json.dumps(row) for row in ROWS)
    assert (
        rows_of("a.jsonl", text)
        == rows_of("a.JSONL", text + "\n")
        == rows_of("a.json", text)
        == ROWS
    )


def test_a_line_separator_inside_a_json_string_ends_no_line(rows_of):
    assert rows_of("a.jsonl", '{"prompt": "a\u2028b\x85c"}\n') == [{"prompt": "a\u2028b\x85c"}]


def test_csv_is_read_with_quoted_commas_and_lines(rows_of):
    text = 'prompt,answer\r\n"a b, ""c""\nd",1\r\nü → 雪,2\r\ne,\r\n'
    assert rows_of("a.csv", text) == rows_of("a.csv", "\ufeff" + text) == ROWS


def test_parquet_is_read_with_its_types(tmp_path):
    rows = [
        {"prompt": "a", "numbers": [1, 2], "target": 3},
        {"prompt": "b", "numbers": [], "target": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load_rows(DataSection(source=str(tmp_path / "a.parquet"))) == rows


def test_a_byte_order_mark_before_jsonl_is_read_over(rows_of):
    assert rows_of("a.jsonl", "\ufeff" + json.dumps(ROWS[0])) == ROWS[:1]


def test_columns_are_mapped_and_the_others_kept(rows_of):
    found = rows_of(
        "a.jsonl",
        '{"question": "q", "gold": 3, "id": 7}',
        columns={"prompt": "question", "answer": "gold"},
    )
    assert found == [{"question": "q", "gold": 3, "id": 7, "prompt": "q", "answer": 3}]


def test_a_prompt_may_be_made_of_several_columns(rows_of):
    (row,) = rows_of(
        "x.jsonl",
        '{"Body": "Two birds {sit}", "Question": "How many?"}\n',
        columns={"prompt": "{Body}. {Question}"},
    )
    assert row["prompt"] == "Two birds {sit}. How many?"
    with pytest.raises(
        RecipeError, match="row 1 of .* has no column Text, which data.columns.prompt names"
    ):
        rows_of("y.jsonl", '{"Body": "x"}\n', columns={"prompt": "{Text}?"})


def test_two_columns_may_be_swapped(rows_of):
    assert rows_of(
        "a.jsonl",
        '{"prompt": "p", "answer": "a"}',
        columns={"prompt": "answer", "answer": "prompt"},
    ) == [{"prompt": "a", "answer": "p"}]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_a_source(task):
    rows = load_rows(DataSection(source=task))
    assert len(rows) > 100 and all(row["prompt"] for row in rows)


@pytest.mark.parametrize(
    "name, content, words",
    [
        (
            "a.jsonl",
            '{"prompt": "x"}\n\n{bad}\n',
            "line 3 of {} is not JSON: Expecting property name enclosed in double quotes; each line holds one object",
        ),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "x"', "line 2 of {} is not JSON"),
        ("a.jsonl", '[{"prompt": "x"}]', "line 1 of {} is not a JSON object; each line holds one"),
        ("a.json", '[\n{"prompt": "x"}\n]', "line 1 of {} is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 of {} is not JSON"),
        (
            "a.jsonl",
            b'{"prompt": "\xe9"}',
            "{} is not UTF-8 text (invalid continuation byte at byte 12)",
        ),
        ("a.csv", b"prompt\ncaf\xe9 au lait\n", "{} is not UTF-8 text"),
        ("a.csv", "prompt\n" + "x" * 200_000, "{} cannot be read: field larger than field limit"),
        ("a.parquet", b"PAR1 but not really", "{} is not a Parquet file"),
        (
            "a.txt",
            "hello",
            "{} is not of a kind that is read; its name must end in .jsonl, .json, .csv, .parquet",
        ),
        ("a.jsonl", "", "{} holds no rows"),
        ("a.jsonl", "\n \n", "{} holds no rows"),
        ("a.csv", "", "{} holds no rows"),
        ("a.csv", "prompt,answer\n", "{} holds no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(
    refusal, tmp_path, name, content, words
):
    assert refusal(name, content).startswith("data: " + words.format(tmp_path / name))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match="data: there is no file /no/where.jsonl"):
        load_rows(DataSection(source="/no/where.jsonl"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RecipeError, match="there is no file"):
        load_rows(DataSection(source=str(tmp_path / "folder.csv")))


def test_a_missing_source_names_what_would_do():
    with pytest.raises(
        RecipeError, match="data.source is missing; name a hub data set, a .jsonl.*countdown"
    ):
        load_rows(DataSection())


def test_a_name_that_is_nothing_is_refused_with_the_nearest_task(monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError, match="countdwn is not a file or task, and .* did you mean countdown?"
    ):
        load_rows(DataSection(source="countdwn"))


@pytest.mark.parametrize(
    "columns, words",
    [
        (
            {},
            "row 1 of {} has no column prompt; its columns are question, answer; set data.columns.prompt to one of "
            "them",
        ),
        (
            {"prompt": "quesion"},
            "row 1 of {} has no column quesion, which data.columns.prompt names; its columns are question, answer",
        ),
        (
            {"prompt": "question", "truth": "gold"},
            "row 1 of {} has no column gold, which data.columns.truth names",
        ),
    ],
)
def test_a_missing_column_is_refused_with_the_columns_there_are(refusal, tmp_path, columns, words):
    for name, content in (
        ("a.jsonl", '{"question": "q", "answer": "a"}'),
        ("a.csv", "question,answer\nq,a\n"),
    ):
        assert refusal(name, content, columns=columns).startswith(
            "data: " + words.format(tmp_path / name)
        )


def test_a_column_that_a_later_row_lacks_is_refused_with_its_row(refusal):
    assert "row 2 of" in refusal("a.jsonl", '{"prompt": "x"}\n{"promt": "x"}')


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("null", "is empty"),
        ('""', "is empty"),
        ('" \\n"', "is empty"),
        ("[]", "is empty"),
        ("3", "is int, not text"),
        ('{"a": 1}', "is dict, not text"),
        (
            '[{"role": "user", "content": "x"}]',
            "is list, not text; messages need data.template: chat",
        ),
        ('"\\ud83d"', "holds half a character (a lone surrogate); mend the text"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused_with_its_row(refusal, prompt, words):
    sentence = refusal("a.jsonl", f'{{"prompt": "x"}}\n{{"prompt": {prompt}}}\n')
    assert sentence.startswith("data: the prompt in row 2 of") and sentence.endswith(words)


@pytest.mark.parametrize(
    "source, args, words",
    [
        (
            "countdown",
            {"stile": "words"},
            "data.args {'stile': 'words'} does not suit countdown: task countdown: unknown "
            "argument stile; did you mean style?",
        ),
        (
            "countdown",
            {"numbers": "three"},
            "data.args {'numbers': 'three'} does not suit countdown",
        ),
        ("arithmetic", {"operations": "^"}, "does not suit arithmetic"),
        (
            "rows.jsonl",
            {"style": "words"},
            "data.args is for procedural tasks, and rows.jsonl is not one of",
        ),
    ],
)
def test_wrong_arguments_of_a_task_are_refused(source, args, words):
    with pytest.raises(RecipeError) as caught:
        load_rows(DataSection(source=source, args=args))
    assert words in str(caught.value)


# ---- held out --------------------------------------------------------------------------------------------------


def test_held_out_prompts_never_train_also_where_one_stands_twice():
    rows = [{"prompt": f"p{i % 40}", "n": i} for i in range(100)]
    train, held = split_rows(rows, 10)
    assert len({row["prompt"] for row in held}) == len(held) == 10
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert {row["prompt"] for row in train} | {row["prompt"] for row in held} == {
        f"p{i}" for i in range(40)
    }


def test_what_is_held_out_hangs_on_the_prompts_and_not_on_their_order_or_any_seed():
    rows = [{"prompt": f"p{i}"} for i in range(50)]
    other = random.Random(1).sample(rows, 50)
    random.seed(5)
    assert split_rows(rows, 7)[1] == split_rows(other, 7)[1]


def test_holding_out_everything_is_refused():
    with pytest.raises(
        RecipeError, match="data.held_out: cannot hold out 3 of 3 different prompts"
    ):
        split_rows([{"prompt": f"p{i}"} for i in range(3)], 3)


# ---- templates -------------------------------------------------------------------------------------------------


def text_of(question, template: str, tokenizer=None) -> str:
    return render(question, template, tokenizer or tiny_tokenizer())[0]


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


def test_messages_go_to_the_chat_template_as_they_are(rows_of):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    (row,) = rows_of("a.jsonl", json.dumps({"prompt": messages}), template="chat")
    assert text_of(row["prompt"], "chat", chat_tokenizer()) == "<system>s<user>q<assistant>"


def test_a_base_model_without_chat_template_is_refused_for_chat_and_for_nothing_else():
    with pytest.raises(
        RecipeError,
        match="data.template is chat, but the tokenizer has no chat template; use r1, plain",
    ):
        check_template("chat", tiny_tokenizer())
    for template in ("r1", "plain", "x {prompt}"):
        check_template(template, tiny_tokenizer())
    check_template("chat", chat_tokenizer())


def test_a_chat_template_that_refuses_a_prompt_is_a_sentence():
    with pytest.raises(RecipeError, match="chat template fails on a prompt: no system"):
        text_of("q", "chat", chat_tokenizer("{{ raise_exception('no system') }}"))


# ---- tokens and lengths ----------------------------------------------------------------------------------------


def prompts_of(texts, *, context=None, max_tokens=4, held=(), tokenizer=None, **section):
    return make_prompts(
        [{"prompt": text, "answer": 1} for text in texts],
        [{"prompt": text} for text in held],
        DataSection(template="plain", **section),
        tokenizer or tiny_tokenizer(),
        context,
        max_tokens,
    )


def test_a_prompt_has_its_text_its_tokens_and_its_row():
    (prompt,) = prompts_of(["a b ab"]).train
    assert prompt.text == "a b ab" and prompt.truth == {"prompt": "a b ab", "answer": 1}
    assert (
        list(prompt.token_ids) == tiny_tokenizer()("a b ab")["input_ids"] and prompt.id == "train-0"
    )


def test_prompts_that_leave_no_room_for_a_completion_are_dropped_and_counted():
    texts = ["a", "a b", "a b c", "a b c d"]
    found = prompts_of(texts, context=6, max_tokens=4, held=["a", "a b c"])
    assert [p.text for p in found.train] == ["a", "a b"] and [p.text for p in found.held_out] == [
        "a"
    ]
    assert (found.num_dropped, found.longest) == (3, 4)


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


def test_a_prompt_of_which_the_tokenizer_makes_nothing_is_refused():
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
    found = make_prompts([{"prompt": "a"}], [], DataSection(template="chat"), tokenizer, None, 4)
    assert found.train[0].token_ids == (1, 3)


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


def test_each_epoch_is_shuffled_anew():
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
def test_a_stream_goes_on_from_its_state_as_if_it_had_never_stopped(number, data):
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
    with pytest.raises(RecipeError, match="began with 5 prompts that train, now there are 6"):
        stream(6).restore(stream(5).state())
