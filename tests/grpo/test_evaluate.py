"""Accuracy and its interval against closed forms; the same draws before and after; faults counted, never scored."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_prompts, tiny_policy

from grpo.evaluate import evaluate
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.run.accuracy import Evaluation, bootstrap, mean, part_means, summarise
from grpo.run.evaluation_sets import EvaluationSet
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


# ---- the interval ----------------------------------------------------------------------------------------------


def binomial_quantile(number: int, p: float, level: float) -> float:
    """The smallest share of successes whose cumulative probability reaches `level`, from the definition."""
    total = 0.0
    for k in range(number + 1):
        total += math.comb(number, k) * p**k * (1 - p) ** (number - k)
        if total >= level:
            return k / number
    return 1.0


@pytest.mark.parametrize("number, right", [(10, 5), (50, 10), (256, 70), (256, 250)])
def test_the_interval_of_right_and_wrong_is_the_binomials(number, right):
    accuracy, low, high = bootstrap([[1.0]] * right + [[0.0]] * (number - right))
    assert accuracy == pytest.approx(right / number, abs=1e-12)
    assert low == pytest.approx(binomial_quantile(number, accuracy, 0.025), abs=1.01 / number)
    assert high == pytest.approx(binomial_quantile(number, accuracy, 0.975), abs=1.01 / number)


def test_the_interval_of_many_prompts_is_the_normal_approximations(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2, (600, 4), generator=generator).double()
    accuracy, low, high = bootstrap(values.tolist())
    means = values.mean(1).tolist()
    error = 1.959964 * statistics.pstdev(means) / math.sqrt(600)
    assert accuracy == pytest.approx(statistics.fmean(means))
    assert low == pytest.approx(accuracy - error, abs=0.06 * error)
    assert high == pytest.approx(accuracy + error, abs=0.06 * error)


def test_prompts_are_drawn_again_and_not_their_samples():
    """Four samples of a prompt that agree are no more evidence than one."""
    values = [[float(i % 2)] for i in range(40)]
    assert bootstrap([row * 4 for row in values]) == bootstrap(values)


def test_the_exact_ends_of_two_prompts():
    assert bootstrap([[0.0], [1.0]]) == (0.5, 0.0, 1.0)


def test_one_prompt_has_no_spread_and_none_has_no_accuracy():
    assert bootstrap([[1.0, 0.0, 0.0, 0.0]]) == (0.25, 0.25, 0.25)
    assert all(math.isnan(value) for value in bootstrap([]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=1, max_size=30)
)
def test_the_interval_holds_the_accuracy_and_is_the_same_each_time(values):
    accuracy, low, high = bootstrap(values)
    assert 0 <= low <= accuracy + 1e-12 and accuracy - 1e-12 <= high <= 1
    assert bootstrap(values) == (accuracy, low, high)


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
    assert math.isnan(found.accuracy) and (found.samples, found.faults) == (0, 2)


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


def test_the_mean_of_nothing_is_no_number():
    assert math.isnan(mean([])) and mean(iter([True, False])) == 0.5


# ---- with a policy ---------------------------------------------------------------------------------------------


def shortness(text: str, num_tokens: int) -> float:
    return float(num_tokens < 8)


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
