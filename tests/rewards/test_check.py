"""`python -m rewards.check`: gold scores 1, empty 0, a wrong answer less than 1."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.check import main, perturbed

ROOT = Path(__file__).resolve().parents[2]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def counts(output):
    """The table's passed and failed, by kind of completion."""
    table = {}
    for line in output.splitlines():
        cells = line.split()
        if cells and cells[0] in ("gold", "empty", "perturbed") and len(cells) >= 4:
            table[cells[0]] = (int(cells[-2]), int(cells[-1]))
    return table


GOOD = ["4", "1/2", r"\frac{3}{4}", "0.25", r"\pi", "(1, 2)", "x^2 + 1", "12,345", "50\\%", "B"]


def test_sound_data_passes(tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", [{"question": "?", "answer": answer} for answer in GOOD])
    assert main([data, "--reward", "math_answer"]) == 0
    passed = (len(GOOD), 0)
    assert counts(capsys.readouterr().out) == {"gold": passed, "empty": passed, "perturbed": passed}


def test_the_number_in_front_of_a_unit_must_score_too(tmp_path, capsys):
    golds = [r"12 \mathrm{~cm}^{2}", r"20 \mathrm{~m} / \mathrm{s}", "5 apples", "7"]
    data = write(tmp_path / "data.jsonl", [{"answer": gold} for gold in golds])
    assert main([data]) == 0
    assert "no unit" in (output := capsys.readouterr().out)
    assert [line.split()[-2:] for line in output.splitlines() if "no unit" in line] == [["3", "0"]]
    unread = write(tmp_path / "unread.jsonl", [{"answer": r"3 \mathrm{~qx}_{a}"}, {"answer": "4"}])
    assert main([unread]) == 1
    assert counts(capsys.readouterr().out)["gold"] == (2, 0)


def test_whole_solutions_as_gold_are_read(tmp_path, capsys):
    solutions = ["He has 3 + 4 = <<3+4=7>>7.\n#### 7", r"It follows that \boxed{\frac{1}{2}}."]
    data = write(tmp_path / "data.jsonl", [{"solution": solution} for solution in solutions])
    assert main([data, "--columns", "answer=solution"]) == 0, capsys.readouterr().out


def test_an_unreadable_gold_is_listed_with_its_row_and_fails_the_check(tmp_path, capsys):
    rows = [{"answer": "4"}] * 4 + [{"answer": ""}]
    data = write(tmp_path / "data.jsonl", rows)
    assert main([data]) == 1
    output = capsys.readouterr().out
    assert counts(output)["gold"] == (4, 1)
    assert any(
        line.split()[:2] == ["5", "gold"] and "fault" in line for line in output.splitlines()
    )
    assert main([data, "--tolerance", "0.2"]) == 0


def test_a_reward_that_pays_anything_is_found_out(tmp_path, capsys):
    (tmp_path / "generous.py").write_text("def reward(text, answer):\n    return 1.0\n")
    data = write(tmp_path / "data.jsonl", [{"answer": "4"}, {"answer": "5"}])
    assert main([data, "--reward", f"{tmp_path}/generous.py:reward"]) == 1
    assert counts(capsys.readouterr().out) == {"gold": (2, 0), "empty": (0, 2), "perturbed": (0, 2)}


def test_a_template_says_the_answer_as_ones_own_reward_expects_it(tmp_path, capsys):
    (tmp_path / "exact.py").write_text(
        "def reward(text, answer):\n    return text == f'= {answer}'\n"
    )
    data = write(tmp_path / "data.jsonl", [{"answer": "blue"}, {"answer": "5"}])
    assert main([data, "--reward", f"{tmp_path}/exact.py:reward"]) == 1
    assert main([data, "--reward", f"{tmp_path}/exact.py:reward", "--template", "= {gold}"]) == 0


def test_a_column_may_hold_whole_right_completions(tmp_path, capsys):
    row = {
        "numbers": [1, 2, 3],
        "target": 9,
        "reply": "<think>so</think><answer>(1 + 2) * 3</answer>",
    }
    data = write(tmp_path / "data.jsonl", [row])
    assert main([data, "--reward", "countdown", "--completion", "reply"]) == 0
    capsys.readouterr()
    assert main([data, "--reward", "countdown"]) == 0
    output = capsys.readouterr().out
    assert counts(output) == {"gold": (0, 0), "empty": (1, 0), "perturbed": (0, 0)}
    assert "only the empty completion was tried" in output and "--completion" in output


def test_a_file_of_prompts_alone_is_checked_by_rewards_that_want_no_gold(tmp_path, capsys):
    data = write(tmp_path / "prompts.jsonl", [{"prompt": "Tell me."}, {"prompt": "And then?"}])
    assert main([data, "--reward", "think_format"]) == 0
    output = capsys.readouterr().out
    assert counts(output) == {"gold": (0, 0), "empty": (2, 0), "perturbed": (0, 0)}
    assert (
        "whether think_format gives a right completion 1 and a wrong one less is not known"
        in output
    )
    (tmp_path / "generous.py").write_text("def reward(text):\n    return 1.0\n")
    assert main([data, "--reward", f"{tmp_path}/generous.py:reward"]) == 1
    assert main([data, "--reward", "think_format", "--gold", "reply"]) == 2
    assert main([data]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "the data has no column reply; it has prompt" in said[0]
    assert "math_answer wants the column answer" in said[1] and "--reward think_format" in said[1]


def test_a_row_that_lacks_the_gold_column_fails_and_the_others_are_judged(tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", [{"question": "?"}, {"answer": "4"}, {"answer": "5"}])
    assert main([data]) == 1
    output = capsys.readouterr().out
    assert counts(output)["gold"] == (2, 1) and " 1  gold" in output


def test_a_gold_column_of_programs_is_given_to_the_tests_as_it_is(tmp_path, capsys):
    row = {"solution": "def f(n):\n    return n + 1", "test_list": ["assert f(1) == 2"]}
    data = write(tmp_path / "data.jsonl", [row])
    arguments = [data, "--reward", "code_tests", "--gold", "solution", "--workers", "1"]
    assert main(arguments) == 0
    assert counts(capsys.readouterr().out)["gold"] == (1, 0)


def test_code_rows_whose_tests_every_program_passes_are_counted(tmp_path, capsys):
    right = "```python\ndef f(n): return n + 1\n```"
    tests = ["assert f(1) == 2"], ["assert True"], ["assert True", "assert 1"]
    rows = [{"test_list": each, "reply": right} for each in tests]
    data = write(tmp_path / "data.jsonl", rows)
    arguments = [data, "--reward", "code_tests", "--completion", "reply", "--workers", "1"]
    main(arguments)
    output = capsys.readouterr().out
    assert counts(output)["gold"] == (1, 2)
    assert output.count("the tests assert True and nothing else") == 6


def test_columns_are_named_as_recipes_name_them(tmp_path, capsys):
    rows = [
        {"q": {"text": "Which?"}, "choices": ["red", "blue"], "right": index % 2}
        for index in range(6)
    ]
    data = write(tmp_path / "data.jsonl", rows)
    named = ["answer={right:letter}", "prompt={q.text}\n{choices:lettered}"]
    assert main([data, "--columns", *named]) == 0
    assert counts(capsys.readouterr().out)["gold"] == (6, 0)
    wrong = {
        "answer={q:letter}": "row 1: --columns answer={q:letter}: q holds {'text': 'Which?'}, which is neither",
        "answer={rigth:letter}": "the data has no column rigth; it has q, choices, right",
        "answer=q.text.x": "row 1: --columns answer=q.text.x: 'Which?' is not JSON",
    }
    for pair, message in wrong.items():
        assert main([data, "--columns", pair]) == 2
        assert message in capsys.readouterr().err


def test_csv_and_procedural_tasks_are_read(tmp_path, capsys):
    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows([{"question": "a, b", "answer": "4"}, {"question": "c", "answer": "5"}])
    assert main([str(tmp_path / "data.csv")]) == 0
    assert main(["arithmetic", "--limit", "20"]) == 0
    assert counts(capsys.readouterr().out)["gold"] == (20, 0)


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([{"answer": "4"}]), tmp_path / "data.parquet")
    assert main([str(tmp_path / "data.parquet")]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.jsonl"], "there is no file absent.jsonl"),
        (["no_such_task"], "no procedural task"),
        (["{data}", "--reward", "math_anwser"], "did you mean math_answer"),
        (["{data}", "--columns", "answer=reply"], "no column reply; it has question, answer"),
        (["{data}", "--reward", "countdown"], "wants the column numbers and target"),
        (["{data}", "--columns", "answer"], "is not NAME=COLUMN"),
        (["{empty}"], "has no rows"),
        (["{broken}"], "line 2 of"),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_2(tmp_path, arguments, message):
    names = {
        "{data}": write(tmp_path / "data.jsonl", [{"question": "?", "answer": "4"}]),
        "{empty}": write(tmp_path / "empty.jsonl", []),
        "{broken}": str(tmp_path / "broken.jsonl"),
    }
    Path(names["{broken}"]).write_text('{"answer": "4"}\n{"answer": \n')
    command = [sys.executable, "-m", "rewards.check", *(names.get(one, one) for one in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("gold", [*GOOD, "9", "0", "no", "False", "Z", "blue", r"\sqrt{x}", "-1"])
def test_a_perturbed_answer_is_another_answer(gold):
    assert perturbed(gold) != gold


def test_rows_without_a_gold_of_a_task_judged_by_rule_are_counted_and_not_failed(tmp_path, capsys):
    rule = {"task": "graph_color", "metadata": {}, "answer": None}
    rows = [{"task": "gcd", "metadata": {}, "answer": "4"}, rule, rule]
    assert main([write(tmp_path / "some.jsonl", rows), "--reward", "gym_answer"]) == 0
    output = capsys.readouterr().out
    assert counts(output) == {"gold": (1, 0), "empty": (3, 0), "perturbed": (1, 0)}
    assert "gold not checked on 2 of 3 rows" in output
    assert main([write(tmp_path / "none.jsonl", [rule] * 4), "--reward", "gym_answer"]) == 0
    output = capsys.readouterr().out
    assert counts(output) == {"gold": (0, 0), "empty": (4, 0), "perturbed": (0, 0)}
    assert "gold not checked on 4 of 4 rows" in output


def test_a_reward_that_needs_a_gold_still_fails_without_one(tmp_path, capsys):
    for gold in (None, float("nan"), "N/A"):
        data = write(tmp_path / "data.jsonl", [{"answer": "4"}, {"answer": gold}])
        assert main([data]) == 1
        assert counts(capsys.readouterr().out)["gold"] == (1, 1)


def test_lists_of_one_are_checked_as_that_item_and_several_by_the_rule(tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", [{"answer": ["4"]}, {"answer": '["5"]'}, {"answer": [6]}])
    assert main([data]) == 0, capsys.readouterr().out
    data = write(tmp_path / "several.jsonl", [{"answer": ["4", "5"]}, {"answer": '["6", "7"]'}])
    assert main([data]) == 1 and "several" in capsys.readouterr().out
    for rule in ("any", "all"):
        assert main([data, "--args", json.dumps({"several": rule})]) == 0, capsys.readouterr().out


def test_remarks_in_place_of_golds_are_counted(tmp_path, capsys):
    data = write(
        tmp_path / "data.jsonl", [{"answer": "4"}, {"answer": "proof"}, {"answer": "notfound"}]
    )
    main([data])
    assert (
        "2 of 3 golds read like remarks and not like answers, e.g. 'proof'"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("prompt", ["2 + 2? <think>\n", [{"role": "user", "content": "2 + 2?"}]])
@pytest.mark.parametrize("reward", ["math_answer", "think_format"])
@pytest.mark.thin(3)
def test_completions_go_on_from_the_prompt_that_the_row_shows(tmp_path, capsys, prompt, reward):
    data = write(tmp_path / "data.jsonl", [{"prompt": prompt, "answer": "4"}])
    main([data, "--reward", reward])
    assert counts(capsys.readouterr().out)["gold"] == (1, 0)
    rendered = [{"prompt": prompt, "prompt_text": "<user>2 + 2?<bot><think>\n", "answer": "4"}]
    main([write(tmp_path / "rendered.jsonl", rendered), "--reward", reward])
    assert counts(capsys.readouterr().out)["gold"] == (1, 0)
