"""Rows are read from every source; what is wrong with a data set is reported with its location."""

import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from grpo.data.rows import load_rows
from grpo.data.sources import split_rows
from grpo.recipe import DataSection, RecipeError
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
        return load_rows(DataSection(source=str(file), **section)).rows

    return read


@pytest.fixture
def refusal(rows_of):
    """The message with which a data file is refused."""

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
    assert load_rows(DataSection(source=str(tmp_path / "a.parquet"))).rows == rows


def test_a_byte_order_mark_before_jsonl_is_skipped(rows_of):
    assert rows_of("a.jsonl", "\ufeff" + json.dumps(ROWS[0])) == ROWS[:1]


def test_columns_are_mapped_and_the_others_kept(rows_of):
    rows = rows_of(
        "a.jsonl",
        '{"question": "q", "gold": 3, "id": 7}',
        columns={"prompt": "question", "answer": "gold"},
    )
    assert rows == [{"question": "q", "gold": 3, "id": 7, "prompt": "q", "answer": 3}]


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
    rows = load_rows(DataSection(source=task)).rows
    assert len(rows) > 100 and all(row["prompt"] for row in rows)


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.jsonl",
            '{"prompt": "x"}\n\n{bad}\n',
            "line 3 of {} is not JSON: Expecting property name enclosed in double quotes; each line holds one object",
        ),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "x"', "line 2 of {} is not JSON"),
        ("a.jsonl", '[{"prompt": "x"}]', "line 1 of {} is not a JSON object; each line holds one"),
        ("a.json", '[\n{"prompt": "x"\n]', "line 3 of {} is not JSON"),
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
            "{} is not in a supported format; its name must end in .jsonl, .json, .csv, .parquet",
        ),
        ("a.jsonl", "", "{} holds no rows"),
        ("a.jsonl", "\n \n", "{} holds no rows"),
        ("a.csv", "", "{} holds no rows"),
        ("a.csv", "prompt,answer\n", "{} holds no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_line(
    refusal, tmp_path, name, content, message
):
    assert refusal(name, content).startswith("data: " + message.format(tmp_path / name))


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
    "columns, message",
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
def test_a_missing_column_is_refused_with_the_columns_there_are(
    refusal, tmp_path, columns, message
):
    for name, content in (
        ("a.jsonl", '{"question": "q", "answer": "a"}'),
        ("a.csv", "question,answer\nq,a\n"),
    ):
        assert refusal(name, content, columns=columns).startswith(
            "data: " + message.format(tmp_path / name)
        )


def test_a_column_that_a_later_row_lacks_is_refused_with_its_row(refusal):
    assert "row 2 of" in refusal("a.jsonl", '{"prompt": "x"}\n{"promt": "x"}')


