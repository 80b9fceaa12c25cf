"""pass@k and maj@k against brute force over every subset, ties split by enumeration, and what counts as a vote."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from grpo.run.figures import same_mathematics
from grpo.statistics.curves import pass_at_k, pass_curve
from grpo.statistics.votes import (
    Ballot,
    majority_at_k,
    majority_curve,
    powers_of_two,
    same_answer_classes,
    text_classes,
)

# ---- pass@k ----------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n in range(1, 8):
        for right in range(n + 1):
            outcomes = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(outcomes, k))
                share = Fraction(sum(map(any, subsets)), len(subsets))
                assert pass_at_k(n, right, k) == pytest.approx(float(share), abs=1e-14)


def test_pass_at_k_is_the_product_of_its_publication_also_for_many_samples():
    """1 - prod (1 - k / i), the numerically stable form of arXiv 2107.03374, figure 3."""
    for n, right, k in ((200, 3, 100), (1000, 1, 1), (1000, 999, 2), (64, 20, 32)):
        product = math.prod(1 - k / i for i in range(n - right + 1, n + 1)) if n - right >= k else 0
        assert pass_at_k(n, right, k) == pytest.approx(1 - product, abs=1e-12)


def test_with_one_of_eight_right_pass_at_8_is_1_which_a_bootstrap_misses():
    assert pass_at_k(8, 1, 8) == 1.0
    assert pass_at_k(8, 1, 1) == 0.125


@pytest.mark.parametrize("n, right, k", [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_refused(n, right, k):
    with pytest.raises(ValueError):
        pass_at_k(n, right, k)


def test_the_curve_begins_at_the_accuracy_rises_and_ends_at_the_solved_prompts():
    counts = [(8, 0), (8, 1), (8, 8), (8, 3)]
    curve = pass_curve(counts)
    values = [point.estimate.value for point in curve]
    assert [point.k for point in curve] == list(range(1, 9))
    assert values[0] == pytest.approx(12 / 32) and values[-1] == 0.75
    assert values == sorted(values)
    assert all(point.estimate.low <= point.estimate.value <= point.estimate.high for point in curve)


def test_a_prompt_with_faults_is_left_out_where_it_has_too_few_and_this_is_counted():
    curve = pass_curve([(4, 4), (2, 0)])
    assert [(point.k, point.prompts, point.estimate.value) for point in curve] == [
        (1, 2, 0.5),
        (2, 2, 0.5),
        (3, 1, 1.0),
        (4, 1, 1.0),
    ]
    assert pass_curve([]) == []


# ---- maj@k -----------------------------------------------------------------------------------------------------


def majority_by_force(ballots: list[Ballot], k: int) -> float:
    """The mean over all subsets; in each, the mean over the most frequent answers of a member's chance to be right."""
    classes = [ballot.choice for ballot in ballots if ballot.choice is not None]
    right_share = {
        choice: Fraction(
            sum(ballot.right for ballot in ballots if ballot.choice == choice),
            classes.count(choice),
        )
        for choice in set(classes)
    }
    total = Fraction(0)
    subsets = list(itertools.combinations(ballots, k))
    for subset in subsets:
        votes = Counter(ballot.choice for ballot in subset if ballot.choice is not None)
        if votes:
            winners = [choice for choice, number in votes.items() if number == max(votes.values())]
            total += sum(right_share[choice] for choice in winners) / len(winners)
    return float(total / len(subsets))


def test_majority_at_k_is_the_mean_over_all_subsets_with_ties_split(seed):
    generator = random.Random(seed)
    for _ in range(60):
        n = generator.randint(1, 9)
        answers = [generator.choice(["1", "2", "3", "4", None]) for _ in range(n)]
        golds = {"1"} if generator.random() < 0.7 else {"1", "2"}
        ballots = text_classes(answers, [answer in golds for answer in answers])
        for k in range(1, n + 1):
            expected = majority_by_force(ballots, k)
            assert majority_at_k(ballots, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "answers, expected",
    [
        (["7", "7", "8"], 1.0),
        (["7", "8"], 0.5),  # a tie of two
        (["7", "8", "9"], 1 / 3),
        (["8", "8", "7"], 0.0),
        (["7", None, None, None], 1.0),  # silence is no vote
        ([None, None], 0.0),
        (["7", "7", "8", "8", "9"], 0.5),
    ],
)
def test_the_tie_rule(answers, expected):
    ballots = text_classes(answers, [answer == "7" for answer in answers])
    assert majority_at_k(ballots, len(answers)) == pytest.approx(expected)


def test_equal_text_with_different_verdicts_counts_by_its_share_of_right_ones():
    ballots = text_classes(["a", "a", "a", "b"], [True, True, False, True])
    assert majority_at_k(ballots, 4) == pytest.approx(2 / 3)


def test_votes_are_for_equal_mathematics_and_not_for_equal_spelling():
    answers = ["1/2", "0.5", "\\frac{1}{2}", "3", "3", "4/8"]
    rights = [False, False, False, True, True, False]
    by_text = text_classes(answers, rights)
    by_mathematics = same_answer_classes(answers, rights, same_mathematics)
    assert majority_at_k(by_text, 6) == 1.0  # 3 has two votes, each spelling of a half one
    assert majority_at_k(by_mathematics, 6) == 0.0  # a half has four


def test_right_answers_are_one_vote_and_the_order_of_wrong_ones_does_not_matter():
    answers = ["x+1", "1+x", "a", "c", "b"]
    rights = [True, True, False, False, False]

    def chained(first: str, second: str) -> bool:
        return {first, second} in ({"a", "b"}, {"b", "c"})

    for order in itertools.permutations(range(5)):
        ballots = same_answer_classes(
            [answers[i] for i in order], [rights[i] for i in order], chained
        )
        sizes = Counter(ballot.choice for ballot in ballots)
        assert sorted(sizes.values()) == [2, 3]
        assert majority_at_k(ballots, 5) == 0.0


def test_one_vote_is_the_accuracy_and_many_samples_take_no_time():
    answers = [str(i % 40) for i in range(64)]
    ballots = text_classes(answers, [answer == "0" for answer in answers])
    curve = majority_curve([ballots] * 3)
    assert [point.k for point in curve] == [1, 2, 4, 8, 16, 32, 64]
    assert curve[0].estimate.value == pytest.approx(2 / 64)
    assert curve[-1].estimate.value == pytest.approx(1 / 24)  # 24 answers with two votes each
    assert powers_of_two(0) == [] and powers_of_two(1) == [1]


@pytest.mark.parametrize("k", [0, 3])
def test_more_votes_than_samples_are_refused(k):
    with pytest.raises(ValueError):
        majority_at_k(text_classes(["1", "2"], [True, False]), k)
