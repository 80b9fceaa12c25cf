"""`python -m rewards.score`: one line out for each line in, in order, whatever the lines are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, lines=(), text=None):
    content = text if text is not None else "".join(json.dumps(line) + "\n" for line in lines)
    command = [sys.executable, "-m", "rewards.score", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, input=content.encode(), capture_output=True, timeout=120
    )


def scored(*arguments, lines=(), text=None):
    done = run(*arguments, lines=lines, text=text)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_line_gets_value_status_extracted_parts_and_seconds_in_order():
    lines = [
        {"id": f"row {index}", "completion": rf"\boxed{{{index}}}", "answer": "7"}
        for index in range(20)
    ]
    records = scored("math_answer", lines=lines)
    assert [record["id"] for record in records] == [line["id"] for line in lines]
    assert [record["value"] for record in records] == [float(index == 7) for index in range(20)]
    assert [record["extracted"] for record in records] == [str(index) for index in range(20)]
    assert all(record["status"] == "scored" and record["parts"] == {} for record in records)
    assert all(record["seconds"] >= 0 for record in records)


def test_malformed_lines_are_reported_by_number_and_do_not_stop_the_rest():
    good = json.dumps({"completion": "so 4", "answer": "4"})
    text = "\n".join(
        [good, "{not json", "[1]", '{"answer": "4"}', "", '{"completion": 5}', good, "\udcff", good]
    )
    done = run("math_answer", text=text.replace("\udcff", "\x00"))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [record["status"] for record in records] == ["scored"] + ["fault"] * 5 + [
        "scored",
        "fault",
        "scored",
    ]
    for number in (2, 3, 4, 5, 6, 8):
        assert (
            records[number - 1]["value"] is None
            and f"line {number}" in records[number - 1]["detail"]
        )
    assert "id" not in records[0]


def test_text_that_cannot_be_encoded_comes_back_as_it_was(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rewards import Score\ndef reward(text):\n    return Score(1.0, detail=text, extracted=text)\n"
    )
    record = scored(
        tmp_path / "mine.py:reward", text='{"id": "\\ud800", "completion": "\\ud800"}\n'
    )[0]
    assert [record["id"], record["extracted"], record["detail"]] == ["\ud800"] * 3


def test_bytes_that_are_no_text_are_a_malformed_line():
    command = [sys.executable, "-m", "rewards.score", "think_format"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        input=b'{"completion": "\xff"}\n{"completion": ""}\n',
        capture_output=True,
    )
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["fault", "scored"]


def test_a_row_without_the_truths_column_is_a_fault_that_names_it():
    record = scored("math_answer", lines=[{"completion": "4"}])[0]
    assert record["status"] == "fault" and "wants the column answer" in record["detail"]


def test_pairs_compare_two_bare_answers():
    lines = [
        {"gold": r"\frac{1}{2}", "pred": "0.5"},
        {"gold": r"$\frac{1}{2}$", "pred": r"\boxed{1/3}"},
        {"gold": "1"},
    ]
    records = scored("math_answer", "--pairs", lines=lines)
    assert [record["value"] for record in records] == [1.0, 0.0, None]
    assert records[0]["extracted"] == "0.5" and "pred is missing" in records[2]["detail"]


def test_lenient_uses_evaluations_rules():
    lines = [{"completion": r"\boxed{0.3333}", "answer": "0.333"}]
    assert scored("math_answer", lines=lines)[0]["value"] == 0.0
    assert scored("math_answer", "--lenient", lines=lines)[0]["value"] == 1.0


def test_results_come_while_input_is_still_open():
    command = [sys.executable, "-m", "rewards.score", "think_format"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        for number in range(3):
            process.stdin.write(json.dumps({"id": number, "completion": ""}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_reader_that_leaves_early_causes_no_traceback():
    lines = "".join(json.dumps({"completion": "x" * 50}) + "\n" for _ in range(3000))
    command = f"{sys.executable} -m rewards.score think_format | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, input=lines.encode(), capture_output=True, timeout=60
    )
    assert len(done.stdout.splitlines()) == 1 and done.stderr == b""


def test_ones_own_reward_is_named_by_file_and_may_print(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rewards import Score\n"
        "def reward(text, level, bonus=0):\n"
        "    print('noise')\n"
        "    return Score(level + bonus, parts={'level': level}, extracted=text[:2])\n"
        "def many(completions, **kwargs):\n"
        "    return [len(completions)] * len(completions)\n"
    )
    lines = [{"completion": "abc", "level": 1}, {"completion": "abc", "level": 2}]
    records = scored(tmp_path / "mine.py:reward", "--args", '{"bonus": 0.5}', lines=lines)
    assert [record["value"] for record in records] == [1.5, 2.5]
    assert records[1]["parts"] == {"level": 2.0} and records[1]["extracted"] == "ab"
    assert [record["value"] for record in scored(tmp_path / "mine.py:many", lines=lines)] == [
        2.0,
        2.0,
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["math_anwser"], "did you mean math_answer"),
        ([], "arguments are required"),
        (["math_answer", "--colour"], "unrecognized arguments: --colour"),
        (["think_format", "--pairs"], "think_format cannot compare pairs"),
        (["think_format", "--lenient"], "think_format has no lenient rules"),
        (["math_answer", "--args", "[]"], "is not a JSON object"),
        (["math_answer", "--timeout", "0"], "is not above 0"),
        (["absent.py:reward"], "there is no file"),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_2(arguments, message):
    done = run(*arguments)
    error = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b""
    assert message in error and error.count("\n") == 1


def test_the_command_reads_what_the_prompt_opened_and_golds_as_data_sets_keep_them():
    opened = {
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "prompt_text": "<bot><think>\n",
        "answer": "4",
    }
    lines = [
        {**opened, "completion": r"\boxed{4}. But wait"},
        {**opened, "completion": r"so</think>\boxed{4}"},
        {"prompt": "2 + 2? <think>", "answer": "4", "completion": r"\boxed{4}"},
        {"prompt": "2 + 2?", "answer": ["4"], "completion": r"\boxed{4}"},
        {"prompt": "2 + 2?", "answer": float("nan"), "completion": r"\boxed{4}"},
        {"prompt": "2 + 2?", "answer": ["4", "5"], "completion": r"\boxed{4}"},
    ]
    for lenient in ([], ["--lenient"]):
        records = scored("math_answer", *lenient, lines=lines)
        expected = [
            (0, "no_answer"),
            (1, "scored"),
            (0, "no_answer"),
            (1, "scored"),
            (None, "fault"),
            (None, "fault"),
        ]
        assert [(record["value"], record["status"]) for record in records] == expected
    assert [
        record["value"]
        for record in scored("math_answer", "--args", '{"several": "any"}', lines=lines[-1:])
    ] == [1]
    pairs = [
        {"gold": gold, "pred": "5"} for gold in (["5"], '["5"]', [5], 5, None, float("nan"), ["4"])
    ]
    values = [record["value"] for record in scored("math_answer", "--pairs", lines=pairs)]
    assert values == [1, 1, 1, 1, None, None, 0]