@pytest.mark.parametrize(
    "prompt, reason",
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
        ('"\\ud83d"', "holds half a character (a lone surrogate); fix the text"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused_with_its_row(refusal, prompt, reason):
    lines = f'{{"prompt": "x"}}\n{{"prompt": {prompt}}}\n'
    message = refusal("a.jsonl", lines, template="r1")
    assert message.startswith("data: the prompt in row 2 of") and message.endswith(reason)


@pytest.mark.parametrize(
    "source, args, message",
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
def test_wrong_arguments_of_a_task_are_refused(source, args, message):
    with pytest.raises(RecipeError) as caught:
        load_rows(DataSection(source=source, args=args))
    assert message in str(caught.value)


# ---- paths, forms, messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row, path, value", [
    ({"reward_model": {"ground_truth": "5"}}, "reward_model.ground_truth", "5"),
    ({"info": '{"a": {"b": [1, 2]}}'}, "info.a.b.1", 2),
    ({"info": '{"a": "[{\\"b\\": 3}]"}'}, "info.a.0.b", 3),
    ({"info": "{'ground_truth': '5'}"}, "info.ground_truth", "5"),
    ({"messages": [{"value": "q"}, {"value": "a"}]}, "messages.-1.value", "a"),
    ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
    ({"a.b": {"c": 3}}, "a.b.c", 3),
    ({"a": {"b.c": 4}}, "a.b.c", 4),
    ({"golds": ["5", "6"]}, "golds.0", "5"),
    ({"golds": '["5", "6"]'}, "golds", '["5", "6"]'),
])  # fmt: skip
def test_a_path_leads_into_a_column(rows_of, row, path, value):
    (found,) = rows_of("a.jsonl", json.dumps({"prompt": "q", **row}), columns={"answer": path})
    assert found["answer"] == value


def test_a_path_that_some_rows_lack_leaves_the_column_out_there_and_says_so(tmp_path):
    file = tmp_path / "rows.jsonl"
    infos = [{"gold": "5"}, {"tests": []}, None, {"gold": None}]
    file.write_text("\n".join(json.dumps({"prompt": "q", "info": info}) for info in infos))
    said = []
    section = DataSection(source=str(file), columns={"answer": "info.gold"})
    rows = load_rows(section, report=said.append).rows
    assert [row.get("answer", "none") for row in rows] == ["5", "none", "none", None]
    assert said == ["data: 2 of 4 rows have no info.gold, and so no column answer"]


@pytest.mark.parametrize("columns, message", [
    ({"answer": "info.goald"}, "row 1 of {} has no column info.goald, which data.columns.answer names; its columns are "),
    ({"answer": "note.gold"}, "row 1 of {}: data.columns.answer names note.gold, but 'see above' is not JSON; name the"),
    ({"prompt": "info.question"}, "row 1 of {} has no column info.question, which data.columns.prompt names"),
    ({"prompt": "{info.question}?"}, "row 1 of {} has no column info.question, which data.columns.prompt names"),
    ({"prompt": "{q} {note:lettered}"}, "row 1 of {}: note, which data.columns.prompt names, holds no list of choices"),
    ({"answer": "{note:letter}"}, "row 1 of {}: note, which data.columns.answer names, holds 'see above', which is neither"),
    ({}, "row 1 of {} has no column prompt; its columns are question, q, info, note; set data.columns.prompt to one of them"
     ": data.columns.prompt=question"),
])  # fmt: skip
def test_a_path_or_form_that_does_not_fit_is_refused_with_its_row(
    refusal, tmp_path, columns, message
):
    row = {"question": "?", "q": "q", "info": {"gold": "5"}, "note": "see above"}
    columns = {"prompt": "q", **columns} if columns else {}
    found = refusal("a.jsonl", json.dumps(row), columns=columns)
    assert found.startswith("data: " + message.format(tmp_path / "a.jsonl"))


LINES = "A. x\nB. y"


@pytest.mark.parametrize("choices", [
    ["x", "y"], '["x", "y"]', {"text": ["x", "y"], "label": ["A", "B"]}, {"A": "x", "B": "y", "C": None},
    [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}],
])  # fmt: skip
def test_choices_are_printed_with_their_letters(rows_of, choices):
    row = {"question": "q", "choices": choices}
    (found,) = rows_of(
        "a.jsonl", json.dumps(row), columns={"prompt": "{question}\n{choices:lettered}"}
    )
    assert found["prompt"] == f"q\n{LINES}"


@pytest.mark.parametrize("answer, letter", [(0, "A"), (3, "D"), ("1", "B"), ("c", "C"), ("E", "E")])
def test_a_choice_counted_from_0_is_a_letter(rows_of, answer, letter):
    columns = {"answer": "{label:letter}"}
    (found,) = rows_of("a.jsonl", json.dumps({"prompt": "q", "label": answer}), columns=columns)
    assert found["answer"] == letter


def test_a_missing_value_in_braces_prints_nothing_and_is_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "a", "note": null}\n{"q": "b", "note": NaN}\n{"q": "c", "note": "d"}\n')
    said = []
    section = DataSection(source=str(file), columns={"prompt": "{q}{note}"})
    assert [row["prompt"] for row in load_rows(section, report=said.append).rows] == [
        "a",
        "b",
        "cd",
    ]
    assert said == ["data: 2 of 3 rows have no value in note, which is printed as nothing"]


def test_what_was_said_about_the_data_goes_to_standard_error_of_the_first_process(
    tmp_path, capsys, monkeypatch
):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "a", "note": null}')
    section = DataSection(source=str(file), columns={"prompt": "{q}{note}"})
    load_rows(section)
    assert (
        capsys.readouterr().err
        == "data: 1 of 1 row has no value in note, which is printed as nothing\n"
    )
    monkeypatch.setenv("RANK", "1")
    load_rows(section)
    assert capsys.readouterr().err == ""


TURN = {"role": "user", "content": 'Two "birds".'}


@pytest.mark.parametrize("prompt", [
    [TURN], json.dumps([TURN]), [{"role": "user", "content": [{"type": "text", "text": 'Two "birds".'}]}],
])  # fmt: skip
def test_messages_are_read_from_json_text_and_from_parts(rows_of, prompt):
    (row,) = rows_of("a.jsonl", json.dumps({"prompt": prompt}), template="chat")
    assert row["prompt"] == [TURN]


