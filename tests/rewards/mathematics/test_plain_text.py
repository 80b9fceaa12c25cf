"""Mathematics in plain text against LaTeX, several letters, systems of equations, statements in prose."""

import random
from itertools import combinations

import pytest
from plain_spellings import CLASSES
from unequal_answers import KINDS, same_expression

from rewards.math_answer import math_answer, pairs


def verdicts(gold: str, pred: str) -> list[float | None]:
    """The strict and the lenient score of a boxed prediction."""
    return [
        math_answer(f"So \\boxed{{{pred}}}.", gold, lenient=lenient).value
        for lenient in (False, True)
    ]


@pytest.mark.parametrize("spellings", CLASSES, ids=lambda spellings: spellings[0])
def test_every_spelling_of_an_answer_equals_the_others_in_both_directions(spellings):
    hub = next((spelling for spelling in spellings if "\\" in spelling), spellings[0])
    for spelling in spellings:
        assert verdicts(hub, spelling) == [1.0, 1.0], spelling
        if spelling not in NO_GOLDS:
            assert verdicts(spelling, hub) == [1.0, 1.0], spelling


NO_GOLDS = {"{}", '["A", "B", "D"]', "['A','B','D']"}  # nothing, and lists: `several` decides


def test_spellings_of_different_answers_are_never_equal(seed):
    rng = random.Random(seed)
    for left, right in rng.sample(list(combinations(CLASSES, 2)), 400):
        gold, pred = rng.choice(left), rng.choice(right)
        assert 1.0 not in verdicts(gold, pred), (gold, pred)


