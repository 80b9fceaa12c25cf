"""Rejection sampling as a run: what its files hold, that they sum and train what was sampled, resume, stored completions."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest
from candidates import ROOT, assert_same, recipe, rows, run
from light_rewards import ill

from grpo import Recipe, RejectionSampler, SftTrainer, Trainer
from grpo.cli import main
from grpo.cost.book import read_costs
from grpo.kernels.sampling.spec import completion_seed
from grpo.recipe import RecipeError
from grpo.report.folder import RunFolder
from grpo.stages import TRAINERS, trainer_of
from rewards.tasks.countdown import countdown

SFT = {
    "stage": "sft",
    "threads": 1,
    "epochs": 1,
    "model": {"name": str(ROOT / "recipes" / "quickstart_base")},
    "sft": {"batch": 2},
    "evaluate": {"before": False, "every": 0},
    "checkpoint": {"every": 0},
    "log": {"report": False},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reject") / "whole"
    run(folder)
    return folder


def test_every_candidate_has_one_outcome_and_the_ledger_sums(whole):
    summary = json.loads((whole / "summary.json").read_text())
    samples = rows(whole, "samples.jsonl")
    ledger = dict(summary["ledger"])
    assert ledger.pop("candidates") == 60 == len(samples) == sum(ledger.values())
    assert Counter(row["outcome"] for row in samples) == +Counter(ledger)
    assert ledger["accepted"] == len(rows(whole, "accepted.jsonl")) > 2
    assert summary["rows"] == {
        "left_out": 0,
        "too_long": 0,
        "held_out": 6,
        "not_taken": 44,
        "prompts": 10,
    }
    assert summary["output"] == {"model": None, "data": "accepted.jsonl"}
    assert summary["tokens"]["sampled"] == sum(row["num_tokens"] for row in samples)


def test_what_is_accepted_is_right_unlike_and_at_most_so_many_of_a_prompt(whole):
    accepted = rows(whole, "accepted.jsonl")
    for row in accepted:
        assert countdown(row["completion"], row["numbers"], row["target"]).value == 1
        assert row["sampled"]["finish"] == "stop" and row["sampled"]["stop"] == "<eos>"
    by_prompt = Counter(row["sampled"]["prompt_id"] for row in accepted)
    assert max(by_prompt.values()) == 2
    assert len({(row["prompt"], row["completion"]) for row in accepted}) == len(accepted)


def test_pass_rates_are_those_of_all_judged_completions(whole):
    samples = rows(whole, "samples.jsonl")
    rates = rows(whole, "pass_rates.jsonl")
    assert [row["prompt_id"] for row in rates] == [f"train-{n}" for n in range(10)]
    for row in rates:
        right = [one["right"] for one in samples if one["prompt_id"] == row["prompt_id"]]
        assert (row["k"], row["passed"]) == (6, sum(right))
        assert row["pass_rate"] == sum(right) / 6
    found = json.loads((whole / "summary.json").read_text())["pass_rate"]
    assert found["value"] == pytest.approx(sum(row["pass_rate"] for row in rates) / 10)
    assert sum(found["histogram"].values()) == 10
    assert found["histogram"]["0"] == sum(row["pass_rate"] == 0 for row in rates)


def test_the_account_has_all_tokens_and_the_phases_and_says_that_the_run_is_finished(whole):
    summary = json.loads((whole / "summary.json").read_text())
    cost = summary["cost"]
    sampled = summary["tokens"]["sampled"]
    prompts = {row["prompt_id"]: row["prompt"] for row in rows(whole, "samples.jsonl")}
    assert cost["tokens"]["sampled"] == sampled and cost["tokens"]["prompt"] > 2 * len(prompts)
    assert cost["attempts"] == 1 and cost["phases"]["sample"]["wall_seconds"] > 0
    assert (
        cost["phases"]["sample"]["cpu_seconds"] > 0 and cost["phases"]["load"]["wall_seconds"] > 0
    )
    found = read_costs(whole)
    assert found is not None and found.total.wall == pytest.approx(
        sum(phase["wall_seconds"] for phase in cost["phases"].values()), abs=0.01
    )
    assert RunFolder.at(whole).state().name == "finished"


def test_a_row_says_which_seed_and_weights_made_it(whole):
    row = rows(whole, "accepted.jsonl")[0]["sampled"]
    assert row["seed"] == completion_seed("reject", 0, row["prompt_id"], row["index"])
    assert row["model"] == json.loads((whole / "summary.json").read_text())["model"]
    assert len(row["model"]) == 32


def test_supervised_training_of_what_was_accepted_trains_the_tokens_that_were_sampled(
    whole, tmp_path
):
    accepted = rows(whole, "accepted.jsonl")
    assert {row["sampled"]["trains_as"] for row in accepted} == {"same"}
    source = f"data.source={whole / 'accepted.jsonl'}"
    trainer = SftTrainer(
        Recipe.from_mapping(SFT, source, "data.template=plain", f"run_dir={tmp_path / 'sft'}"),
        quiet=True,
    )
    examples = trainer.inputs.examples.train
    assert len(examples) == len(accepted)
    for row, example in zip(accepted, examples):
        assert example.num_learnt == row["sampled"]["num_tokens"]
        assert example.prompt.truth["target"] == row["target"]
    assert trainer.train()["ledger"]["trained"] == len(accepted)


def test_pass_rates_are_a_source_that_where_selects_from(whole, tmp_path):
    source = [f"data.source={whole / 'pass_rates.jsonl'}", "data.where={pass_rate: '<= 0.4'}"]
    more = ["data.args={}", "data.held_out=0", "reject.prompts=null"]
    sampler = RejectionSampler(recipe(tmp_path, *source, *more), quiet=True)
    easy = [row for row in rows(whole, "pass_rates.jsonl") if row["pass_rate"] <= 0.4]
    assert 0 < len(easy) < 10
    assert [prompt.truth["target"] for prompt in sampler.inputs.prompts] == [
        r["target"] for r in easy
    ]


def test_the_command_that_comes_next_trains_what_was_accepted_as_it_was_sampled(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    of_chat = ["data.template='{prompt} => '", "data.system=null"]
    run(Path("runs/small"), *of_chat, "reject.prompts=4", "reject.right=false")
    said = (tmp_path / "runs/small/console.log").read_text().splitlines()
    command = shlex.split(next(line for line in said if line.startswith("next: ")))
    arguments = command[command.index("sft") :]
    accepted = rows(tmp_path / "runs/small", "accepted.jsonl")
    assert main([*arguments, "threads=1", "log.report=false", "--quiet"]) == 0, arguments
    summary = json.loads((tmp_path / "runs/small-sft/summary.json").read_text())
    assert summary["ledger"]["trained"] == 2 * len(accepted)
    learnt = sum(row["sampled"]["num_tokens"] for row in accepted)
    assert {row["sampled"]["trains_as"] for row in accepted} <= {"same", "end_added"}
    assert summary["tokens"]["trained"] >= 2 * learnt
    assert capsys.readouterr().err == ""


# ---- stopped and gone on with --------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_and_gone_on_with_is_the_run_never_stopped(whole, tmp_path):
    sampler = RejectionSampler(recipe(tmp_path / "cut"), quiet=True)
    for _ in sampler:
        sampler.request_stop()
    assert sampler.stopped and sampler.num_steps == 1
    for name in ("samples.jsonl", "accepted.jsonl"):  # what a step that is killed leaves behind
        with (tmp_path / "cut" / name).open("a") as file:
            file.write('{"half a li')
    assert run(tmp_path / "cut", resume=True).num_steps == 3
    assert_same(whole, tmp_path / "cut")


def test_a_finished_run_is_resumed_without_its_model(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "again")
    sampler = RejectionSampler(recipe(tmp_path / "again"), quiet=True, resume=True)
    sampler.open()
    assert sampler._policy is None
    sampler.train()
    assert_same(whole, tmp_path / "again")


@pytest.mark.parametrize(
    "change", ["reject.per_prompt=3", "evaluate.threshold=0.5", "sample.group_size=4", "seed=1"]
)
def test_a_resume_by_another_rule_is_refused(whole, change):
    with pytest.raises(RecipeError, match=change.partition("=")[0].replace(".", r"\.")):
        RejectionSampler(recipe(whole, change), quiet=True, resume=True)


def test_a_run_with_other_rows_is_not_resumed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "again")
    sampler = RejectionSampler(recipe(tmp_path / "again"), quiet=True, resume=True)
    file = tmp_path / "again" / "progress.json"
    state = json.loads(file.read_text())
    state["fingerprint"]["train"] = "10 other"
    file.write_text(json.dumps(state))
    with pytest.raises(RecipeError, match="are not those that the run began with"):
        sampler.train()


def test_a_shortened_file_is_told(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "again")
    (tmp_path / "again" / "accepted.jsonl").write_text("")
    with pytest.raises(RecipeError, match=r"accepted\.jsonl has 0 bytes, and the run had written"):
        run(tmp_path / "again", resume=True)


# ---- completions that earlier runs have stored ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    small = ["steps=2", "data.args.count=60", "sample.prompts=4", "sample.group_size=4"]
    more = [
        "sample.max_tokens=48",
        "data.held_out=4",
        "evaluate.before=false",
        "evaluate.samples=1",
    ]
    Trainer(
        Recipe.load("quickstart", *small, *more, "log.report=false", f"run_dir={folder}"),
        quiet=True,
    ).train()
    return folder


def stored_recipe(folder: Path, *runs: Path, rewards: str = "{}") -> Recipe:
    names = json.dumps([str(of) for of in runs])
    plain = {"stage": "reject", "sample": {"prompts": 5}, "log": {"report": False}}
    return Recipe.from_mapping(
        plain, f"reject.samples={names}", f"rewards={rewards}", f"run_dir={folder}"
    )


def test_stored_completions_are_filtered_by_their_own_verdicts_without_a_model(trained, tmp_path):
    RejectionSampler(stored_recipe(tmp_path / "r", trained), quiet=True).train()
    before = rows(trained, "samples.jsonl")
    after = rows(tmp_path / "r", "samples.jsonl")
    assert len(after) == len(before) == 32
    assert sum(row["right"] for row in after) == sum(row["right"] for row in before)
    accepted = rows(tmp_path / "r", "accepted.jsonl")
    assert accepted
    texts = {(row["prompt_id"], row["completion"]): row for row in before}
    for row in accepted:
        line = texts[row["sampled"]["prompt_id"], row["completion"]]
        assert line["right"] and row["sampled"]["trains_as"] == "unknown"
        assert row["prompt"] == line["prompt"] and len(row["numbers"]) == 3
        assert row["sampled"]["run"] == str(trained)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["model"] is None and summary["ledger"]["candidates"] == 32


def test_stored_completions_judged_again_are_those_that_were_judged(trained, tmp_path):
    again = stored_recipe(tmp_path / "again", trained, rewards="{correct: {use: countdown}}")
    RejectionSampler(again, quiet=True).train()
    RejectionSampler(stored_recipe(tmp_path / "kept", trained), quiet=True).train()
    for file in ("accepted.jsonl", "pass_rates.jsonl"):
        assert rows(tmp_path / "again", file) == rows(tmp_path / "kept", file)


def test_completions_of_one_row_in_several_runs_are_candidates_of_one_prompt(
    whole, trained, tmp_path
):
    twin = tmp_path / "twin"
    shutil.copytree(whole, twin)
    RejectionSampler(stored_recipe(tmp_path / "r", whole, twin, trained), quiet=True).train()
    rates = rows(tmp_path / "r", "pass_rates.jsonl")
    assert sum(row["k"] for row in rates) == 2 * 60 + 32
    assert len({row["prompt"] for row in rates}) == len(rates)
    twice = {row["prompt"]: row for row in rates}
    for row in rows(whole, "pass_rates.jsonl"):
        both = twice[row["prompt"]]
        assert both["k"] >= 12 and both["accepted"] >= row["accepted"]
    model = json.loads((whole / "summary.json").read_text())["model"]
    of_run = {
        row["sampled"]["run"]: row["sampled"] for row in rows(tmp_path / "r", "accepted.jsonl")
    }
    assert of_run[str(trained)]["model"] is None
    assert {row["model"] for run, row in of_run.items() if run != str(trained)} == {model}


def test_a_run_whose_data_changed_is_told(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(file.read_text().replace("count: 60", "count: 50"))
    with pytest.raises(RecipeError, match="is not what it was sampled from"):
        RejectionSampler(stored_recipe(tmp_path / "r", tmp_path / "run"), quiet=True)


def test_a_folder_without_completions_is_told(tmp_path):
    with pytest.raises(RecipeError, match="is no run folder"):
        RejectionSampler(stored_recipe(tmp_path / "r", tmp_path / "none"), quiet=True)


# ---- faults, and where it stands -----------------------------------------------------------------------------------


def test_a_judge_that_fails_stops_the_run_and_is_named(tmp_path):
    sampler = RejectionSampler(recipe(tmp_path), rewards={"ill": ill}, quiet=True)
    with pytest.raises(RuntimeError, match=r"gate faults.*rewards\.ill"):
        sampler.train()


def test_the_stage_has_a_trainer_and_a_section_names_it():
    assert trainer_of(Recipe.from_mapping({"reject": {}})) is RejectionSampler is TRAINERS["reject"]
