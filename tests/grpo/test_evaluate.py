"""Accuracy and its interval against closed forms; the same draws before and after; faults counted, never scored."""

import math

import pytest
import torch
from light_rewards import shortness
from tiny import random_prompts, tiny_policy

from grpo.evaluate import evaluate
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.run.accuracy import Evaluation, mean, part_means, reward_bounds, summarise
from grpo.run.evaluation_sets import EvaluationSet
from grpo.run.figures import figures, same_answer
from grpo.scoring import Scorer
from grpo.types import Completion, Prompt, ScoredGroup
from rewards import RewardSpec, Score

RIGHT, WRONG, FAULT = Score(1.0), Score(0.0), Score(None, status="fault")
UNASKED = Score(None, status="not_applicable")


def scored(*verdicts: Score, finish: str = "stop", name: str = "mine") -> ScoredGroup:
    completions = tuple(
        Completion("x", (1,) * (i + 1), torch.zeros(i + 1), finish) for i in range(len(verdicts))
    )
    return ScoredGroup(
        Prompt("p", (1,), {}), completions, verdicts, tuple({name: verdict} for verdict in verdicts)
    )


def result(*groups: ScoredGroup) -> Evaluation:
    return summarise(groups, "mine", 0, 0.0)


# ---- what is counted -------------------------------------------------------------------------------------------


def test_only_the_full_score_is_accurate():
    assert result(scored(Score(0.99), Score(1.0), Score(1.5), Score(-1.0))).accuracy == 0.5


def test_accuracy_is_the_mean_over_prompts_of_each_ones_mean():
    found = result(scored(RIGHT, FAULT, FAULT, FAULT), scored(RIGHT, WRONG, WRONG, WRONG))
    assert found.accuracy == pytest.approx((1 + 0.25) / 2)


def test_faults_are_counted_and_leave_the_accuracy():
    found = result(scored(RIGHT, FAULT), scored(FAULT, FAULT), scored(WRONG, WRONG))
    assert (found.accuracy, found.samples, found.faults, found.prompts) == (0.5, 3, 3, 3)


def test_a_timeout_and_no_answer_are_wrong_and_counted():
    found = result(
        scored(Score(0.0, status="timeout"), Score(0.0, status="no_answer"), RIGHT, RIGHT)
    )
    assert (found.accuracy, found.samples, found.faults) == (0.5, 4, 0)


def test_nothing_scored_is_no_accuracy_and_no_crash():
    found = result(scored(FAULT, UNASKED))
    assert math.isnan(found.accuracy) and (found.samples, found.faults) == (0, 1)


def test_another_reward_than_the_accurate_one_changes_nothing():
    groups = [scored(RIGHT, WRONG), scored(RIGHT, RIGHT, name="other")]
    found = result(*groups)
    assert (found.accuracy, found.samples) == (0.5, 2)


def test_length_and_truncation_are_of_all_completions():
    found = result(
        scored(RIGHT, FAULT, finish="length"),
        scored(RIGHT, RIGHT, RIGHT, WRONG, finish="context"),
        scored(RIGHT, RIGHT),
    )
    assert (
        found.length == pytest.approx((1 + 2 + 1 + 2 + 3 + 4 + 1 + 2) / 8)
        and found.truncated == 0.75
    )


def test_parts_and_the_numbers_they_report_are_averaged_where_they_were_judged():
    groups = [
        scored(
            Score(1.0, parts={"tries": 3}),
            Score(0.0, parts={"tries": 1, "odd": 5.0}),
            Score(None, parts={"tries": 99}, status="fault"),
            Score(0.5, parts={"tries": None}),
        )
    ]
    assert part_means(groups) == {"mine": 0.5, "mine/tries": 2.0, "mine/odd": 5.0}


def test_the_plain_values_hold_everything_but_the_completions():
    values = result(scored(RIGHT)).to_mapping()
    assert (
        "groups" not in values and values["accuracy"] == 1.0 and values["details"] == {"mine": 1.0}
    )
    assert {"accuracy", "low", "high", "samples"} <= set(values)


def test_accuracy_and_reward_come_with_intervals_and_no_answer_with_its_share():
    silent = Score(0.0, status="no_answer")
    found = result(scored(RIGHT, silent), scored(WRONG, FAULT), scored(silent, silent))
    assert found.low < found.accuracy < found.high and found.low >= 0
    assert found.no_answer == pytest.approx(3 / 5)
    assert found.reward == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.reward_low <= found.reward <= found.reward_high


def test_a_reward_that_is_never_1_still_has_a_mean_with_an_interval():
    found = result(*[scored(Score(0.1 * (i % 5)), Score(0.3)) for i in range(20)])
    assert found.accuracy == 0 and found.high > 0.05
    assert (
        found.reward == pytest.approx(0.25)
        and 0.2 < found.reward_low < 0.25 < found.reward_high < 0.3
    )


def test_the_bounds_of_a_reward_are_known_where_its_parts_are_built_in():
    correct, form = RewardSpec("a", "math_answer"), RewardSpec("b", "think_format", weight=0.1)
    assert reward_bounds([correct, form]) == (0.0, 1.1)
    assert reward_bounds([correct, RewardSpec("c", "think_format", weight=-0.5)]) == (-0.5, 1.0)
    assert reward_bounds([correct, RewardSpec("c", shortness, weight=0.0)]) == (0.0, 1.0)
    assert reward_bounds([correct, RewardSpec("c", shortness)]) is None
    groups = [scored(Score(0.1)) for _ in range(16)]
    assert summarise(groups, "mine", 0, 0.0, bounds=(0, 1.1)).reward_high > 0.2


