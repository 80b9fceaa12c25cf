"""What a dry run says: the resolved recipe, the objective, the files."""

import itertools
import re
from pathlib import Path

import pytest

from grpo.objective.formula import describe_objective
from grpo.preflight.dry_run import dry_run, files
from grpo.recipe import AGGREGATIONS, PRESETS, Recipe, parse_yaml, to_yaml

BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"


def joined(lines) -> str:
    return "\n".join(lines)


def test_a_dry_run_begins_with_a_recipe_that_can_be_run():
    recipe = Recipe.from_mapping(
        {"loss": {"preset": "dapo"}, "rewards": {"a": {"use": "x", "when": {"b": "1e5"}}}}
    )
    text = joined(itertools.takewhile(lambda line: "written to" not in line, dry_run(recipe)))
    resolved = text.partition("\n\nloss = ")[0]
    assert resolved == to_yaml(recipe.to_mapping()).rstrip()
    assert Recipe.from_mapping(parse_yaml(resolved, "")) == recipe


def test_the_steps_of_a_run_in_epochs_are_said_once_its_rows_are_known():
    recipe = Recipe.from_mapping(
        {
            "model": {"name": str(BASE)},
            "data": {
                "source": "countdown",
                "args": {"style": "symbols", "count": 40},
                "template": "plain",
            },
            "sample": {"prompts": 10, "max_tokens": 80},
            "rewards": {"correct": {"use": "countdown"}},
            "epochs": 2,
        }
    )
    text = joined(dry_run(recipe))
    assert "the run: 2 passes over the training prompts" in text
    assert "the run: 8 steps, 640 completions" in text and "100 steps" not in text


@pytest.mark.parametrize("preset", PRESETS)
def test_the_objective_names_its_source_its_papers_scale_and_our_choices(preset):
    text = joined(describe_objective(Recipe.from_mapping({"loss": {"preset": preset}})))
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
    assert "changed by this recipe: advantage.mask_truncated = False, loss.beta = 0.04" in joined(
        describe_objective(recipe)
    )


def test_the_formula_shows_the_numbers_that_will_be_used():
    text = joined(
        describe_objective(
            Recipe.from_mapping({"loss": {"preset": "dapo", "beta": 0.04, "epsilon_high": 0.5}})
        )
    )
    assert (
        "clip(r, 0.8, 1.5)" in text
        and "sum_it l_it / sum_i L_i" in text
        and "0.04 (exp(x) - x - 1)" in text
    )
    assert "truncated completions leave all sums" in text
    text = joined(
        describe_objective(
            Recipe.from_mapping({"loss": {"preset": "dr_grpo"}, "sample": {"max_tokens": 777}})
        )
    )
    assert (
        "(B x 777)" in text and "A_i = R_i - mean_g" in text and "std" not in text.splitlines()[2]
    )
    text = joined(
        describe_objective(Recipe.from_mapping({"loss": {"preset": "dr_grpo", "constant": 55}}))
    )
    assert "(B x 55)" in text


def test_every_aggregation_has_a_formula_of_its_own():
    formulas = {
        next(describe_objective(Recipe.from_mapping({"loss": {"aggregation": name}}))).splitlines()[
            0
        ]
        for name in AGGREGATIONS
    }
    assert len(formulas) == len(AGGREGATIONS)


def test_the_files_and_when_they_are_written_are_named(tmp_path):
    text = joined(
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
        joined(files(Recipe.from_mapping({"checkpoint": {"every": 0}}))),
    )
