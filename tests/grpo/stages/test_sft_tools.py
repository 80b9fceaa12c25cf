"""Supervised training learns rows as they stand; its evaluations offer tools and run calls as training does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quick_runs import lines
from tool_runs import calling_model, chat_model, recipe_values

from grpo import Recipe, RecipeError, SftTrainer
from grpo.evaluate import evaluate_recipe
from grpo.stages.sft_inputs import load_sft_inputs


def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: What is doubled
    """
    return 2 * number


def rows(number: int = 12) -> list[dict]:
    return [{"prompt": f"what is {i}?", "completion": f"it is {i}"} for i in range(number)]


def values(folder: Path, model: Path, **changed) -> dict:
    """A recipe of two steps whose evaluations count calls."""
    file = folder / "traces.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    made = recipe_values(folder, model, **changed)
    del made["gates"]
    made["data"]["source"] = str(file)
    sample = {"max_tokens": 24}
    return {**made, "stage": "sft", "sft": {"batch": 4}, "sample": sample}


def test_evaluations_run_calls_and_the_examples_are_those_without_tools(tmp_path, capsys):
    model = calling_model(tmp_path / "model")
    recipe = Recipe.from_mapping(values(tmp_path, model))
    trainer = SftTrainer(recipe)
    without = {**values(tmp_path, model), "tools": [], "environment": {}}
    bare = load_sft_inputs(Recipe.from_mapping(without))
    for one, other in zip(trainer.inputs.examples.train, bare.examples.train, strict=True):
        assert (one.prompt.token_ids, one.learnt) == (other.prompt.token_ids, other.learnt)
    summary = trainer.train()
    assert "answers   tools calculator, calls written as <calc>" in capsys.readouterr().out
    evaluated = lines(tmp_path / "run", "evaluations.jsonl")
    turns = [turn for row in evaluated for turn in row.get("turns", [])]
    assert any(turn["status"] == "ok" and turn["observed"] for turn in turns)
    share = sum(bool(row.get("turns")) for row in evaluated) / len(evaluated)
    told = [summary[when]["details"]["tool/share"] for when in ("before", "after")]
    assert sum(told) / 2 == pytest.approx(share)


@pytest.mark.slow
def test_its_last_evaluation_is_that_of_the_command(tmp_path):
    model = calling_model(tmp_path / "model")
    recipe = Recipe.from_mapping(values(tmp_path, model, evaluate={"before": False}))
    summary = SftTrainer(recipe, quiet=True).train()
    final = {**recipe.to_mapping()["model"], "name": str(tmp_path / "run" / "final")}
    again = {**values(tmp_path, model), "model": final, "stage": "grpo"}
    del again["sft"]
    report = evaluate_recipe(Recipe.from_mapping(again))
    assert report["tools"]["share"] == pytest.approx(summary["after"]["details"]["tool/share"])


def test_tools_that_no_reward_could_score_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="tools is set, but stage sft .* name rewards"):
        Recipe.from_mapping(values(tmp_path, tmp_path / "model") | {"rewards": {}})


def test_functions_are_passed_from_python_and_said_to_be_idle_where_nothing_is_sampled(tmp_path):
    model = calling_model(tmp_path / "model")
    made = values(tmp_path, model, tools=[], data={"held_out": 0})
    said: list[str] = []
    inputs = load_sft_inputs(Recipe.from_mapping(made), tools=[double], report=said.append)
    assert inputs.environment is None and "nothing is sampled here" in said[-1]
    made = values(tmp_path, model, tools=[])
    inputs = load_sft_inputs(Recipe.from_mapping(made), tools=[double])
    assert inputs.environment is not None and inputs.environment.names == ["double"]


@pytest.mark.parametrize("name, is_refused", [("double", False), ("triple", True)])
def test_rows_whose_tools_are_not_offered_are_refused(tmp_path, name, is_refused):
    model = chat_model(tmp_path / "model")
    schema = {"type": "function", "function": {"name": name, "description": "", "parameters": {}}}
    said = {"role": "assistant", "content": "4"}
    asked = [{"role": "user", "content": f"{number}?"} for number in range(12)]
    rows = [{"messages": [one, said], "tools": [schema], "answer": "4"} for one in asked]
    made = values(tmp_path, model, tools=[], environment={"format": "auto"})
    made["data"] = {"held_out": 4}
    recipe = Recipe.from_mapping(made)
    if is_refused:
        with pytest.raises(RecipeError, match=r"held-out rows have tools \(triple\)"):
            load_sft_inputs(recipe, data=rows, tools=[double])
        return
    inputs = load_sft_inputs(recipe, data=rows, tools=[double])
    assert '"name": "double"' in inputs.sets[0].prompts[0].text