DIFFERENT = [
    ("2(3-x)", "2x(3-x)"), ("6x", "2x(3)+1"), ("2^3^2", "64"), ("x", "x1"), ("x_1", "x_2"), ("2x", "x2"), ("x^2", "x2"), ("2", "+-2"), ("1+-2", "3"), ("3e8", "3*e*8"),
    ("\\frac{1}{2x}", "1/2x"), ("\\sqrt{2x}", "sqrt(2)x"), ("\\ln 6", "log2(3)"), ("\\log_{10} 3", "log(3)"),
    ("\\infty", "-oo"), ("e^2", "exp(3)"), ("16", "16pi"), ("\\pi", "p"), ("\\theta", "t"), ("3+4i", "3-4j"), ("i", "I"),
    ("4i", "4j"), ("10", "5 choose 3!"), ("x>3", "x=>3"), ("(0,1)\\cup(2,3)", "(0,1) U [2,3)"), ("32349", "32, 349"),
    ("32, 349", "32349"), ("1,234,567", "1,234, 567"), ("\\mathbb{R}", "C"), ("(0,1)", "{0,1}"), ("\\mathbb{R}\\setminus\\{0\\}", "R"),
    ("\\sin(\\sin x)", "sin(cos(x))"), ("\\cos(\\sqrt{6}+\\sin 7)", "cos((sqrt(6))/(sin(7)))"), ("x + y is even for all x", "x - y is even for all x"),
    ("\\begin{cases}x=1\\\\y=2\\end{cases}", "x=2, y=1"), ("\\left\\{\\begin{array}{l}x>1\\\\x<3\\end{array}\\right.", "x>1"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "[[1,3],[2,4]]"), ("[1, 2; 3, 4]", "[1, 2, 3, 4]"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", DIFFERENT)
def test_plain_text_that_means_something_else_is_not_accepted(gold, pred):
    assert verdicts(gold, pred) == [0.0, 0.0]


LETTERS_DIFFER = [
    ("BD", "B"), ("BD", "D"), ("B", "BD"), ("BD", "BDE"), ("B", "(B), (D)"), ("B", "(B) and (D)"), ("B", "B, D"),
    ("BD", "B or D"), ("B, D", "either B or D"), ("BD", "neither B nor D"), ("ABCD", "ABC"), ("A", "(A) (B) (C) (D)"),
    ("CAB", "A, B, C"), ("ABCD", "BCAD"), ("AB", "A"), ("\\triangle ABC", "\\triangle ABD"), ("BD", "bd"), ("B and D", "B and E"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", LETTERS_DIFFER)
def test_a_part_of_the_letters_or_more_than_them_is_wrong(gold, pred):
    assert verdicts(gold, pred) == [0.0, 0.0]


@pytest.mark.parametrize(
    "gold, pred",
    [
        ("AB", "AB"),
        ("AB", "A \\cdot B"),
        ("AB = 7", "7"),
        ("AB \\parallel CD", "AB \\parallel CD"),
        ("\\triangle ABC", "triangle ABC"),
        ("CAB", "C, A, B"),
        ("(C) 12", "C"),
        ("\\text{MONDAY}", "Monday"),
    ],
)
def test_segments_products_rankings_and_words_stay_whole(gold, pred):
    assert verdicts(gold, pred) == [1.0, 1.0]


SPLIT_BOXES = [
    ("1, 2", "$x=\\boxed{1}$ or $x=\\boxed{2}$", 1), ("\\{1, 2\\}", "$$x=\\boxed{1}\\quad\\text{or}\\quad x=\\boxed{2}$$", 1),
    ("1, 2", "\\[x_1=\\boxed{1},\\quad x_2=\\boxed{2}\\]", 1), ("x=1, y=2", "$x=\\boxed{1}$, $y=\\boxed{2}$", 1),
    ("(1,2)", "$x=\\boxed{1}$ and $y=\\boxed{2}$", 1), ("x=2, y=1", "$x=\\boxed{1}$ and $y=\\boxed{2}$", 0),
    ("2", "$x=\\boxed{1}$ or $x=\\boxed{2}$", 0), ("1", "$x=\\boxed{1}$ or $x=\\boxed{2}$", 0), ("BD", "\\boxed{B} and \\boxed{D}", 1),
    ("B", "\\boxed{B} and \\boxed{D}", 0), ("1, 2, 3", "$x=\\boxed{1}$, $x=\\boxed{2}$ or $x=\\boxed{3}$", 1),
    ("4", "first \\boxed{3}, so finally we get \\boxed{4}", 1), ("4", "\\boxed{3}, no wait, \\boxed{4}", 1), ("4", "\\boxed{4}\\boxed{}", 0),
    ("5", "\\boxed{2+3=5}", 1), ("5", "\\boxed{2+4=5}", 0), ("5", "\\boxed{x+2=5}", 0),
]  # fmt: skip


@pytest.mark.parametrize("gold, text, value", SPLIT_BOXES)
def test_boxes_that_or_and_commas_link_are_one_answer(gold, text, value):
    assert math_answer(text, gold).value == math_answer(text, gold, lenient=True).value == value


STATED = [  # in evaluation right; whether in training is another question
    ("34", "The largest n is 34."), ("34", "There are 50 cases. The largest n is $34$."), ("100\\%", "increases by 100%"),
    ("increases by 100%", "100%"), ("B", "option B is correct"), ("B", "So the correct answer is option (B)."), ("B", "B is correct."),
    ("BD", "Options B and D are correct."), ("\\frac{1}{2}", "Hence the answer must be \\frac{1}{2}."), ("12", "there are 12 such pairs"),
    ("12", "Hence there are 12 such pairs with a + b < 20."), ("12", "There are 12 pairs when n = 5."),
    ("\\frac12", "Therefore x = \\frac{1}{2}."), ("16\\pi", "The area is 16π square units."), ("3, 5", "The solutions are 3 and 5."),
    ("3, 5", "The solutions are $x=3$ and $x=5$."), ("3, 5", "The solutions are x = 3 and x = 5."), ("2^{10}", "So there are 2^10 subsets."),
    ("3, 5, 7", "The possible values are 3, 5, 7."), ("\\sqrt{2}", "So the length is sqrt(2)."), ("(3, 4)", "So the point is (3, 4)."),
    ("[2, 5)", "The solution set is [2, 5)."), ("x^2+1", "Therefore f(x) = x^2 + 1."), ("35", "It is not 34 but 35."),
    ("10", "He did not eat 5 apples, so he has 10."), ("\\infty", "The limit is infinity."), ("34", "\\boxed{The largest n is 34.}"),
    ("34", "\\boxed{\\text{The largest } n \\text{ is } 34}"), ("34", "<answer>The largest n is 34.</answer>"), ("B", "\\boxed{\\text{Option B}}"),
    ("12", "\\boxed{\\text{there are } 12 \\text{ such pairs}}"), ("decreases by 20%", "It decreases by 20%."),
    ("120", "So there are 5! ways."), ("34", "The answer is therefore 34."), ("3+4i", "Therefore z = 3+4i."),
]  # fmt: skip


@pytest.mark.parametrize("gold, text", STATED)
def test_evaluation_reads_what_a_final_sentence_states(gold, text):
    assert math_answer(text, gold, lenient=True).value == 1.0
    if "answer" not in text and "boxed" not in text:
        assert pairs(gold, text, lenient=True).value == 1.0


NOT_STATED = [
    ("34", "The largest n is not 34."), ("34", "Is the largest n 34?"), ("34", "What if the answer is 34?"), ("34", "It isn't 34."),
    ("34", "The answer is not 34."), ("35", "The largest n is 34 or 35."), ("34", "The largest n is less than 34."),
    ("34", "There are 34 cases. The largest n is 50."), ("increases by 100%", "decreases by 100%"), ("100%", "It decreases by 100%."),
    ("B", "Option B is incorrect."), ("B", "Option B is not correct."), ("B", "Is option B correct?"), ("B", "Option A or B is correct."),
    ("BD", "Option B is correct."), ("B", "Options B and D are correct."), ("2", "Therefore x = \\frac{1}{2}."), ("2", "So x = sqrt(2)."),
    ("16", "The area is 16pi."), ("5", "The solutions are 3 and 5."), ("5", "The solutions are $3$ and $5$."), ("10", "So there are 2^10 subsets."),
    ("4", "So the point is (3, 4)."), ("1", "Therefore f(x) = x^2 + 1."), ("3", "Therefore z = 4+3i."), ("4", "The probability is 3/4."),
    ("5", "So there are 5! ways."), ("\\infty", "The limit is not infinity."), ("34", "\\boxed{\\text{The largest } n \\text{ is not } 34}"),
    ("5", "Therefore x must be greater than 5."), ("34", "34 is not the answer."), ("34", "34 is incorrect."), ("34", "34 does not work."),
    ("34", "It is false that n = 34."), ("34", "If n were 34, we would get a contradiction."), ("34", "n cannot be 34."),
    ("12", "There are at most 12 such pairs."), ("20%", "20% less"), ("decreases by 20%", "It increases by 20%."), ("34", "<answer>The largest n is not 34.</answer>"),
]  # fmt: skip


@pytest.mark.parametrize("gold, text", NOT_STATED)
def test_neither_mode_takes_a_number_that_a_sentence_denies_asks_or_only_contains(gold, text):
    assert math_answer(text, gold).value == math_answer(text, gold, lenient=True).value == 0.0
    assert pairs(gold, text, lenient=True).value == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_random_answer_that_differs_is_accepted(kind, count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        gold, pred = KINDS[kind](rng)
        assert 1.0 not in verdicts(gold, pred), (gold, pred)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_random_expression_in_plain_text_equals_itself_in_latex(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        gold, pred = same_expression(rng)
        assert verdicts(gold, pred) == [1.0, 1.0], (gold, pred)


@pytest.mark.parametrize(
    "gold, pred", [("e", "E"), ("e/2", "E/2"), ("e^2", "E^2"), ("2.718281828459045", "E")]
)
def test_a_capital_E_is_a_letter_and_not_eulers_number(gold, pred):
    assert verdicts(gold, pred) == [0.0, 0.0]
