"""What a dry run and the help say: every key, the objective, the size of a step, the files."""

import re

import pytest

from grpo.objective.aggregation import AGGREGATIONS
from grpo.preflight.dry_run import dry_run, files, keys_help, objective, step_size
from grpo.recipe import Recipe, describe_keys, parse_yaml, to_yaml
from grpo.recipe.presets import PRESETS


def words(lines) -> str:
    return "\n".join(lines)


def test_the_help_lists_every_key_with_its_default_and_its_docstring():
    lines = keys_help().splitlines()
    for name, default, help in describe_keys():
        shown = (
            "null"
            if default is None
            else str(default).lower()
            if isinstance(default, bool)
            else default
        )
        assert lines[lines.index(f"  {name} = {shown}") + 1].strip() == help


def test_a_default_shown_in_the_help_can_be_typed_as_it_stands():
    for name, default, _ in describe_keys():
        if "<name>" not in name and default is not None:
            line = next(
                line for line in keys_help().splitlines() if line.startswith(f"  {name} = ")
            )
            assert parse_yaml(line.partition(" = ")[2], name) == default


def test_a_dry_run_begins_with_a_recipe_that_can_be_run():
    recipe = Recipe.from_mapping(
        {"loss": {"preset": "dapo"}, "rewards": {"a": {"use": "x", "when": {"b": "1e5"}}}}
    )
    text = words(dry_run(recipe))
    resolved = text.partition("\n\nloss = ")[0]
    assert resolved == to_yaml(recipe.to_mapping()).rstrip()
    assert Recipe.from_mapping(parse_yaml(resolved, "")) == recipe


@pytest.mark.parametrize("preset", PRESETS)
def test_the_objective_names_its_source_its_papers_scale_and_our_choices(preset):
    text = words(objective(Recipe.from_mapping({"loss": {"preset": preset}})))
    assert (
        PRESETS[preset].source in text
        and f"the paper's scale, not applied: {PRESETS[preset].paper_scale}" in text
    )
    assert all(f"our choice: {choice}" in text for choice in PRESETS[preset].choices)
    assert "changed by this recipe" not in text


def test_what_a_recipe_changes_of_its_preset_is_said():
    recipe = Recipe.from_mapping(
        {"loss": {"preset": "dapo", "beta": 0.04}, "advantage": {"mask_truncated": False}}
    )
    assert "changed by this recipe: advantage.mask_truncated = False, loss.beta = 0.04" in words(
        objective(recipe)
    )


def test_the_formula_shows_the_numbers_that_will_be_used():
    text = words(
        objective(
            Recipe.from_mapping({"loss": {"preset": "dapo", "beta": 0.04, "epsilon_high": 0.5}})
        )
    )
    assert (
        "clip(r, 0.8, 1.5)" in text
        and "sum_it l_it / sum_i L_i" in text
        and "0.04 (exp(x) - x - 1)" in text
    )
    assert "truncated completions leave all sums" in text
    text = words(
        objective(
            Recipe.from_mapping({"loss": {"preset": "dr_grpo"}, "sample": {"max_tokens": 777}})
        )
    )
    assert (
        "(B x 777)" in text and "A_i = R_i - mean_g" in text and "std" not in text.splitlines()[2]
    )
    text = words(objective(Recipe.from_mapping({"loss": {"preset": "dr_grpo", "constant": 55}})))
    assert "(B x 55)" in text


def test_every_aggregation_has_a_formula_of_its_own():
    formulas = {
        next(objective(Recipe.from_mapping({"loss": {"aggregation": name}}))).splitlines()[0]
        for name in AGGREGATIONS
    }
    assert len(formulas) == len(AGGREGATIONS)


def test_the_counts_of_a_step_and_of_the_run_are_products():
    recipe = Recipe.from_mapping(
        {
            "steps": 7,
            "sample": {"prompts": 6, "group_size": 5, "max_tokens": 99},
            "optim": {"updates": 3, "epochs": 2},
        }
    )
    assert list(step_size(recipe)) == [
        "a step: 6 prompts x 5 = 30 completions of at most 99 tokens, 6 updates",
        "the run: 7 steps, 210 completions, 42 updates",
    ]
    one = Recipe.from_mapping({"steps": 1})
    assert words(step_size(one)).endswith("1 update\nthe run: 1 step, 256 completions, 1 update")


def test_the_files_and_when_they_are_written_are_named(tmp_path):
    text = words(
        files(
            Recipe.from_mapping(
                {"run_dir": str(tmp_path / "r"), "checkpoint": {"every": 3, "keep": 4}}
            )
        )
    )
    assert (
        str(tmp_path / "r") in text
        and "a checkpoint every 3 steps and at the end, the last 4 kept" in text
    )
    for file in (
        "recipe.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "checkpoints/",
        "final/",
        "summary.json",
    ):
        assert file in text
    assert re.search(
        "a checkpoint when stopped and at the end",
        words(files(Recipe.from_mapping({"checkpoint": {"every": 0}}))),
    )


def test_what_refilling_and_over_sampling_may_cost_is_said():
    assert "up to 1024 completions sampled a step" in words(
        step_size(Recipe.from_mapping({"loss": {"preset": "dapo"}}))
    )
    recipe = Recipe.from_mapping({"advantage": {"flat": "drop"}, "sample": {"oversample": 0.5}})
    assert "up to 384 completions sampled a step" in words(step_size(recipe))
