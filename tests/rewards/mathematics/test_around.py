"""What belongs to a number in prose and what denies it; letters, unions and units in further spellings."""

import pytest

from rewards.math_answer import math_answer, pairs
from rewards.mathematics.extraction import extract

NOUNS = [("apples", "oranges"), ("boys", "girls"), ("chickens", "cows"), ("marbles", "coins")]


def verdicts(text: str, gold: str) -> list[float | None]:
    return [math_answer(text, gold, lenient=lenient).value for lenient in (False, True)]


def compared(gold: str, pred: str) -> list[float | None]:
    return [pairs(gold, pred, lenient=lenient).value for lenient in (False, True)]


@pytest.mark.parametrize("noun, other", NOUNS)
@pytest.mark.parametrize("number", ["12", "$12$"])
def test_the_plural_behind_a_number_counts_where_the_gold_has_one(noun, other, number):
    text = f"So there are {number} {noun} in all."
    assert verdicts(text, f"12 {noun}") == verdicts(text, "12") == [1.0, 1.0]
    assert verdicts(text, f"12 \\text{{ {other}}}") == verdicts(text, "13") == [0.0, 0.0]
    assert verdicts("The total is 12.", f"12 {noun}") == [1.0, 1.0]


def test_a_verb_behind_a_number_is_no_noun():
    assert verdicts("So 12 works.", "12 apples") == [1.0, 1.0]


@pytest.mark.parametrize(
    "larger, smaller, small, whole",
    [
        ("h", "min", 30, "3.5 h"),
        ("hours", "minutes", 30, "210 minutes"),
        ("ft", "in", 6, "42 in"),
        ("feet", "inches", 6, "3.5 ft"),
        ("min", "s", 30, "210 s"),
        ("kg", "g", 500, "3500 g"),
        ("dollars", "cents", 50, "\\$3.50"),
    ],
)
@pytest.mark.parametrize(
    "text",
    ["It is 3 {} and {} {}.", "It is 3 {} {} {}.", "It is $3$ {} and ${}$ {}.", "The answer is 3 {} and {} {}."],
)  # fmt: skip
def test_a_quantity_in_two_units_is_never_its_smaller_part(text, larger, smaller, small, whole):
    shown = text.format(larger, small, smaller)
    assert verdicts(shown, whole) == [1.0, 1.0]
    assert verdicts(shown, str(small)) == verdicts(shown, f"{small} {smaller}") == [0.0, 0.0]


@pytest.mark.parametrize(
    "text, gold, value",
    [
        ("It takes 1 hour, 2 minutes and 3 seconds.", "3723 s", 1),
        ("It takes 1 hour, 2 minutes and 3 seconds.", "3", 0),
        ("He drove 3 km in 20 min.", "20", 1),
        ("He needs 1250 hours / 250 days = 5 hours each day.", "5", 1),
        ("She has 12 apples and 5 pears.", "5", 0),
        ("The angle is 45 degrees 30 minutes.", "30", 0),
        ("The angle is 45 degrees and 30 minutes.", "30", 0),
        ("All but 34 fail.", "34", 0),
        ("We get 3m.", "3", 0),
        ("We get 3m.", "3m", 1),
        ("It weighs 3kg.", "3", 1),
    ],
)
def test_the_quantity_that_a_sentence_ends_in(text, gold, value):
    assert verdicts(text, gold) == [value, value]


DENIALS = [
    "34 km is incorrect.", "$34$ km is incorrect.", "$34$ is incorrect.", "34 apples is wrong.", "34% is wrong.", "\\$34 is wrong.",
    "34 is extraneous.", "34 is too large.", "34 is ruled out.", "34 was rejected.", "34 is clearly wrong.", "34 won't work.",
    "34 leads to a contradiction.", "We rule out n = 34.", "We discard 34.", "We reject $x = 34$.", "We exclude the value 34.",
    "x = 3 or x = 34 (rejected).", "So n = 35, not 34.", "It is 35 (not 34).", "It is 35 rather than 34.", "The answer is 35, not 34.",
    "\\boxed{34 \\text{ km is incorrect}}",
]  # fmt: skip


@pytest.mark.parametrize("text", DENIALS)
def test_a_value_that_is_ruled_out_is_no_answer(text):
    assert verdicts(text, "34") == [0.0, 0.0]