def test_a_text_that_only_looks_like_messages_stays_text(rows_of):
    for text in ("[{x}]", '[{"a": 1}] is a list', "[1, 2]"):
        assert rows_of("a.jsonl", json.dumps({"prompt": text}))[0]["prompt"] == text


def test_a_part_that_is_no_text_is_refused(refusal):
    content = [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What?"}]
    row = {"prompt": [{"role": "user", "content": content}]}
    message = refusal("a.jsonl", json.dumps(row), template="chat")
    assert message.endswith(
        "has a part of type image; policies here read text only, so leave such rows out"
    )


# ---- splits and subsets of what is no hub data set --------------------------------------------------------------


@pytest.mark.parametrize("section, message", [
    ({"revision": "main"}, "data.revision is main, but {} is a file, not a data set on the hub; take data.revision out"),
    ({"subset": "main"}, "data.subset is main, but {} is a file, which has no configurations; take data.subset out"),
    ({"split": "test"}, "{} has no split test; name the file that holds it, or leave data.split out"),
])  # fmt: skip
def test_a_split_or_subset_of_a_file_is_refused(refusal, tmp_path, section, message):
    assert message.format(tmp_path / "a.jsonl") in refusal("a.jsonl", '{"prompt": "x"}', **section)


@pytest.mark.parametrize("section", [{"subset": "main"}, {"split": "test"}, {"revision": "main"}])
def test_a_split_or_subset_of_a_task_is_refused(section):
    (key,) = section
    with pytest.raises(
        RecipeError, match=f"recipe: data.{key} is .*, but arithmetic is a procedural task, "
    ):
        load_rows(DataSection(source="arithmetic", **section))


def test_a_folder_is_read_as_the_hub_would_or_as_it_was_saved(tmp_path):
    import datasets

    parts = {"train": [{"prompt": "a"}], "test": [{"prompt": "b"}]}
    saved = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    )
    saved.save_to_disk(tmp_path / "saved")
    saved["test"].save_to_disk(tmp_path / "one")
    for name, rows in parts.items():
        assert load_rows(DataSection(source=str(tmp_path / "saved"), split=name)).rows == rows
    assert load_rows(DataSection(source=str(tmp_path / "one"))).rows == parts["test"]
    with pytest.raises(RecipeError, match="has no split dev; set data.split to train or test"):
        load_rows(DataSection(source=str(tmp_path / "saved"), split="dev"))
    with pytest.raises(
        RecipeError, match="data.split is test, but .* is a saved data set without splits"
    ):
        load_rows(DataSection(source=str(tmp_path / "one"), split="test"))


def test_what_datasets_decodes_in_a_column_of_mixed_types_is_text_again(tmp_path):
    import datasets

    texts = ["x=3", "007", "[0, 1]", "true", "NaN", 7]
    features = datasets.Features({"prompt": datasets.Value("string"), "answer": datasets.Json()})
    rows = [{"prompt": f"question {i}", "answer": text} for i, text in enumerate(texts)]
    saved = datasets.Dataset.from_list(rows, features=features)
    assert [row["answer"] for row in saved.to_list()] == ["x=3", 7, [0, 1], True, None, 7]
    saved.save_to_disk(tmp_path / "saved")
    said = []
    loaded = load_rows(DataSection(source=str(tmp_path / "saved")), report=said.append).rows
    assert [row["answer"] for row in loaded] == [*texts[:-1], "7"]
    assert said == [
        "data: the column answer has mixed types, which were stored as JSON: 5 of its 6 values (numbers, true, "
        "lists) are read as the text in the file"
    ]


# ---- held out --------------------------------------------------------------------------------------------------


def test_held_out_prompts_never_train_even_if_one_occurs_twice():
    rows = [{"prompt": f"p{i % 40}", "n": i} for i in range(100)]
    train, held = split_rows(rows, 10)
    assert len({row["prompt"] for row in held}) == len(held) == 10
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert {row["prompt"] for row in train} | {row["prompt"] for row in held} == {
        f"p{i}" for i in range(40)
    }


def test_what_is_held_out_depends_on_the_prompts_and_not_on_their_order_or_any_seed():
    rows = [{"prompt": f"p{i}"} for i in range(50)]
    other = random.Random(1).sample(rows, 50)
    random.seed(5)
    assert split_rows(rows, 7)[1] == split_rows(other, 7)[1]


def test_holding_out_everything_is_refused():
    with pytest.raises(
        RecipeError, match="data.held_out: cannot hold out 3 of 3 different prompts"
    ):
        split_rows([{"prompt": f"p{i}"} for i in range(3)], 3)
