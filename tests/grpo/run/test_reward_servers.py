"""Runs whose rewards are judged by servers: the same run as at home, whichever server dies, and on after all have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reward_servers import ROOT, TOKEN, served_by_command, serving
from small_runs import REWARDS, TINY, outcome, recipe, run

from grpo import Recipe, RecipeError, Trainer, cli
from grpo.recipe.plan import Plan
from grpo.run.failures import explain
from grpo.run.reward_serving import judges_of
from grpo.run.reward_specs import load_rewards
from grpo.scoring import sandbox_options
from rewards import RewardSpec
from rewards.remote.identity import identity_of
from rewards.remote.spread import NoRewardServerLeft

SET = ["evaluate.sets.own.source=countdown", "evaluate.sets.own.limit=3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_REWARDS_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARDS)
    return tmp_path


def at(*urls: str) -> str:
    return f"rewards_service.servers=[{', '.join(urls)}]"


def served(folder: Path, *overrides: str):
    """Servers in this process with the rewards of the tiny recipe."""
    lists = [judges.specs for judges in judges_of([recipe(folder / "unused", *overrides)])]
    return serving(*lists)


def compared(folder: Path) -> dict:
    """All of a run but for what says where it was judged."""
    found = outcome(folder)
    del found["summary"]["sandbox"]
    return found


def test_a_run_judged_by_two_servers_is_the_run_at_home(folder) -> None:
    run(folder / "home")
    with served(folder) as one, served(folder) as two:
        run(folder / "away", at(one.url, two.url))
        assert one.num_batches and two.num_batches
    assert compared(folder / "away") == compared(folder / "home")


def test_servers_that_are_missing_or_other_are_refused_before_a_model_loads(
    folder, monkeypatch
) -> None:
    monkeypatch.setattr("grpo.run.setup.open_policy", lambda *_, **__: pytest.fail("it loads"))
    gone = "http://127.0.0.1:9"
    with pytest.raises(RecipeError, match=f"rewards_service.servers: {gone} does not answer"):
        run(folder / "run", at(gone))
    with serving([RewardSpec("correct", "tag_count")]) as other:
        with pytest.raises(
            RecipeError, match="has rewards.correct.function = tag_count, not mixed"
        ):
            run(folder / "run", at(other.url))
    own = [*SET, "evaluate.sets.own.rewards.right.use=countdown"]
    with served(folder) as one:
        with pytest.raises(RecipeError, match="rewards_service.servers: .* has no rewards.right"):
            run(folder / "run", at(one.url), *own)
    assert not (folder / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_set_with_rewards_of_its_own_is_judged_by_the_same_server(folder) -> None:
    own = ["steps=1", *SET, "evaluate.sets.own.rewards.right.use=countdown"]
    with served(folder, *own) as one:
        assert len(one.judges) == 2
        trainer = run(folder / "run", at(one.url), *own)
    assert trainer.summary["sets"]["own"]["after"]["samples"] > 0


def test_a_recipe_of_stages_is_served_with_the_rewards_of_each_stage_once() -> None:
    stages = Plan.load("r1_miniature").stages
    lists = judges_of([stage.recipe for stage in stages])
    for stage in stages:
        if stage.kind in ("grpo", "reject"):
            specs, _ = load_rewards(stage.recipe)
            wanted = identity_of(specs, sandbox_options(stage.recipe.sandbox)).digest
            assert wanted in {judges.identity.digest for judges in lists}
    assert len(lists) < len(stages)


def test_a_recipe_without_rewards_cannot_be_served() -> None:
    rows = {"stage": "sft", "model": {"name": "quickstart_base"}, "data": {"source": "x.jsonl"}}
    with pytest.raises(RecipeError, match="the recipe has no rewards"):
        judges_of([Recipe.from_mapping(rows)])


def test_keys_that_contradict_each_other_are_refused(folder) -> None:
    for overrides, words in (
        ([at("http://a:1", "http://a:1")], "names a server twice"),
        (["rewards_service.silence=3"], "rewards_service.servers is empty"),
    ):
        with pytest.raises(RecipeError, match=words):
            recipe(folder / "run", *overrides)


def test_a_function_from_python_that_no_file_has_cannot_be_served(folder) -> None:
    with served(folder) as one:
        with pytest.raises(
            RecipeError, match="rewards.mine is a function that only this process has"
        ):
            run(folder / "run", at(one.url), rewards={"mine": lambda text: 1.0})


def test_the_command_wants_a_token_where_others_may_reach_it(monkeypatch, capsys) -> None:
    monkeypatch.delenv("GRPO_REWARDS_TOKEN", raising=False)
    assert cli.main(["serve-rewards", "quickstart", "--host", "0.0.0.0"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--host is 0.0.0.0, which others may reach; set GRPO_REWARDS_TOKEN" in shown.err


@pytest.mark.parametrize("given", ["99999", "-1", "http"])
def test_what_is_no_port_is_refused(capsys, given) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve-rewards", "quickstart", f"--port={given}"])
    assert ended.value.code == 2
    assert f"{given} is no port; ports are 0 to 65535" in capsys.readouterr().err


def test_where_it_cannot_listen_or_judge_is_one_sentence(folder, capsys) -> None:
    for arguments, words in (
        (["--workers", "0"], "serve-rewards: rewards: 0 workers are too few; at least 1"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid:0: "),
    ):
        assert cli.main(["serve-rewards", "quickstart", "--port", "0", *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_one_of_two_servers_is_killed_and_then_both_and_the_run_is_that_at_home(folder) -> None:
    run(folder / "home")
    overrides = TINY[:]
    with served_by_command("quickstart", *overrides, cwd=folder) as (first, url):
        with served_by_command("quickstart", *overrides, cwd=folder) as (second, other):
            trainer = Trainer(recipe(folder / "away", at(url, other)))
            with pytest.raises(NoRewardServerLeft) as lost:
                for record in trainer:
                    if record["step"] == 2:
                        first.kill()
                    if record["step"] == 4:
                        second.kill()
    assert 4 <= trainer.num_steps < 6
    [sentence] = explain(lost.value)
    assert "no reward server is left" in sentence and url in sentence and other in sentence
    with served_by_command("quickstart", *overrides, cwd=folder) as (_, third):
        run(folder / "away", at(third), resume=True)
    assert compared(folder / "away") == compared(folder / "home")


@pytest.mark.slow
def test_the_command_train_ends_with_1_when_all_servers_are_lost(folder) -> None:
    with served_by_command("quickstart", *TINY, cwd=folder) as (process, url):
        command = [sys.executable, "-m", "grpo.train", "quickstart", *TINY, at(url), "run_dir=run"]
        command += ["steps=2000"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        training = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert training.stdout is not None
        for line in training.stdout:
            if re.match(r"step +1/", line):
                break
        process.kill()
        _, said = training.communicate(timeout=120)
    assert training.returncode == 1 and "Traceback" not in said
    assert "no reward server is left" in said and "--resume" in said
    assert isinstance(Recipe.load(str(folder / "run" / "recipe.yaml")), Recipe)