# ---- the figures of a set --------------------------------------------------------------------------------------


def answered(*answers: str | None, gold: str) -> ScoredGroup:
    verdicts = [
        Score(0.0, status="no_answer")
        if answer is None
        else Score(float(answer == gold), extracted=answer)
        for answer in answers
    ]
    return scored(*verdicts)


def test_the_figures_of_a_set():
    groups = [
        answered("1", "1", "2", None, gold="1"),
        answered("3", "5", "5", "5", gold="3"),
        answered("4", "4", "4", "4", gold="4"),
    ]
    found = figures(groups, "mine")
    assert found["accuracy"] == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert found["low"] < found["accuracy"] < found["high"]
    assert found["these_prompts"]["low"] > found["low"]
    assert (found["samples"], found["faults"], found["fault"]) == (12, 0, 0)
    assert found["no_answer"] == pytest.approx(1 / 12)
    assert {k: point["value"] for k, point in found["pass_at"].items()} == pytest.approx(
        {"1": 1.75 / 3, "2": (1 - 1 / 6 + 1 / 2 + 1) / 3, "3": (1 + 3 / 4 + 1) / 3, "4": 1.0}
    )
    assert found["maj_at"]["4"]["value"] == pytest.approx(2 / 3)  # right, wrong, right
    assert list(found["maj_at"]) == ["1", "2", "4"]


def test_faults_are_counted_and_completions_that_a_reward_does_not_apply_to_are_none():
    found = figures([scored(RIGHT, FAULT), scored(FAULT, UNASKED), scored(WRONG, WRONG)], "mine")
    assert (found["samples"], found["faults"]) == (3, 2)
    assert found["fault"] == pytest.approx(2 / 6)
    assert found["accuracy"] == 0.5 and found["pass_at"]["2"]["prompts"] == 1


def test_a_reward_that_extracts_nothing_has_no_majority():
    assert figures([scored(RIGHT, WRONG)], "mine")["maj_at"] is None
    nothing = figures([scored(FAULT)], "mine")
    assert math.isnan(nothing["accuracy"]) and nothing["pass_at"] == {}


def test_answers_of_math_answer_vote_by_mathematics_and_others_by_text():
    assert same_answer([RewardSpec("mine", "math_answer")], "mine")("1/2", "0.5")
    assert same_answer([RewardSpec("mine", "countdown")], "mine") is None
    assert same_answer([RewardSpec("other", "math_answer")], "mine") is None


def test_the_mean_of_nothing_is_no_number():
    assert math.isnan(mean([])) and mean(iter([True, False])) == 0.5


# ---- with a policy ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    with Scorer([RewardSpec("mine", shortness)]) as made:
        yield made


def run(engine: Engine, judge: Scorer, prompts, **changes) -> Evaluation:
    settings = {"seed": 5, "interrupted": lambda: False, "sampling": Sampling(1.0, 0, 1.0, 0.0)}
    settings |= changes
    of = EvaluationSet(
        "mine",
        prompts,
        accurate="mine",
        threshold=1.0,
        samples=3,
        max_tokens=12,
        sampling=settings.pop("sampling"),
    )
    return evaluate(engine, judge, of, **settings)


def written(evaluation: Evaluation) -> list[list[tuple[int, ...]]]:
    return [
        [completion.token_ids for completion in group.completions] for group in evaluation.groups
    ]


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_policy(peak=1.5))


@pytest.mark.slow
def test_two_evaluations_of_the_same_weights_are_the_same(engine, judge):
    prompts = random_prompts(0, [3, 5, 2, 7])
    first, second = run(engine, judge, prompts), run(engine, judge, prompts)
    assert written(first) == written(second) and first.accuracy == second.accuracy
    assert [group.prompt.id for group in first.groups] == ["p0", "p1", "p2", "p3"]
    assert first.tokens == sum(len(ids) for group in written(first) for ids in group)


def test_another_seed_draws_other_completions(engine, judge):
    prompts = random_prompts(0, [3, 5, 2, 7])
    assert written(run(engine, judge, prompts)) != written(run(engine, judge, prompts, seed=6))


def test_training_draws_between_two_evaluations_change_nothing(engine, judge):
    prompts = random_prompts(0, [3, 5])
    first = run(engine, judge, prompts)
    list(
        engine.sample(
            prompts,
            group_size=4,
            max_tokens=12,
            sampling=Sampling(1.0, 0, 1.0, 0.0),
            seed=("train", 5, 1),
        )
    )
    torch.rand(10)
    assert written(run(engine, judge, prompts)) == written(first)


def test_temperature_0_writes_the_same_in_every_sample(engine, judge):
    found = written(
        run(engine, judge, random_prompts(0, [3, 5]), sampling=Sampling(0.0, 0, 1.0, 0.0))
    )
    assert all(len(set(group)) == 1 for group in found)


def test_accuracy_is_what_the_judge_said_of_what_was_written(engine, judge):
    found = run(engine, judge, random_prompts(0, [3, 5, 2, 7]))
    share = [mean(len(ids) < 8 for ids in group) for group in written(found)]
    assert 0 < found.accuracy < 1 and found.accuracy == pytest.approx(mean(share))


def test_an_interrupted_evaluation_gives_none_and_not_half_an_accuracy(engine, judge):
    asked = iter([False] * 3)
    assert (
        run(engine, judge, random_prompts(0, [3, 5]), interrupted=lambda: next(asked, True)) is None
    )
