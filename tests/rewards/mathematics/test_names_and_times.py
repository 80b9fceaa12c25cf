"""Named points and sets, determinants in bars, times of day, options ruled out, clauses that compare."""

import pytest

from rewards.math_answer import math_answer, pairs

MODES = (False, True)


@pytest.mark.parametrize(
    "gold, equal, other",
    [
        ("P(2,-1)", "(2,-1)", "(-1,2)"),
        ("(2,-1)", "P(2,-1)", "P(-1,2)"),
        ("A(0,3)", "A(0,3)", "B(0,3)"),
        ("A(1,2), B(3,4)", "(1,2),(3,4)", "(3,4),(1,2)"),
        (r"Q(1,2,3)", "(1,2,3)", r"\{1,2,3\}"),
        ("C(5,2)", "10", "(5,2)"),
        (r"A \cap B=\{1,2\}", r"\{2,1\}", r"A \cup B=\{1,2\}"),
        (r"A \cap(\complement_U B)=\{2\}", r"\{2\}", r"\{3\}"),
        (r"A \cup B=\mathbf{R}", r"\mathbb{R}", r"\emptyset"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\left|\begin{array}{ll}a&b\\c&d\end{array}\right|", "ad-bc", "bc-ad"),
        ("5 pm", "17:00", "5 am"),
        ("9 a.m.", "9:00 AM", "9 p.m."),
        (r"350 \mathrm{~pm}", "0.35 nm", "350 nm"),
        ("D", "D, not A", "A, not D"),
        ("A", "not D but A", "not A but D"),
    ],
)
def test_names_bars_and_halves_of_the_day_are_read_and_told_apart(gold, equal, other):
    assert [pairs(gold, equal, lenient=lenient).value for lenient in MODES] == [1.0, 1.0]
    assert [pairs(gold, other, lenient=lenient).value for lenient in MODES] == [0.0, 0.0]


@pytest.mark.parametrize(
    "text, value, other",
    [
        ("They meet at 7:45 AM.", "7:45 AM", "7:45 PM"),
        ("They meet at **7:45 p.m.**", "19:45", "7:45 a.m."),
        ("They meet at $7:45$ PM.", "7:45 PM", "7:45 AM"),
        ("It left at 9 AM and arrived at 4 PM.", "4 PM", "9 AM"),
        ("The shop closes at 3 pm.", "3", "3 am"),
        ("The radius is 350 pm.", "350", "350 nm"),
        ("So it costs $694, which is less than $700.", "694", "700"),
        ("They need 45 minutes, which is under 60 minutes.", "45", "60"),
        ("There are 12, more than the 8 before.", "12", "8"),
        ("It costs $600, which is less than $700, and the change is $100.", "100", "600"),
        ("We get x = 5, which is less than 6, so x = 7.", "7", "5"),
        ("The answer is B and D, but not C.", "BD", "BCD"),
    ],
)
def test_a_time_keeps_its_half_and_a_comparison_states_nothing(text, value, other):
    assert [math_answer(text, value, lenient=lenient).value for lenient in MODES] == [1.0, 1.0]
    assert [math_answer(text, other, lenient=lenient).value for lenient in MODES] == [0.0, 0.0]


@pytest.mark.parametrize(
    "text, right",
    [
        ("Options A and C are wrong, and option B is correct.", "B"),
        ("Option B is correct; options A, C and D are incorrect.", "B"),
        ("Options A and B are right, while option C is wrong.", "AB"),
        ("Option A is wrong, option B too.", None),
        ("Options A and C are wrong.", None),
    ],
)
def test_options_that_are_called_wrong_are_not_chosen_in_evaluation(text, right):
    scores = {
        gold: math_answer(text, gold, lenient=True).value for gold in ("A", "B", "C", "AB", "AC")
    }
    assert {gold for gold, score in scores.items() if score} == ({right} if right else set())
