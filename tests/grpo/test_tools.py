"""Runs with tools, from the recipe to what is written: refused before work, resumed as if never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import CHATML
from quick_runs import ROOT, lines
from tool_runs import (
    calling_model,
    chat_changes,
    chat_model,
    hermes_call,
    recipe,
    recipe_file,
    recipe_values,
)

from grpo import Recipe, Trainer
from grpo.cli import main
from grpo.recipe import EnvironmentSection, RecipeError
from grpo.recipe.plan import Plan
from grpo.run.fingerprint import compare, files_of_tools
from grpo.run.inputs import load_inputs
from grpo.stages.pipeline import Pipeline
from rewards.environments import EnvironmentSpec


def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: What is doubled
    """
    return 2 * number


# ---- what is refused, and what the policy is shown -------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"tools": [], "environment": {}}, "environment is set, but nobody answers: name tools"),
        ({"tools": ["calculater"]}, "no tool is called 'calculater'.*calculator"),
        (
            {"environment": {"format": "hermes"}},
            "tools are shown to the policy by the chat template",
        ),
        (
            {"rewards": {"calls": {"use": "environment"}}},
            "rewards.calls: .* tools alone give nothing",
        ),
        ({"environment": {"format": "auto"}}, "auto reads the chat template, and there is none"),
    ],
)
def test_tools_that_cannot_work_are_refused_before_a_model_loads(tmp_path, changed, message):
    with pytest.raises(RecipeError, match=message):
        load_inputs(recipe(tmp_path, **changed))


class Shop:
    """As TRL's environment_factory takes it."""

    def reset(self, **row) -> None:
        self.sold = 0

    def sell(self, number: int) -> str:
        """Sells something.

        Args:
            number: How many
        """
        self.sold += number
        return f"sold {self.sold}"

    def get_reward(self) -> float:
        return float(self.sold)


def test_one_function_alone_or_a_class_may_be_passed_from_python(tmp_path):
    chat_model(tmp_path / "model")
    made = recipe(tmp_path, **chat_changes(), tools=[])
    for tools in (double, [double], "calculator"):
        assert load_inputs(made, tools=tools).environment.names in (["double"], ["calculator"])
    with pytest.raises(
        RecipeError, match=r"a mapping is no list of functions; pass tools=\[f, g\]"
    ):
        load_inputs(made, tools={"double": double})
    won = {**chat_changes(), "tools": [], "rewards": {"won": {"use": "environment"}}}
    rewarded = recipe(tmp_path, **won)
    with pytest.raises(RecipeError, match="rewards.won: .* tools alone give nothing"):
        load_inputs(rewarded, tools=[double])
    inputs = load_inputs(rewarded, environment=Shop)
    assert inputs.environment.names == ["sell"] and inputs.environment.begins
    assert "How many" in inputs.prompts.train[0].text


def test_functions_from_python_are_refused_beside_servers_before_anything_is_read(tmp_path):
    servers = {"engine": "vllm", "servers": ["http://127.0.0.1:9"]}
    made = recipe(tmp_path, tools=[], sample=servers)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="tools are offered, .* set sample.engine: embedded"):
        Trainer(made, tools=[double], quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_pause_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "grpo.run.setup.check_support", lambda policy: policy.fall_back_because("it says so")
    )
    file = str(recipe_file(tmp_path))
    for arguments in (["train", file], ["sample", str(tmp_path / "model"), "--recipe", file]):
        assert main(arguments) == 2


def test_a_tokenizer_that_cannot_write_a_call_is_refused(tmp_path):
    base = ROOT / "recipes" / "quickstart_base"
    with pytest.raises(RecipeError, match="a call is written '<calc>1</calc>'.*never call"):
        load_inputs(Recipe.from_mapping(recipe_values(tmp_path, base)))


def test_a_chat_template_that_takes_no_tools_is_refused(tmp_path):
    calling_model(tmp_path / "model", hermes_call, CHATML)
    changed = {"data": {"template": "chat"}, "environment": {"format": "hermes"}}
    with pytest.raises(RecipeError, match="tool-missing: .* leaves the tool calculator out"):
        load_inputs(recipe(tmp_path, **changed))


