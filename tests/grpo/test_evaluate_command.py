"""``python -m grpo.evaluate``: models and runs, strict and lenient accuracy, comparisons, scoring again, refusals."""

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
        assert main([*arguments, "--json"]) == 0
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


def test_other_data_takes_the_place_of_a_mixture_and_of_evaluation_sets(said, tmp_path):
    rows = data(tmp_path, "7", "8")
    recipe = {
        "data": {"template": "plain", "sources": {"a": {"source": rows}, "b": {"source": rows}}},
        "rewards": {"correct": {"use": "math_answer"}},
        "sample": {"max_tokens": 8},
        "evaluate": {"temperature": 0, "samples": 1, "sets": {"test": {"source": rows}}},
        "checkpoint": {"best_by": "test"},
    }
    (tmp_path / "mixture.yaml").write_text(json.dumps(recipe))
    seven = parrot(tmp_path / "seven", "7")
    report = said(seven, "--recipe", "mixture.yaml", "--data", rows)
    assert report["prompts"] == 2 and report["strict"]["accuracy"] == 0.5


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


def test_stored_completions_are_scored_again_without_a_model(said, tmp_path):
    """By the same reward to the same figures, by another to others; the model is not even there."""
    report = said(
        BASE,
        "--recipe",
        "quickstart",
        "--samples",
        "4",
        "data.held_out=6",
        "--completions",
        "c.jsonl",
    )
    again = said("c.jsonl", "--rescore", "--recipe", "quickstart")
    for key in ("strict", "mean_reward", "prompts", "truncated", "length", "model"):
        assert again[key] == report[key], key
    assert again["rescored"] == "c.jsonl" and again["samples_per_prompt"] == 4
    (tmp_path / "mine.py").write_text("def short(text): return len(text) < 3\n")
    other = said("c.jsonl", "--rescore", 'rewards={"correct": {"use": "mine.py:short"}}')
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert other["strict"]["accuracy"] == pytest.approx(
        sum(len(row["completion"]) < 3 for row in rows) / 24
    )


def test_two_models_are_compared_by_prompt(said, tmp_path, capsys):
    rows = data(tmp_path, *["7"] * 12, *["8"] * 3)
    seven = parrot(tmp_path / "seven", "7")
    eight = parrot(tmp_path / "eight", "8")
    greedy = ["--protocol", "greedy", "data.template=plain", "sample.max_tokens=8"]
    report = said(seven, eight, "--data", rows, "--compare", *greedy, "--completions", "both.jsonl")
    (comparison,) = report["comparisons"]
    assert [each["strict"]["accuracy"] for each in report["evaluations"]] == [0.8, 0.2]
    accuracy = comparison["accuracy"]
    assert accuracy["difference"] == pytest.approx(-0.6)
    assert (accuracy["better"], accuracy["worse"], comparison["prompts"]) == (3, 12, 15)
    assert accuracy["low"] < -0.6 < accuracy["high"] < 0 and accuracy["p_value"] < 0.05
    assert comparison["baseline"] == seven and comparison["model"] == eight
    again = said("both.jsonl", "--rescore", "--compare")
    assert again["comparisons"] == [comparison]
    capsys.readouterr()
    assert main(["both.jsonl", "--rescore", "--compare"]) == 0
    shown = capsys.readouterr()
    assert "accuracy -60.0 points [" in shown.out and "80.0 % [" in shown.out
    assert "paired by 15 prompts" in shown.out and "better on 3, worse on 12" in shown.out


def test_bare_models_are_said_to_be_scored_by_math_answer(said, tmp_path, capsys):
    rows = data(tmp_path, "7", "8")
    seven, eight = parrot(tmp_path / "seven", "7"), parrot(tmp_path / "eight", "8")
    few = ["--data", rows, "--protocol", "greedy", "data.template=plain", "sample.max_tokens=8"]
    own = {"source": rows, "rewards": {"mine": {"use": "think_format"}}}
    assert main([seven, eight, "--compare", *few, "--completions", "both.jsonl"]) == 0
    note = "no rewards were named, so math_answer scored the completions; for others give --recipe FILE"
    assert f"{seven}, {eight}: {note}" in capsys.readouterr().out
    assert main(["both.jsonl", "--rescore", "--compare"]) == 0
    assert note in capsys.readouterr().out
    assert main([seven, *few, "rewards.correct.use=tag_count"]) == 0
    assert "math_answer" not in capsys.readouterr().out
    both = said(seven, *few, f"evaluate.sets.own={json.dumps(own)}")["evaluations"]
    assert [report["rewards_by_default"] for report in both] == [True, False]


