"""The math reward from completion to score."""

import random

import pytest

from rewards.math_answer import extracted_answer, math_answer, pairs


def test_an_ordinary_solution_scores_one_against_a_worked_gold(seed):
    rng = random.Random(seed)
    for _ in range(200):
        number = rng.randint(-50_000, 50_000)
        gold = f"First 2+2=<<2+2=4>>4.\nThen {number}.\n#### {number:,}"
        for ending in (
            f"#### {number}",
            f"The answer is {number}.",
            f"so \\boxed{{{number}}}.",
            f"she has {number} left.",
        ):
            assert math_answer(f"We add 3 and 5.\n{ending}", gold).value == 1.0, (number, ending)
            assert math_answer(f"We add 3 and 5.\n{ending}", f"#### {number + 1}").value == 0.0


def test_a_completion_without_an_answer_scores_zero_and_says_so():
    for text in ("", "   ", "I do not know.", "<think> \\boxed{4}", "\\boxed{}"):
        score = math_answer(text, "4")
        assert (score.value, score.status) == (0.0, "no_answer"), text


@pytest.mark.parametrize(
    "gold",
    [
        None,
        "",
        "   ",
        [1, 2],
        "\\boxed{}",
        float("nan"),
        "nan",
        "None",
        "null",
        "N/A",
        [],
        [None],
        "[null]",
    ],
)
def test_a_gold_without_an_answer_is_a_fault_and_never_a_zero(gold):
    score = math_answer("\\boxed{4}", gold)
    assert score.value is None and score.status == "fault"


def test_detail_says_what_was_extracted_and_how():
    score = math_answer("Hence \\boxed{\\frac{1}{2}}.", "1/2")
    assert (score.value, score.extracted) == (1.0, "\\frac{1}{2}")
    assert "extracted='\\\\frac{1}{2}' how=boxed" in score.detail


def test_gold_may_be_a_number():
    assert math_answer("\\boxed{12}", 12).value == 1.0
    assert math_answer("\\boxed{0.5}", 0.5).value == 1.0


def test_pairs_reads_delimiters_and_boxes_on_both_sides():
    for gold in ("\\frac{3}{4}", "$\\frac{3}{4}$", "\\boxed{\\frac34}", "\\(0.75\\)"):
        assert pairs(gold, "3/4").value == 1.0, gold
        assert pairs("3/4", gold).value == 1.0, gold
        assert pairs("4/3", gold).value == 0.0, gold


def test_the_extracted_answer_is_available_alone():
    assert extracted_answer("It is \\boxed{7}") == "7"
    assert extracted_answer("nothing here") is None