def test_a_function_given_in_python_is_shown_by_the_chat_template_with_its_hints(tmp_path):
    chat_model(tmp_path / "model")
    inputs = load_inputs(recipe(tmp_path, **chat_changes(), tools=[]), tools=[double])
    shown = inputs.prompts.train[0].text
    assert '"name": "double"' in shown and "What is doubled" in shown and '"integer"' in shown
    assert inputs.environment.names == ["double"] and inputs.environment.format.name == "hermes"


def test_a_recipe_may_name_its_environment_alone_and_files_are_taken_from_its_folder(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("environment: mine.py:Game\ntools: [tools.py:search, calculator]\n")
    made = Recipe.load(file)
    assert made.environment.use == f"{tmp_path}/mine.py:Game"
    assert made.tools == [f"{tmp_path}/tools.py:search", "calculator"]
    assert Recipe.from_mapping({"environment": "python"}).environment.use == "python"


def test_stages_that_do_not_answer_leave_shared_tools_out_and_rejection_refuses_them():
    shared = {
        "model": {"name": "m"},
        "data": {"source": "countdown"},
        "rewards": {"correct": {"use": "countdown"}},
        "tools": ["calculator"],
        "environment": {"format": "<calc>"},
    }
    stages = [{"name": "start", "sft": {"steps": 2}}, {"name": "learn", "grpo": {"steps": 2}}]
    plan = Plan.from_mapping({**shared, "stages": [*stages, {"name": "out", "export": {}}]})
    offered = [["calculator"], ["calculator"], []]  # the first in its evaluations alone
    assert [stage.recipe.tools for stage in plan.stages] == offered
    assert plan.stages[1].recipe.environment.format == "<calc>"
    unscored = {name: part for name, part in shared.items() if name != "rewards"}
    plan = Plan.from_mapping({**unscored, "stages": [{"name": "start", "sft": {"steps": 2}}]})
    assert plan.stages[0].recipe.tools == []
    of_one = {name: part for name, part in shared.items() if name != "tools"}
    learn = {"name": "learn", "grpo": {"steps": 2, "tools": ["calculator"]}}
    plan = Plan.from_mapping({**of_one, "stages": [stages[0], learn]})
    assert [stage.recipe.tools for stage in plan.stages] == [[], ["calculator"]]
    assert plan.stages[0].recipe.environment == EnvironmentSection()
    with pytest.raises(RecipeError, match="tools is set, but stage reject does not read it"):
        Plan.from_mapping({**shared, "stages": [{"name": "some", "reject": {}}]})


# ---- whole runs -------------------------------------------------------------------------------------------------


def journals(folder: Path) -> dict[str, list[dict]]:
    """What two equal runs write, without times."""
    names = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl")
    return {name: lines(folder, name) for name in names}


@pytest.mark.slow
def test_a_run_learns_from_its_calls_and_says_what_was_called(tmp_path, capsys):
    trainer = Trainer(recipe(tmp_path), quiet=True)
    summary = trainer.train()
    folder = tmp_path / "run"
    records = [row for row in lines(folder) if "reward/mean" in row]
    samples = lines(folder, "samples.jsonl")
    for record in records:
        rows = [row for row in samples if row["step"] == record["step"]]
        turns = [row.get("turns", []) for row in rows]
        calls = [sum(len(turn["calls"]) for turn in its) for its in turns]
        assert record["tool/calls"] == pytest.approx(sum(calls) / len(calls)) and sum(calls)
        assert record["tool/share"] == pytest.approx(sum(map(bool, calls)) / len(calls))
        assert record["completion/tokens"] == sum(row["num_tokens"] for row in rows)
        assert record["tool/errors"] == 0 and record["tool/observation_tokens"] > 0
        assert record["policy/drift"] < 1e-5 and record["update/made"] == 1
        assert (
            record["ledger/sampled"]
            == len(rows)
            == sum(
                record[f"ledger/{name}"]
                for name in ("cancelled", "faulted", "truncated_masked", "flat", "trained")
            )
            + record["ledger/correction_masked"]
        )
    told = {turn["status"] for row in samples for turn in row.get("turns", [])}
    assert told == {"ok", "refused"}
    first = summary["examples"]["after"][0]
    assert any(row.items() >= first.items() for row in lines(folder, "evaluations.jsonl"))
    assert any(example.get("turns") for example in summary["examples"]["after"])
    assert summary["steps"] == 2 and summary["after"]["details"]["tool/share"] > 0
    assert "calculator" in (folder / "console.log").read_text()

    assert main(["evaluate", str(folder), "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompts"] == 4 and report["tools"]["share"] > 0
    out = tmp_path / "out.jsonl"
    assert main(["sample", str(folder), "--rows", "2", "--n", "3", "--tokens", f"--out={out}"]) == 0
    sampled = [json.loads(line) for line in out.read_text().splitlines()]
    for row in sampled:
        given = sum(end - start for start, end in row.get("given", []))
        assert len(row["sampled_logps"]) == row["num_tokens"] == len(row["token_ids"]) - given
    assert any(row.get("turns") for row in sampled)


@pytest.mark.slow
@pytest.mark.parametrize("over_request", [0.0, 0.7])
def test_a_run_that_was_stopped_and_resumed_is_the_one_that_never_was(tmp_path, over_request):
    whole = tmp_path / "whole"
    parted = tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    options = {"sample": {"over_request": over_request}, "steps": 3}
    Trainer(recipe(whole, **options), quiet=True).train()
    first = Trainer(recipe(parted, **options), quiet=True)
    next(iter(first))
    first.close()
    Trainer(recipe(parted, **options), quiet=True, resume=True).train()
    assert journals(whole / "run") == journals(parted / "run")


@pytest.mark.slow
def test_a_tools_file_that_changed_is_said_at_a_resume_and_the_run_goes_on(tmp_path, capsys):
    file = tmp_path / "mine.py"
    body = 'def calc(expression: str) -> str:\n    """Works it out."""\n    return "4"\n'
    file.write_text(body)
    tools = {"tools": [f"{file}:calc"], "evaluate": {"every": 0, "before": False}}
    Trainer(recipe(tmp_path, **tools, steps=1)).train()
    Trainer(recipe(tmp_path, **tools, steps=2), resume=True).train()
    assert "the checkpoint was made" not in capsys.readouterr().out
    file.write_text(body.replace("4", "5"))
    Trainer(recipe(tmp_path, **tools, steps=3), resume=True).train()
    said = capsys.readouterr().out
    assert (
        "with tools whose files have changed since (calc); the run continues, but not bit" in said
    )


def test_checkpoints_that_say_nothing_of_tools_files_are_no_others():
    made = {"tools": {"calc": "a digest"}}
    assert compare({}, made) == compare(made, {}) == compare(made, made) == []
    spec = EnvironmentSpec(tools=["calculator", double])
    found = files_of_tools(spec)["tools"]
    assert list(found) == ["double"] and files_of_tools(EnvironmentSpec(tools=["python"])) == {}


@pytest.mark.slow
def test_stages_that_sample_are_answered_and_the_models_card_names_the_tools(tmp_path):
    calling_model(tmp_path / "model")
    values = recipe_values(tmp_path, tmp_path / "model")
    del values["steps"]
    learn = {"name": "learn", "grpo": {"steps": 1}}
    stages = [learn, {"name": "table", "evaluate": {}}]
    stages.append({"name": "out", "export": {"to": "safetensors"}})
    run = tmp_path / "run"
    Pipeline({**values, "run_dir": str(run), "stages": stages}, quiet=True).train()
    rows = lines(run / "stages" / "learn", "samples.jsonl")
    assert any(turn["calls"] for row in rows for turn in row.get("turns", []))
    table = json.loads((run / "table.json").read_text())
    assert table and "learn" in json.dumps(table)
    (card,) = (run / "stages" / "out").rglob("README.md")
    assert (
        "`calculator` to answer it between its turns (calls written as <calc>" in card.read_text()
    )


@pytest.mark.slow
def test_preflight_calls_each_tool_and_shows_a_conversation(tmp_path, capsys):
    chat_model(tmp_path / "model")
    file = recipe_file(tmp_path, **chat_changes())
    assert main(["train", str(file), "--preflight"]) == 0
    said = capsys.readouterr().out
    assert "tools    calculator, called by" in said and "ok, '1'" in said
    assert "  > </tool_response><|im_end|>" in said and "turns-not-checked" in said
    assert recipe_values(tmp_path, tmp_path / "model")["tools"] == ["calculator"]
