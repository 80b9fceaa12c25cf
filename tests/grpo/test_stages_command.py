"""``grpo train`` of a recipe with stages: what it refuses and how, its dry run; watch, report and evaluate of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import Shape, made_run
from stage_runs import RL, START, TABLE, values

from grpo.cli import main
from grpo.recipe import RecipeError
from grpo.recipe.files import to_yaml
from grpo.recipe.target import final_stage


def written(folder: Path, *stages: dict[str, Any]) -> str:
    file = folder / "recipe.yaml"
    file.write_text(to_yaml(values(folder / "run", *stages)))
    return str(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of stages as others see it: one is done, one was interrupted, one waits."""
    run = tmp_path / "run"
    states = [("start", "sft", "done"), ("rl", "grpo", "running"), ("table", "evaluate", "waiting")]
    stages = [
        {"name": name, "kind": kind, "folder": f"stages/{name}", "status": status, "seconds": 4.0}
        for name, kind, status in states
    ]
    (run / "stages").mkdir(parents=True)
    for name in ("start", "rl"):
        made_run(run / "stages" / name, Shape(steps=3))
    (run / "stages.json").write_text(json.dumps({"stages": stages}))
    (run / "recipe.yaml").write_text(to_yaml(values(run, START, RL, TABLE)))
    return run


def test_what_cannot_run_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    for arguments, reason in (
        (["train", file, "stages.rl.from=strat"], "names 'strat', and there is no such stage; did you mean start"),
        (["train", file, "--from", "lr"], "--from: there is no stage lr; the stages are start, rl"),
        (["train", file, "--from", "rl"], "stage rl reads from start, which is waiting"),
        (["train", file, "--from", "rl", "--resume"], "give one of them"),
        (["train", file, "--only", "rl", "--from", "rl"], "--from and --only are both given"),
        (["train", file, "--resume"], "no run of stages to resume"),
        (["sft", file], "run them by grpo train"),
        (["train", "quickstart", "--only", "rl"], "--only names a stage, and quickstart has no stages"),
    ):  # fmt: skip
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_dry_run_shows_every_stage_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", written(tmp_path, START, RL, TABLE), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 stages, in " in said
    assert "2  rl: grpo, from start -> stages/rl/final" in said
    assert "==== start (sft, from the base) ====" in said and "what is learnt stands behind" in said
    assert "the run: 3 steps, 48 completions" in said
    assert "evaluates base, start, rl on 6 held-out rows" in said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_stages_runs_no_code_of_the_users_and_needs_no_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('was run')\ndef mine(text): return 1.0\n")
    with_code = {"name": "rl", "grpo": {"rewards": {"own": {"use": f"{tmp_path}/mine.py:mine"}}}}
    assert main(["train", written(tmp_path, START, with_code), "--dry-run"]) == 0
    assert "rewards: correct, shaped, own" in capsys.readouterr().out
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = written(tmp_path, START, RL)
    assert main(["train", file, "--dry-run", "model.name=nobody/has-this-model"]) == 0
    assert capsys.readouterr().out.count("the hub cannot be reached: ") == 2
    assert main(["train", file, "--dry-run", "model.name=./nowhere"]) == 2
    assert "stage start: recipe: model.name names" in capsys.readouterr().err


def test_the_preflight_goes_through_every_stage_and_names_what_is_wrong_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = {"name": "rl", "grpo": {"steps": 1, "loss": {"teacher": "start"}}}
    answers = {"name": "answers", "reject": {"prompts": 4}}
    again = {"name": "again", "sft": {"epochs": 1}, "data": {"from": "answers"}}
    file = written(tmp_path, START, taught, answers, again, TABLE)
    assert main(["train", file, "--preflight"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("==== ")] == [
        "start",
        "rl",
        "answers",
        "again",
        "table",
    ]
    assert said.count("base completions of") == 1 and said.count(" are as they should be") == 4
    assert main(["train", file, "--preflight", "stages.rl.grpo.sample.prompts=100"]) == 2
    assert "WRONG    too-few-rows" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_folder_of_stages_is_watched_and_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(folder)]) == 3
    said = capsys.readouterr().out
    assert "start  sft       done, 4 s" in said and "rl     grpo      interrupted" in said
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "two runs" in page or page.count("made") > 1


def test_other_commands_take_the_last_model_that_stands(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no stage of .* has left a model yet"):
        final_stage(str(folder))
    for name in ("start", "rl"):
        (folder / "stages" / name / "final").mkdir(exist_ok=True)
    assert final_stage(str(folder)) == str(folder / "stages" / "start")
    assert final_stage("gpt2") == "gpt2"
