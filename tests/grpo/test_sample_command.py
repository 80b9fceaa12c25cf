"""``python -m grpo.sample``: lines that hold the row and what was sampled, the same each time; refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.sample import main

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "recipes" / "quickstart_base")
TASK = (
    "--data",
    "countdown",
    "data.args={style: symbols}",
    "data.template=plain",
    "sample.max_tokens=40",
)


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_hold_the_rows_columns_and_what_was_sampled(capsys):
    assert main([BASE, *TASK, "--rows", "5", "--n", "3", "--tokens"]) == 0
    said = capsys.readouterr()
    found = rows_of(said.out)
    assert sorted((row["id"], row["index"]) for row in found) == [
        (f"train-{i}", j) for i in range(5) for j in range(3)
    ]
    for row in found:
        assert {"numbers", "target", "prompt_text", "completion"} <= row.keys()
        assert row["num_tokens"] == len(row["token_ids"]) == len(row["sampled_logps"]) <= 40
        assert row["logp"] == pytest.approx(sum(row["sampled_logps"]), abs=1e-5)
        assert (row["finish"] == "stop") == (row["stop"] is not None)
    report = json.loads(said.err.splitlines()[-1])
    assert report["completions"] == 15 and report["tokens"] == sum(
        row["num_tokens"] for row in found
    )


def test_the_same_command_writes_the_same_completions_whatever_is_decoded_at_once(tmp_path):
    found = []
    for number, extra in enumerate(([], ["sample.max_rows=8"], ["seed=1"])):
        out = tmp_path / f"{number}.jsonl"
        assert main([BASE, *TASK, "--rows", "6", "--n", "4", "--out", str(out), *extra]) == 0
        found.append(
            {
                (row["id"], row["index"]): (row["completion"], row["logp"])
                for row in rows_of(out.read_text())
            }
        )
    assert found[0] == found[1] and found[0] != found[2]


def test_what_is_sampled_can_be_scored(capsys, tmp_path):
    out = tmp_path / "sampled.jsonl"
    assert main([BASE, *TASK, "--rows", "20", "--n", "2", "--out", str(out)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "rewards.score", "countdown"],
        stdin=out.open(),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    scores = rows_of(done.stdout)
    assert done.returncode == 0 and len(scores) == 40
    assert {score["status"] for score in scores} <= {"scored", "no_answer"} and any(
        s["value"] for s in scores
    )


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (["--n", "0"], "--n is 0; it must be at least 1"),
        (["--rows", "-1"], "--rows is -1"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["sample.max_tokens=100000"], "context"),
        (["sample.tempratur=1"], "did you mean temperature"),
    ],
)
def test_mistakes_are_told_in_a_line(wrong, sentence, capsys):
    assert main([BASE, *TASK, *wrong]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly():
    done = subprocess.run(
        f"{sys.executable} -m grpo.sample {BASE} --data countdown 'data.args={{style: symbols, count: 200}}' "
        "data.template=plain sample.max_tokens=20 --rows 100 2>/dev/null | head -n 1; "
        "exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and len(rows_of(done.stdout)) == 1