def test_a_table_is_shown_with_progress_on_standard_error(tmp_path, capsys):
    rows = data(tmp_path, "7", "7", "9")
    model = parrot(tmp_path / "m", "7")
    arguments = ["--data", rows, "--samples", "2", "data.template=plain", "sample.max_tokens=8"]
    assert main([model, *arguments, "--protocol", "deepseek"]) == 0
    said = capsys.readouterr()
    assert "sampling 3 prompts x 2" in said.err and "sampling" not in said.out
    assert "temperature 0.6, top-p 0.95" in said.out
    for words in ("accuracy (avg@2)", "pass@2", "maj@2", "mean reward", "truncated", "no answer"):
        assert words in said.out
    assert "66.7 % [" in said.out and "for new prompts" in said.out


def test_a_protocol_gives_way_to_what_is_said_besides(said, tmp_path):
    rows = data(tmp_path, "7")
    model = parrot(tmp_path / "m", "7")
    plain = ["--data", rows, "data.template=plain", "sample.max_tokens=8"]
    greedy = said(model, *plain, "--protocol", "greedy")
    assert (greedy["temperature"], greedy["samples_per_prompt"]) == (0, 1)
    mixed = said(model, *plain, "--protocol", "deepseek", "--temperature", "1", "--samples", "3")
    assert (mixed["temperature"], mixed["top_p"], mixed["samples_per_prompt"]) == (1, 0.95, 3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([BASE, "--recipe", "quickstart", "--compare"], "--compare needs two models at least"),
        (["data.held_out=3"], "name a model or a run folder"),
        (["none.jsonl", "--rescore"], "there is no file none.jsonl"),
        (["none.jsonl", "--rescore", "--samples", "2"], "--rescore samples nothing"),
        (
            [BASE, "--recipe", "quickstart", "--completions", "/nowhere/c.jsonl"],
            "there is no folder",
        ),
        (["./nowhere", "--data", "arithmetic"], "there is no ./nowhere; name a run folder"),
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


@pytest.mark.parametrize(
    "row, words",
    [
        ({"prompt": "1:", "completion": "7", "finish": "stop"}, "has no prompt_id and no columns"),
        (
            {"prompt_id": "a", "prompt": "", "completion": "7", "finish": "end", "columns": {}},
            "finish is 'end'",
        ),
        (
            {"prompt_id": "a", "prompt": "", "completion": "7", "finish": "stop", "columns": {}},
            "wants the column answer",
        ),
        (
            {"prompt_id": "a", "prompt": "", "completion": 7, "finish": "stop", "columns": {}},
            "completion text",
        ),
    ],
)
def test_completions_that_cannot_be_scored_again_are_refused(capsys, tmp_path, row, words):
    file = tmp_path / "c.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert main([str(file), "--rescore"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_an_evaluation_stored_twice_in_one_file_is_refused(capsys, tmp_path):
    row = {"prompt_id": "a", "prompt": "", "completion": "7", "finish": "stop", "index": 0}
    line = json.dumps({**row, "columns": {"answer": "7"}}) + "\n"
    (tmp_path / "c.jsonl").write_text(line * 2)
    assert main([str(tmp_path / "c.jsonl"), "--rescore"]) == 2
    assert "two completions of the same index" in capsys.readouterr().err


def test_models_of_different_prompts_are_not_compared(capsys, tmp_path):
    row = {"prompt_id": "a", "prompt": "", "completion": "7", "finish": "stop"}
    for name, answer in (("a", "7"), ("b", "8")):
        whole = {**row, "model": name, "columns": {"answer": answer}}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(whole) + "\n")
    files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    assert main([*files, "--rescore", "--compare"]) == 2
    assert "a and b were not evaluated on the same prompts" in capsys.readouterr().err


def test_a_run_that_is_not_finished_says_how_to_finish_it(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    assert main([str(tmp_path)]) == 2
    assert "has no final model yet; finish it with: grpo train " in capsys.readouterr().err
