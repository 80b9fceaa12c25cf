"""Data files are read in one way by training and by the check of rewards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rewards.readers import COMPRESSIONS, READERS, DataFileError, can_read, read_rows

ROWS = [{"prompt": "a, b", "answer": "1"}, {"prompt": "ü\nc", "answer": ""}]


def written(folder: Path, ending: str) -> Path:
    """`ROWS` in the format of `ending`."""
    file = folder / f"rows{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    elif ending == ".csv":
        file.write_text('prompt,answer\n"a, b",1\n"ü\nc",\n', encoding="utf-8")
    elif ending == ".tsv":
        file.write_text('prompt\tanswer\na, b\t1\n"ü\nc"\t\n', encoding="utf-8")
    else:
        file.write_text("\n\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return file


@pytest.mark.parametrize("ending", READERS)
def test_each_format_gives_the_same_rows_and_no_more_than_asked_for(
    tmp_path: Path, ending: str
) -> None:
    file = written(tmp_path, ending)
    assert can_read(file) and can_read(str(file).upper())
    assert read_rows(file) == read_rows(str(file)) == ROWS
    assert read_rows(file, limit=1) == ROWS[:1]
    assert read_rows(file, limit=9) == ROWS


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", READERS)
def test_each_format_is_read_compressed_too(tmp_path: Path, ending: str, compression: str) -> None:
    plain = written(tmp_path, ending)
    file = plain.with_name(plain.name + compression.upper())
    with COMPRESSIONS[compression](file, "wb") as out:
        out.write(plain.read_bytes())
    assert can_read(file) and read_rows(file) == ROWS


DOCUMENTS = {
    "an array": ROWS,
    "under data": {"version": 1, "data": ROWS},
    "under examples": {"examples": ROWS, "license": "none"},
    "under any name alone": {"results": ROWS},
    "under a split": {"train": ROWS, "test": ROWS[:1]},
    "columns": {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "columns under a split": {"train": {name: [row[name] for row in ROWS] for name in ROWS[0]}},
    "pandas": {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]},
    "pandas, index": {str(i): row for i, row in enumerate(ROWS)},
    "pandas, split": {
        "columns": list(ROWS[0]),
        "index": [0, 1],
        "data": [[*row.values()] for row in ROWS],
    },
    "pandas, table": {"schema": {"fields": [{"name": "prompt"}]}, "data": ROWS},
    "the hub's server": {
        "features": [{"name": "prompt"}],
        "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)],
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_document_is_read_in_every_form(
    tmp_path: Path, name: str, indent: int | None
) -> None:
    file = tmp_path / "rows.json"
    file.write_text("\ufeff" + json.dumps(DOCUMENTS[name], indent=indent), encoding="utf-8")
    assert read_rows(file) == ROWS


@pytest.mark.parametrize("row", [
    {"problem": "p", "solution": "s"},
    {"messages": [{"role": "user", "content": "p"}], "answer": "1"},
    {"messages": [{"role": "user", "content": "p"}], "tests": [{"input": "1"}]},
    {"reward_model": {"ground_truth": "1"}, "prompt": "p"},
])  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_that_is_one_row_is_one_row(
    tmp_path: Path, row: dict, indent: int | None
) -> None:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(row, indent=indent))
    assert read_rows(file) == [row]


def test_a_conversation_that_is_a_row_by_itself_becomes_the_column_messages(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "assistant", "ground_truth": {"value": "5"}}]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([turns, turns]))
    assert read_rows(file) == [{"messages": turns}] * 2


@pytest.mark.parametrize("document, message", [
    ([1, 2], "holds int as item 1, not an object"),
    ([{"a": 1}, "b"], "holds str as item 2, not an object"),
    ("text", "holds neither objects nor an array of them"),
    ({"data": [{"a": 1}], "rows": [{"a": 1}]}, "holds several lists of rows (data, rows); keep one of them"),
    ({"test": [{"a": 1}], "dev": [{"a": 1}]}, "has no rows under train; set data.split to test or dev"),
])  # fmt: skip
def test_a_document_without_rows_is_refused_with_what_it_holds(
    tmp_path: Path, document, message
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(document, indent=1))
    with pytest.raises(DataFileError) as caught:
        read_rows(file)
    assert str(caught.value) == f"{file} {message}"


def test_a_broken_document_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[\n {"prompt": "a"},\n {"prompt" "b"}\n]')
    with pytest.raises(
        DataFileError, match="^line 3 of .*rows.json is not JSON: Expecting ':' delim.*"
    ):
        read_rows(file)


def test_a_pattern_reads_every_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, prompt in (("b/2.jsonl", "two"), ("b/10.jsonl", "ten"), ("1.jsonl", "one")):
        (tmp_path / name).write_text(json.dumps({"prompt": prompt}))
    (tmp_path / "b" / "dir.jsonl").mkdir()
    rows = read_rows(tmp_path / "**" / "*.jsonl")
    assert [row["prompt"] for row in rows] == ["one", "ten", "two"]
    assert [row["prompt"] for row in read_rows(tmp_path / "b" / "*.jsonl", limit=1)] == ["ten"]
    with pytest.raises(DataFileError, match=r"^no file matches .*x\*.jsonl$"):
        read_rows(tmp_path / "x*.jsonl")
    (tmp_path / "notes.txt").write_text("no rows")
    with pytest.raises(DataFileError, match="notes.txt is not in a supported format"):
        read_rows(tmp_path / "*")


def test_a_file_that_is_really_called_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    file = tmp_path / "rows[1].jsonl"
    file.write_text('{"prompt": "a"}')
    assert read_rows(file) == [{"prompt": "a"}]


def test_a_split_is_applied_where_names_tell_and_refused_elsewhere(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for part in range(2):
            name = f"{split}-0000{part}-of-00002.jsonl"
            (tmp_path / name).write_text(json.dumps({"prompt": f"{split} {part}"}))
    (tmp_path / "both.json").write_text(json.dumps(DOCUMENTS["under a split"]))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}')

    def prompts(name: str, split: str) -> list[str]:
        return [row["prompt"] for row in read_rows(tmp_path / name, split=split)]

    assert prompts("t*.jsonl", "train") == ["train 0", "train 1"]
    assert prompts("t*.jsonl", "test") == ["test 0", "test 1"]
    assert prompts("test-00000*.jsonl", "train") == ["test 0"], "one file was named, and is read"
    assert prompts("test-*.jsonl", "train") == ["test 0", "test 1"]
    assert prompts("test-00000-of-00002.jsonl", "test") == ["test 0"]
    assert prompts("both.json", "test") == ["a, b"]
    for name, split, message in (
        ("rows.jsonl", "test", "rows.jsonl has no split test; name the file that holds it, or leave data.split out"),
        ("train-00000-of-00002.jsonl", "test", "has no split test"),
        ("both.json", "dev", "has no rows under dev; set data.split to train or test"),
        ("t*.jsonl", "dev", "matches files of test and train, none of dev; set data.split to one of those"),
        ("rows.jsonl", "train[:10]", "has no split train[:10]"),
    ):  # fmt: skip
        with pytest.raises(DataFileError) as caught:
            prompts(name, split)
        assert message in str(caught.value)


# ---- Arrow's JSON -----------------------------------------------------------------------------------------------


def json_table(raws: list[str | None], path: str = "column") -> pyarrow.Table:
    """A table as datasets 5 writes columns of mixed types: texts of JSON, under the type arrow.json."""
    values = pyarrow.array(raws, pyarrow.string()).cast(pyarrow.json_())
    if path == "column":
        return pyarrow.table({"answer": values})
    fields = [pyarrow.array(["user"] * len(raws)), values]
    content = pyarrow.StructArray.from_arrays(fields, names=["role", "content"])
    offsets = pyarrow.array(range(len(raws) + 1), pyarrow.int32())
    return pyarrow.table({"prompt": pyarrow.ListArray.from_arrays(offsets, content)})


def read_back(table: pyarrow.Table, folder: Path) -> tuple[list, list[str]]:
    said: list[str] = []
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    return read_rows(folder / "rows.parquet", say=said.append), said


@pytest.mark.parametrize("raws, values", [
    (['"x=3"', "007", "7", "[0, 1]", "true", "NaN", "null", "1e3", "1.50", " 5", '"\\\\frac{1}{2}"', None],
     ["x=3", "007", "7", "[0, 1]", "true", "NaN", "null", "1e3", "1.50", " 5", "\\frac{1}{2}", None]),
    (["5", "true"], ["5", "true"]),
    (["5", "[1, 2]"], ["5", "[1, 2]"]),
    (['{"a": 1}', '{"b": "x"}', None], [{"a": 1}, {"b": "x"}, None]),
    (["[1, 2]", '["a"]'], [[1, 2], ["a"]]),
    (['"text"', '[{"type": "text"}]', '{"a": "5"}'], ["text", [{"type": "text"}], {"a": "5"}]),
    (["1", "2.5"], [1, 2.5]),
])  # fmt: skip
def test_a_column_of_mixed_types_holds_the_texts_that_were_written(tmp_path, raws, values) -> None:
    rows, said = read_back(json_table(raws), tmp_path)
    assert [row["answer"] for row in rows] == values
    num_again = sum(
        isinstance(v, str) and raw == v for raw, v in zip(raws, values) if v is not None
    )
    assert bool(said) == bool(num_again)
    if said:
        assert said[0].startswith("the column answer has mixed types, which were stored as JSON: ")


def test_contents_of_messages_are_decoded_by_their_arrow_type(tmp_path) -> None:
    raws = ['"say \\"hi\\" 5"', '[{"type":"text","text":"x"}]', "5"]
    rows, said = read_back(json_table(raws, "messages"), tmp_path)
    contents = [row["prompt"][0]["content"] for row in rows]
    assert contents == ['say "hi" 5', [{"type": "text", "text": "x"}], "5"]
    assert len(said) == 1 and "the column prompt.content has mixed types" in said[0]


def test_dates_and_decimal_numbers_of_parquet_are_the_texts_they_are_written_as(tmp_path) -> None:
    table = pyarrow.table({
        "day": pyarrow.array([20_000, None], pyarrow.date32()),
        "price": pyarrow.array([1_50, None], pyarrow.int64()).cast(pyarrow.decimal128(21, 2)),
    })  # fmt: skip
    rows, _ = read_back(table, tmp_path)
    assert rows[0] == {"day": "2024-10-04", "price": "150.00"} and rows[1] == {
        "day": None,
        "price": None,
    }


def test_a_line_after_the_last_one_wanted_is_not_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a"}\nnot JSON\n')
    assert read_rows(file, limit=1) == [{"prompt": "a"}]
    with pytest.raises(
        DataFileError, match=f"^line 2 of {file} is not JSON: Expecting value; each"
    ):
        read_rows(file)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.txt", b"a", "{} is not in a supported format; its name must end in .jsonl, .json"),
        ("rows.jsonl", b"[1]", "line 1 of {} is not a JSON object; each line holds one"),
        ("rows.csv", b"prompt\n\xe9\n", "{} is not UTF-8 text (invalid continuation byte"),
        ("rows.csv", b"prompt\n" + b"x" * 200_000, "{} cannot be read: field larger than"),
        ("rows.parquet", b"PAR1", "{} is not a Parquet file: "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataFileError) as caught:
        read_rows(file)
    assert str(caught.value).startswith(message.format(file))


def test_a_file_that_does_not_exist_is_named_as_it_was_written() -> None:
    with pytest.raises(DataFileError, match=r"^there is no file \./nowhere\.csv$"):
        read_rows("./nowhere.csv")


def test_reading_json_lines_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from rewards.readers import read_rows; read_rows(sys.argv[1]); "
        "print(sorted({'torch', 'transformers', 'pyarrow', 'grpo'} & set(sys.modules)))"
    )
    file = written(tmp_path, ".jsonl")
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        text=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "[]\n", done.stderr
