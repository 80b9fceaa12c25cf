"""``python -m grpo.evaluate``: models and runs, data by argument or recipe, strict and lenient accuracy, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import byte_tokenizer, parrot_policy

from grpo.evaluate import main
from grpo.train import main as train

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "recipes" / "quickstart_base")


@pytest.fixture
def said(capsys, tmp_path, monkeypatch):
    """The report of a command that succeeds."""
    monkeypatch.chdir(tmp_path)

    def report(*arguments: str) -> dict:
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    return report


def parrot(folder: Path, word: str) -> str:
    """A model that answers a colon with `word`, of different letters, and the end."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(":" + word)["input_ids"]
    parrot_policy(
        {**dict(zip(ids, ids[1:])), ids[-1]: 2}, tokenizer, vocabulary=len(tokenizer)
    ).save(folder)
    return str(folder)


def data(folder: Path, *answers: str) -> str:
    file = folder / "rows.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"{n}:", "answer": answer}) + "\n"
            for n, answer in enumerate(answers)
        )
    )
    return str(file)


def test_strict_and_lenient_accuracy_are_told_apart(said, tmp_path):
    report = said(
        parrot(tmp_path / "m", "0.671"),
        "--data",
        data(tmp_path, "0.67", "2/3", "7", "0.671"),
        "--temperature",
        "0",
        "--samples",
        "1",
        "data.template=plain",
        "sample.max_tokens=8",
    )
    assert report["strict"]["accuracy"] == 0.25  # 0.671 alone
    assert report["lenient"]["accuracy"] == 0.5  # and the rounded 0.67
    assert report["strict"]["low"] <= 0.25 <= report["strict"]["high"]
    assert report["prompts"] == 4 and report["strict"]["samples"] == 4 and report["truncated"] == 0


def test_a_run_is_evaluated_with_its_final_model_on_what_it_held_out(said, tmp_path, capsys):
    assert (
        train(
            [
                "quickstart",
                "steps=1",
                "sample.prompts=4",
                "data.held_out=10",
                "evaluate.samples=2",
                f"run_dir={tmp_path / 'run'}",
            ]
        )
        == 0
    )
    capsys.readouterr()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    report = said(str(tmp_path / "run"))
    assert report["model"] == str(tmp_path / "run" / "final") and report["prompts"] == 10
    assert (
        report["strict"]["accuracy"] == summary["after"]["accuracy"] and report["lenient"] is None
    )
    greedy = said(str(tmp_path / "run"), "--temperature", "0", "--samples", "1")
    assert greedy["temperature"] == 0 and greedy["strict"]["samples"] == 10


def test_every_completion_can_be_written(said, tmp_path):
    report = said(
        BASE,
        "--recipe",
        "quickstart",
        "--samples",
        "2",
        "data.held_out=6",
        "--completions",
        "c.jsonl",
    )
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and sum(row["correct"] for row in rows) / 12 == pytest.approx(
        report["strict"]["accuracy"]
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["./nowhere", "--data", "arithmetic"], "there is no such folder"),
        (
            [BASE],
            "is not a run folder (it has no recipe.yaml), so it names no data; give --data or --recipe",
        ),
        (["runs/nowhere"], "there is no run folder and no model runs/nowhere here"),
        (
            [BASE, "--recipe", "quickstart", "--samples", "0"],
            "evaluate.samples is 0; it must be at least 1",
        ),
        ([BASE, "--recipe", "nowhere.yaml"], "there is no file nowhere.yaml"),
        ([BASE, "--recipe", "quickstart", "evaluate.reward=x"], "evaluate.reward names x"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_run_that_is_not_finished_says_how_to_finish_it(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    assert main([str(tmp_path)]) == 2
    assert "has no final model yet; finish it with: grpo train " in capsys.readouterr().err
