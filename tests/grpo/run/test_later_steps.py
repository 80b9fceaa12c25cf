"""What changes at a step of a run: the cap of the length, and rewards that count from a later step on."""

from __future__ import annotations

from pathlib import Path

import pytest
from quick_runs import assert_same_run, lines, recipe, records, run

from grpo import Recipe, RecipeError, Trainer
from grpo.recipe import parse_yaml, to_yaml
from rewards import RewardSpec, Sample
from rewards.service.service import RewardService

SCHEDULED = [
    "sample.max_tokens={0: 4, 3: 9}",
    "sample.prompts=3",
    "data.held_out=3",
    "rewards.later={use: countdown_format, weight: 0.5, from_step: 3}",
    "evaluate.reward=correct",
    "checkpoint.every=1",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("scheduled") / "whole"
    run(folder, *SCHEDULED)
    return folder


def test_completions_are_cut_at_the_cap_of_their_step_and_evaluations_at_the_largest(
    whole: Path,
) -> None:
    assert [record["completion/longest"] for record in records(whole)] == [4, 4, 9, 9]
    evaluated = lines(whole, "evaluations.jsonl")
    assert {row["num_tokens"] for row in evaluated} == {9}


def test_a_reward_counts_from_its_step_on_and_leaves_the_sum_before(whole: Path) -> None:
    for record in records(whole):
        later = record.get("rewards/later")
        assert (later is None) == (record["step"] < 3)
        expected = record["rewards/correct"] + 0.5 * (later or 0.0)
        assert record["reward/mean"] == pytest.approx(expected)
    parts = [row["statuses"]["later"] for row in lines(whole, "samples.jsonl") if row["step"] < 3]
    assert set(parts) == {"not_applicable"}


def test_a_run_stopped_before_the_change_goes_on_as_if_it_never_had(
    whole: Path, tmp_path: Path
) -> None:
    trainer = Trainer(recipe(tmp_path / "cut", *SCHEDULED))
    for record in trainer:
        if record["step"] == 2:
            break
    trainer.close()
    run(tmp_path / "cut", *SCHEDULED, resume=True)
    assert_same_run(whole, tmp_path / "cut")


def test_the_schedule_is_kept_beside_its_largest_cap() -> None:
    settings = Recipe.load("quickstart", "sample.max_tokens={0: 512, 8200: 1024, 100: 600}")
    sample = settings.sample
    assert sample.max_tokens == 1024
    steps = (1, 99, 100, 8199, 8200, 10400)
    assert [sample.max_tokens_at(step) for step in steps] == [512, 512, 600, 600, 1024, 1024]
    assert (
        sample.describe_max_tokens() == "up to 512 tokens, 600 from step 100, 1024 from step 8200"
    )
    assert Recipe.from_mapping(parse_yaml(to_yaml(settings.to_mapping()), "it")) == settings
    constant = Recipe.load("quickstart", "sample.max_tokens={0: 5, 2: 9}", "sample.max_tokens=7")
    assert constant.sample.max_tokens_at(3) == 7 and not constant.sample.max_tokens_from


def test_without_a_step_every_reward_is_asked() -> None:
    specs = [RewardSpec("format", "think_format", from_step=5)]
    with RewardService(specs, workers=1) as service:
        statuses = []
        for step in (None, 4, 5):
            if step is not None:
                service.set_step(step)
            statuses += [score.status for score in service.score([Sample("no tags", {})])]
    assert [status == "not_applicable" for status in statuses] == [False, True, False]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sample.max_tokens={2: 4}"], "max_tokens is {2: 4}; it must map steps"),
        (["sample.max_tokens={0: 0}"], "it must map steps"),
        (["sample.max_tokens={}"], "it must not be empty"),
        (["sample.max_tokens_from={0: 4}"], "is 80, but the largest cap of its schedule is 4"),
        (["rewards.correct.from_step=9"], "no reward with a weight counts before step 9"),
        (
            ["rewards.correct.from_step=9", "rewards.other.use=think_format"],
            "rewards.correct means accuracy, which is measured from the start",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Trainer(Recipe.load("quickstart", *overrides, f"run_dir={tmp_path / 'run'}"), quiet=True)