STATEMENTS = [
    "He rejected 34 offers.", "34 bulbs are not working.", "34 of the answers were wrong.", "x = 35 is rejected, so x = 34.",
    "We reject x = -2. So x = 34.", "So n = 34, not 35.", "It is 34 (not 35).", "It is 34 rather than 35.", "The answer is 34, not 35.",
    "The answer is 34 (and not 35).", "Not 35 but 34.",
]  # fmt: skip


@pytest.mark.parametrize("text", STATEMENTS)
def test_what_a_denial_leaves_is_the_answer(text):
    assert verdicts(text, "34") == [1.0, 1.0]


EQUAL = [
    ("\\frac n2", "n/2"), ("\\dfrac a3", "a/3"), ("\\left\\lfloor \\frac n2\\right\\rfloor", "floor(n/2)"), ("\\binom n2", "n(n-1)/2"),
    ("\\sqrt x2", "2*sqrt(x)"), ("\\frac n2+1", "(n+2)/2"), ("BD", "\\text{BD}"), ("BD", "\\mathrm{BD}"),
    ("\\left\\{ {\\begin{array}{*{20}{l}}x=1\\\\y=2\\end{array}} \\right.", "x=1, y=2"),
    ("(-\\infty,-1)\\cup(1,\\infty)", "(-\\infty,-1), (1,\\infty)"), ("(-\\infty,-1)\\cup(1,\\infty)", "(-\\infty,-1) \\text{ and } (1,\\infty)"),
    ("5 \\mathrm { ~ c m } ^ { 2 }", "5 \\text{ cm}^2"), ("5 \\mathrm{~k m}", "5000 m"), ("5 \\mathrm { ~ k m } / \\mathrm { h }", "5 km/h"),
    ("5 \\mathrm{~M P a}", "5000 kPa"), ("5 \\mathrm{~N m}", "5 \\mathrm{~N} \\cdot \\mathrm{m}"), ("1 \\mathrm{~T}", "10^4\\text{ G}"),
    ("7 \u20a9", "7 KRW"), ("0.\\dot{3}\\dot{6}", "\\frac{4}{11}"), ("0.1\\dot 6", "1/6"), ("(\\text{C})", "C"),
    ("\\overrightarrow{AB}", "\\vec{AB}"), ("\\frac{\\pi}{6}+2 k \\pi(k \\in \\mathbf{Z})", "\\frac{\\pi}{6}+2k\\pi"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", EQUAL)
def test_further_spellings_are_equal_in_both_directions(gold, pred):
    assert compared(gold, pred) == compared(pred, gold) == [1.0, 1.0]


DIFFERENT = [
    ("x_2", "\\frac x2"), ("BD", "\\text{BC}"), ("(-\\infty,-1)\\cup(1,\\infty)", "(-\\infty,-1], (1,\\infty)"), ("(1,4)", "(1,2),(3,4)"),
    ("[1,2]\\cup[3,4]", "(1,2),(3,4)"), ("(1,2),(3,4)", "(2,1),(3,4)"), ("5 \\mathrm{~N m}", "5 \\mathrm{~nm}"), ("5 \\mathrm{~k m}", "5 \\mathrm{~m}"),
    ("5 G", "5 T"), ("5", "5G"), ("7 \u20a9", "7 \u20b9"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", DIFFERENT)
def test_near_spellings_of_something_else_differ(gold, pred):
    assert compared(gold, pred) == compared(pred, gold) == [0.0, 0.0]


def test_evaluation_reads_the_conclusion_of_a_sentence_alone():
    text = "Options A and C are wrong, so option B is correct."
    assert math_answer(text, "B", lenient=True).value == 1.0
    assert verdicts(text, "AC") == verdicts("If A is wrong, so B is correct.", "B") == [0.0, 0.0]
    assert math_answer("Since A is wrong, option C is correct.", "C", lenient=True).value == 1.0
    assert compared("no solution", "The equation has no solution.")[1] == 1.0
    assert compared("no solution", "It is not true that the equation has no solution.")[1] == 0.0


# what follows a stated value


@pytest.mark.parametrize(
    "text, value, other",
    [
        ("The minimum is 47 (achieved at x = 3).", "47", "3"),
        ("The minimum of f is $47$, attained at $x=3$.", "47", "3"),
        ("The minimum is $47$ when $a = b = 2$.", "47", "2"),
        ("The maximum is 47, which occurs at x = 3.", "47", "3"),
        ("So n = 8 by equation (2).", "8", "2"),
        ("There are 47, by Lemma 3.", "47", "3"),
        ("There are 7 red balls out of 12.", "7", "12"),
        ("He has 47 of the 50 coins.", "47", "50"),
        ("She pays $64 for 16 glasses.", "64", "16"),
        ("It takes 160 minutes (2 hours and 40 minutes).", "160", "40"),
        ("Together they have 260 sheep, 4 times as many.", "260", "4"),
        ("It will take him 3 weeks to finish all 21.", "3", "21"),
        ("The product is 42 (6 * 7).", "42", "7"),
        ("The profit is 70 thousand dollars.", "70000", "70"),
        ("He has 2 dozen eggs.", "24", "2"),
    ],
)
def test_what_follows_a_stated_value_is_not_the_answer(text, value, other):
    for lenient in (False, True):
        assert math_answer(text, value, lenient=lenient).value == 1.0
        assert math_answer(text, other, lenient=lenient).value == 0.0


@pytest.mark.parametrize(
    "text, value",
    [
        ("Out of 12 balls, 7 are red.", "7"),
        ("He ate 1/5 of the 60 slices, which is 12.", "12"),
        ("Equality holds when $x = 3$.", "3"),
        ("Case 1 gives 2 and case 2 gives 4, so 6 in total.", "6"),
        ("The sum of 6 and 7 is 13.", "13"),
    ],
)
def test_a_value_at_the_end_of_a_sentence_stays_the_answer(text, value):
    for lenient in (False, True):
        assert math_answer(text, value, lenient=lenient).value == 1.0


def test_a_step_that_is_cut_off_states_no_number():
    assert extract("We go on.\n\nStep 4").how == "none"


@pytest.mark.parametrize(
    "text, value, other",
    [
        ("The total is 9, which is 3 squared.", "9", "3"),
        ("So the answer is 9, which is 3 squared", "9", "3"),
        ("She earned 30 dollars, which is 6 times 5.", "30", "5"),
        ("There are 12 eggs, which is 4 more than last week.", "12", "4"),
        ("He saved $20, which is exactly 25% of his income.", "20", "25"),
        ("The number of ways is 24, that is 4!.", "24", "4"),
        ("We get 16, which equals 2 to the power of 4.", "16", "4"),
    ],
)
def test_what_a_value_is_made_of_is_not_the_answer(text, value, other):
    assert verdicts(text, value) == [1.0, 1.0]
    assert verdicts(text, other) == [0.0, 0.0]


def test_a_value_said_once_more_in_another_unit_is_one():
    text = "The trip takes 120 minutes, which is 2 hours."
    assert verdicts(text, "2") == verdicts(text, "2 hours") == [1.0, 1.0]


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "text, right, wrong",
    [
        ("The answer is -$3$.", "-3", "3"),
        ("It equals - $\\sqrt{2}$.", "-\\sqrt{2}", "\\sqrt{2}"),
        ("It is - \\(3\\).", "-3", "3"),
        ("It is -$3+1$.", "-4", "-2"),
        ("**Answer:** -$3$", "-3", "3"),
        ("The answer is -\\boxed{3}.", "-3", "3"),
        ("$x=-\\boxed{\\frac{3}{2}}$", "-3/2", "3/2"),
        ("So $5 - \\boxed{3}$", "3", "-3"),
        ("The answer is:\n- \\boxed{3}", "3", "-3"),
        ("The answer is:\n- $3$", "3", "-3"),
        ("It equals - {45 \\over 2} ✓", "-45/2", "45/2"),
        ("It equals - (45/2).", "-45/2", "45/2"),
        ("So the value is 8/3 kg/m^3!", "8/3 kg/m^3", "8/3 g/cm^3"),
        ("So the value is 8 m^2!", "8 m^2", "8 cm^2"),
        ("So the value is \\frac{147}{3} kg/m^3!", "49 kg/m^3", "49 k\\Omega"),
        ("So the value is x = \u2212\\frac{9}{3}!", "-3", "-6"),
        ("So we get **- 9.0**.", "-9", "9"),
        ("Thus x = **- 1\\frac{5}{7}**.", "-12/7", "12/7"),
    ],
)
def test_a_sign_before_delimiters_and_a_unit_before_a_mark_are_read(text, right, wrong, lenient):
    assert math_answer(text, right, lenient=lenient).value == 1
    assert math_answer(text, wrong, lenient=lenient).value == 0


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("answer", ["7", "7/1", "1/7"])
def test_a_time_with_a_zero_in_its_minutes_is_no_ratio(answer, lenient):
    assert math_answer(f"\\boxed{{{answer}}}", "7:01", lenient=lenient).value == 0
    assert math_answer("\\boxed{7:01}", "7:01", lenient=lenient).value == 1
