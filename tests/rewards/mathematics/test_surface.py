"""How answers are set down: quotes, full-width signs, end marks, exclamations, names and lists in prose."""

import pytest

from rewards.math_answer import math_answer, pairs
from rewards.mathematics.extraction import extract


def verdicts(text: str, gold: object) -> list[float | None]:
    return [math_answer(text, gold, lenient=lenient).value for lenient in (False, True)]


def compared(gold: str, pred: str) -> list[float | None]:
    return [pairs(gold, pred, lenient=lenient).value for lenient in (False, True)]


SAME = [
    ("50", "`50`"), ("50", '"50"'), ("50", "'50'"), ("50", "\uff15\uff10"), ("50", "\u206050"), ("50", "\\underline{50}"),
    ("B", "\u3010B\u3011"), ("B", "\uff22"), ("B", '"B"'), ("ACD", "A\uff0cC\uff0cD"), ("Monday", '"Monday"'),
    ("2:3", "2\\colon 3"), ("60^{\\circ}", "60 \u00ba"), ("25\\%", "25 per cent"), ("\u00a312.50", "\\pounds 12.50"),
    ("\u00a312.50", "\\textsterling 12.50"), ("\\$1250", "\\text{\\$}1250"), ("\\$1250", "US$1250"), ("\u20b9500", "\\mathrm{Rs}. 500"),
    ("120 \\text{ yuan}", "120 \u5143"), ("120 \\text{ yuan}", "\u00a5120"), ("12 \\mathrm{~cm}^2", "12\u5e73\u65b9\u5398\u7c73"),
    ("4.7 \\mathrm{~k}\\Omega", "4.7 kohm"), ("4.7 \\mathrm{~k}\\Omega", "4.7 kilohms"), ("74 \\text{ inches}", "6'2''"),
    ("3 \\text{ in}", '3"'), ("5 \\text{ m}", "5 (m)"), ("2 \\text{ years}", "2 years old"),
    ("(-\\infty,-1)\\cup(2,\\infty)", "R \\ [-1, 2]"), ("\\begin{cases}x=2\\\\y=-1\\end{cases}", "x = 2,\ny = -1"),
    ("120", "5! = 120"), ("120", "5!=120"), ("k\\pi", "k*pi, where k is an integer"), ("(-1,2)", "y=2, x=-1"), ("4:15 PM", "4{:}15 \\text{ p.m.}"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", SAME)
def test_an_answer_set_down_in_another_way_is_the_same(gold, pred):
    assert compared(gold, pred) == [1.0, 1.0]


def test_a_sentence_as_gold_is_read_without_its_qualifier():
    assert compared("k*pi, where k is an integer", "k\\pi, k \\in \\mathbb{Z}") == [1.0, 1.0]


DIFFERENT = [
    ("x>-2, x<3", "x>-2 or x<3"), ("(-2,3)", "x>-2 or x<3"), ("[-2,3)", "x>=-2 or x<3"), ("-2<x<3", "x<3 or x>-2"),
    ("x>5 \\text{ or } x<1", "x>5 and x<1"), ("a=2, b=-3", "a=2 or b=-3"), ("(2,-1)", "y=2, x=-1"),
    ("\\begin{cases}x+y=5\\\\x-y=1\\end{cases}", "x+y=5 or x-y=1"), ("2020-05-01", "2014"), ("2014", "2020-05-01"),
    ("\\frac{4}{15}", "4:15"), ("4", "4:15"), ("15", "4 : 15"), ("120 \\text{ yuan}", "120 \\text{ yen}"), ("5 \\text{ m}", "5 (s)"),
    ("x+y=34", "34"), ("34", "2x+y=34"), ("5", "5!=120"), ("\\pounds 12", "\\$12"), ("74 \\text{ inches}", "6'3''"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", DIFFERENT)
def test_what_looks_alike_and_says_something_else_differs(gold, pred):
    assert compared(gold, pred) == [0.0, 0.0]


@pytest.mark.parametrize("either", ["x=1 or x=2", "x=3 or 3x-4y+15=0", "x<1 or x>5"])
def test_values_of_one_name_lines_and_rays_may_be_listed_with_commas(either):
    assert compared(either, either.replace(" or", ",")) == [1.0, 1.0]


def test_a_ratio_as_gold_may_be_given_as_a_quotient():
    assert (
        compared("4:15", "\\frac{4}{15}")
        == compared("2:3", "4/6")
        == compared("2/3", "2:3")
        == [1.0, 1.0]
    )


# marks around completions


@pytest.mark.parametrize(
    "text",
    [
        "Final answer: 34 \u2713",
        "So $n = 34$. $\\blacksquare$",
        "It is 34. QED",
        "She has 12+22=<<12+22=34>>34 apples.",
        "Area = **34 cm\u00b2**",
        "\\boxed{34\\ }",
        "-> 34",
        "The answer is 34, because 30 + 4 = 34.",
        "The area is $34$ $\\text{cm}^2$.",
        "There are $\\binom{4}{2}+28=34$ ways.",
        "Therefore, $m+n=34$.",
        "**Answer:** 34<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
)
def test_what_surrounds_an_answer_is_left_out(text):
    assert verdicts(text, "34") == [1.0, 1.0]
    assert verdicts(text, "43") == [0.0, 0.0]


@pytest.mark.parametrize(
    "text",
    ["So we get 34!", "So the total is 34!!!", "So n = 34!", "Hence 34! Great.", "I get $34!"],
)
def test_a_closing_exclamation_mark_in_prose_is_no_factorial_in_evaluation(text):
    assert math_answer(text, "34", lenient=True).value == 1.0
    assert math_answer(text, "34!").value in (0.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5! = 120.",
        "The answer is $5! = 120$.",
        "There are 5! ways.",
        "That is 5! ways.",
        "The number of orders is 5!",
        "\\boxed{5!}",
        "So $5!$.",
    ],
)
def test_a_factorial_stays_one(text):
    assert verdicts(text, "120") == [1.0, 1.0]
    assert verdicts(text, "5") == [0.0, 0.0]


@pytest.mark.parametrize(
    "text, gold, value",
    [
        ("So x > -2 or x < 3.", "(-2,3)", 0),
        ("So $x > -2$ or $x < 3$.", "(-2,3)", 0),
        ("\\boxed{x > -2} or \\boxed{x < 3}", "(-2,3)", 0),
        ("So x < -2 or x > 3.", "x<-2 \\text{ or } x>3", 1),
        ("So x = 2 and y = 3.", "(2,3)", 1),
        ("So x = 2, z = 3.", "x=2, y=3", 0),
        ("So we get x=2 or y=3.", "x=2, y=3", 0),
        ("The solution is $x=2$, $y=-1$.", "(2,-1)", 1),
        ("The solution is $y=2$, $x=-1$.", "(2,-1)", 0),
        ("n = 2, 3, 5", "2, 3, 5", 1),
        ("n = 2, 3, 5", "5", 0),
        ("n \u2208 {2, 3, 5}", "2, 3, 5", 1),
        ("The point is (2, 3, 5).", "(2,3,5)", 1),
        ("x^2 + y^2 = 9", "9", 0),
        ("x^2 + y^2 = 9", "x^2+y^2=9", 1),
        ("So 2x = 34.", "34", 0),
        ("The ratio is 4 : 15.", "15", 0),
        ("The ratio is 4 : 15.", "4:15", 1),
        ("It equals - 5.", "5", 0),
        ("It equals - 5.", "-5", 1),
        ("The length is sqrt(5), approximately 2.236.", "\\sqrt{5}", 1),
        ("It is \u00bd.", "0.5", 1),
        ("He walks 5 km!", "5 m", 0),
        ("So we get 45/2 kg/m^3.", "45/2 \\text{ mL}", 0),
        ("The area is 12 cm^2.", "12 \\text{ cm}", 0),
        ("The area is 12 cm^2.", "12 \\text{ cm}^2", 1),
        ("Unless n = 34, it fails.", "34", 0),
        ("I am not sure whether it is 34.", "34", 0),
        ("No value, not even 34, works.", "34", 0),
        ("I got 34, which is wrong.", "34", 0),
        ("Lemma 34.", "34", 0),
    ],
)
def test_what_prose_states(text, gold, value):
    assert verdicts(text, gold) == [value, value]


def test_a_truth_value_as_gold_is_true_or_yes():
    for gold, right, wrong in ((True, "True", "no"), (True, "yes", "False"), (False, "No", "True")):
        assert verdicts(f"\\boxed{{{right}}}", gold) == [1.0, 1.0]
        assert verdicts(f"\\boxed{{{wrong}}}", gold) == [0.0, 0.0]


def test_thoughts_in_a_gold_are_no_part_of_it():
    gold = "<|begin_of_thought|>7?<|end_of_thought|>\n<|begin_of_solution|>\\boxed{5}<|end_of_solution|>"
    assert verdicts("\\boxed{5}", gold) == [1.0, 1.0] and verdicts("\\boxed{7}", gold) == [0.0, 0.0]


@pytest.mark.parametrize("gold", ["**None**", "`null`"])
def test_a_gold_that_is_no_answer_is_one_in_markdown_too(gold):
    assert math_answer("\\boxed{5}", gold).status == "fault"


def test_a_list_of_lines_is_only_one_where_each_is_an_equation():
    assert extract("x = 2\nis it").text != "x = 2, is it"
