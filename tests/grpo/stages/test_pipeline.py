"""Recipes with stages, run: what each leaves, what is run again, what is refused, what a failure leaves standing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_runs import BASE, RL, ROOT, START, TABLE, run, statuses, values
from transformers import AutoModelForCausalLM

from grpo.monitor.gates import GateStop
from grpo.recipe import RecipeError
from grpo.recipe.files import to_yaml
from grpo.recipe.plan import Plan
from grpo.report.pipeline import PipelineFolder
from grpo.stages.checks import check_stages
from grpo.stages.pipeline import Pipeline
from grpo.stages.progress import StageBook


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which three stages have run."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    run(folder, START, RL, TABLE)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_each_stage_goes_on_from_the_model_of_the_one_before(made: Path) -> None:
    assert statuses(made) == {"start": "done", "rl": "done", "table": "done"}
    base, start, rl = (
        weights(Path(p)) for p in (BASE, made / "stages/start/final", made / "stages/rl/final")
    )
    name = "model.embed_tokens.weight"
    assert not torch.equal(base[name], start[name])
    assert not torch.equal(start[name], rl[name])
    assert (rl[name] - start[name]).abs().max() < (rl[name] - base[name]).abs().max()


def test_the_table_has_a_row_for_the_base_and_each_model_measured_alike(made: Path) -> None:
    table = json.loads((made / "table.json").read_text())
    (column,) = table["columns"]
    assert (column["set"], column["samples"], column["prompts"]) == ("heldout", 1, 6)
    rows = {row["name"]: row["cells"]["heldout"] for row in table["rows"]}
    assert list(rows) == ["base", "start", "rl"]
    assert all(cell["low"] <= cell["accuracy"] <= cell["high"] for cell in rows.values())
    after = json.loads((made / "stages/rl/summary.json").read_text())["after"]
    assert rows["rl"]["length"] == after["length"]  # the same rows and seeds as in training
    assert "| rl | grpo |" in (made / "table.md").read_text()


def test_a_finished_folder_is_said_to_be_taken_and_resumes_to_the_same_table(made: Path) -> None:
    before = (made / "table.json").read_bytes()
    with pytest.raises(RecipeError, match="exists; continue it with --resume"):
        run(made, START, RL, TABLE)
    again = run(made, START, RL, TABLE, resume=True)
    assert (made / "table.json").read_bytes() == before
    assert again.last == ""  # nothing was run


def test_a_changed_stage_is_refused_by_name_and_begun_anew_where_that_is_asked_for(
    made: Path,
) -> None:
    changed: dict[str, Any] = {"name": "rl", "grpo": {**RL["grpo"], "optim": {"lr": 2e-3}}}
    with pytest.raises(RecipeError, match=r"stage rl: optim.lr was 0.001, is 0.002.*--from rl"):
        run(made, START, changed, TABLE, resume=True)
    with pytest.raises(RecipeError, match="stages may only be added at the end"):
        run(made, RL, resume=True)
    with pytest.raises(
        RecipeError, match="--only: there is no stage rk; the stages are start, rl, table"
    ):
        run(made, START, RL, TABLE, only="rk")


def test_how_processes_share_the_work_may_change_after_stages_are_done(made: Path) -> None:
    divided = {**values(made, START, RL, TABLE), "distributed": {"shard": True}}
    assert Pipeline(divided, resume=True, quiet=True).train() is not None
    whole = Pipeline(values(made, START, RL, TABLE), resume=True, quiet=True)
    assert whole.train() is not None and whole.last == ""


@pytest.mark.slow
def test_a_stage_run_anew_takes_what_was_made_of_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RecipeError, match="stage rl reads from start, which is waiting"):
        run(folder, begin_at="rl")
    run(folder)
    (folder / "stages/rl/mark").touch()
    (folder / "stages/start/mark").touch()
    run(folder, only="start")
    assert statuses(folder) == {"start": "done", "rl": "waiting"}
    assert not (folder / "stages/rl").exists() and not (folder / "stages/start/mark").exists()
    assert not (folder / "table.json").exists()
    run(folder, resume=True)
    assert statuses(folder) == {"start": "done", "rl": "done"}


@pytest.mark.slow
def test_a_stage_that_fails_is_named_and_the_ones_before_it_stand(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "bad.py").write_text("def bad(text):\n    raise RuntimeError('no verdict')\n")
    stuck = {"name": "rl", "grpo": {"rewards": {"bad": {"use": f"{tmp_path}/bad.py:bad"}}}}
    gone = Pipeline(values(folder, START, stuck), quiet=True)
    with pytest.raises(GateStop):
        gone.train()
    assert gone.last == "rl"
    assert statuses(folder) == {"start": "done", "rl": "failed"}
    weights(folder / "stages/start/final")


def test_stages_that_cannot_work_are_refused_before_the_first_begins(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for stage, reason in (
        ({"name": "rl", "grpo": {"rewards": {"x": {"use": "countdwn"}}}}, "stage rl: .*countdwn"),
        ({"name": "rl", "grpo": {"data": {"source": "gone.jsonl"}}}, "stage rl: .*gone.jsonl"),
        ({"name": "files", "export": {"to": "gguf", "precision": ["Q9"]}}, "stage files: .*Q9"),
        ({"name": "t", "evaluate": {"data": {"held_out": 0}}}, "stage t: .*nothing to evaluate on"),
        ({"name": "rl", "grpo": {"sample": {"prompts": 100}}}, "stage rl: .*100"),
    ):
        with pytest.raises(RecipeError, match=reason):
            Pipeline(values(folder, START, stage), quiet=True)
        assert not folder.exists()


def test_a_folder_of_stages_tells_others_what_became_of_each(made: Path) -> None:
    found = PipelineFolder.at(made)
    assert found is not None and not found.is_running()
    first, *_ = found.lines()
    assert "start" in first and "sft" in first and "done" in first
    assert [run.path.name for run in found.runs_with_steps()] == ["start", "rl"]


def test_samples_of_an_earlier_stage_are_kept_by_their_pass_rate_and_trained(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    sampled = {"name": "rl", "grpo": {"steps": 2, "sample": {"prompts": 12, "max_tokens": 48}}}
    kept = {"name": "kept", "reject": {"samples": ["rl"], "rewards": {}, "per_prompt": 1}}
    where = {"pass_rate": "<= 0.5"}
    learnt = {"sft": {"epochs": 1, "batch": 1}, "from": "base"}
    again = {"name": "again", **learnt, "data": {"from": "kept", "where": where}}
    run(folder, sampled, kept, again)
    rows = [
        json.loads(line)
        for line in (folder / "stages/kept/accepted.jsonl").read_text().splitlines()
    ]
    samples = (folder / "stages/rl/samples.jsonl").read_text().splitlines()
    right: dict[str, list[bool]] = {}
    for sample in map(json.loads, samples):
        right.setdefault(sample["prompt_id"], []).append(sample["parts"]["correct"] == 1)
    rates = {name: sum(found) / len(found) for name, found in right.items()}
    assert {row["sampled"]["prompt_id"] for row in rows} == {n for n, r in rates.items() if r}
    assert all(row["pass_rate"] == rates[row["sampled"]["prompt_id"]] for row in rows)
    hard = [row for row in rows if row["pass_rate"] <= 0.5]
    assert 0 < len(hard) < len(rows)
    summary = json.loads((folder / "stages/again/summary.json").read_text())
    assert summary["steps"] == summary["ledger"]["trained"] == len(hard)
    assert summary["rows"]["left_out"] == len(rows) - len(hard)


def test_rows_of_a_stage_that_is_not_done_do_not_keep_the_others_from_going_on(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    answers = {"name": "answers", "reject": {"prompts": 2}}
    again = {"name": "again", "sft": {"steps": 1, "batch": 1}, "data": {"from": "answers"}}
    plan = Plan.from_mapping(values(folder, answers, again))
    left = folder / "stages" / "answers"
    left.mkdir(parents=True)
    (left / "accepted.jsonl").touch()  # as a stage that was killed in its first step leaves it
    book = StageBook(plan)
    book.set("answers", "failed", 0.0)
    check_stages(plan, plan.stages)
    book.set("answers", "done", 1.0)
    check_stages(plan, plan.stages)  # it is to be run anew, so what it left before is not read
    with pytest.raises(RecipeError, match="stage again: data: .*accepted.jsonl holds no rows"):
        check_stages(plan, plan.stages[1:])


@pytest.mark.slow
def test_two_processes_run_the_stages_that_one_runs(tmp_path: Path) -> None:
    answers = {"name": "answers", "reject": {"prompts": 6, "right": False, "finished": False}}
    again = {"name": "again", "sft": {"steps": 2, "batch": 2}, "data": {"from": "answers"}}
    stages = (answers, again, RL, TABLE)
    folder = tmp_path / "two"
    (tmp_path / "two.yaml").write_text(to_yaml(values(folder, *stages)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    for resume in ([], ["--resume=auto"]):
        command = ["-m", "grpo", "train", str(tmp_path / "two.yaml"), *resume]
        done = subprocess.run(
            [sys.executable, *launcher, *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        if not resume:  # as after a kill before the last stage
            book = StageBook(Plan.of_run(folder))
            book.set("table", "waiting")
    assert set(statuses(folder).values()) == {"done"}
    console = (folder / "console.log").read_text()
    assert console.count("stage 1 of 4: answers (reject") == 1
    assert console.count("stage 4 of 4: table (evaluate") == 2
    run(tmp_path / "one", *stages)
    for file in ("accepted.jsonl", "pass_rates.jsonl", "samples.jsonl"):
        ours = (folder / "stages/answers" / file).read_bytes()
        assert ours == (tmp_path / "one/stages/answers" / file).read_bytes()
    for name in ("again", "rl"):
        first, second = (
            weights(place / f"stages/{name}/final") for place in (folder, tmp_path / "one")
        )
        assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)
