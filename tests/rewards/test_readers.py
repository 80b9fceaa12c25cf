"""Data files are read in one way by training and by the check of rewards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rewards.readers import READERS, DataFileError, can_read, read_rows

ROWS = [{"prompt": "a, b", "answer": "1"}, {"prompt": "ü\nc", "answer": ""}]


def written(folder: Path, ending: str) -> Path:
    """`ROWS` in the format of `ending`."""
    file = folder / f"rows{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    elif ending == ".csv":
        file.write_text('prompt,answer\n"a, b",1\n"ü\nc",\n', encoding="utf-8")
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
