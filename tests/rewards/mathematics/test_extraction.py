"""Where a completion states its final answer."""

import random
import time

import pytest

from rewards.math_answer import math_answer
from rewards.mathematics.extraction import bare_answer, extract


@pytest.mark.parametrize(
    "text, answer, how",
    [
        ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", "boxed"),
        ("\\boxed{\\{1, \\text{a } 2\\}}", "\\{1, \\text{a } 2\\}", "boxed"),
        ("first \\boxed{3}, so finally we get \\boxed{4}", "4", "boxed"),
        ("\\boxed{3} and \\boxed{4}", "3, 4", "boxed"),
        ("\\fbox{7}", "7", "boxed"),
        ("\\boxed 5", "5", "boxed"),
        ("\\boxed{\\boxed{5}}", "5", "boxed"),
        ("a\n#### 1,234", "1,234", "hash"),
        ("<answer> 5 </answer>", "5", "answer_tag"),
        ("<answer>1</answer> <answer>2</answer>", "2", "answer_tag"),
        ("<answer>It is $\\boxed{2}$</answer>", "2", "answer_tag"),
        ("<answer>She sold 72 clips in total.</answer>", "72 clips", "answer_tag"),
        ("The answer is 7. I hope it is correct.", "7", "phrase"),
        ("**Final Answer:** $x^2$", "x^2", "phrase"),
        ("The answer is: 3.5.", "3.5", "phrase"),
        ("She makes $18 every day.", "$18", "number"),
        ("It costs $3 per day and $20 in total.", "$20", "number"),
        ("so 3 + 4 = 7", "7", "number"),
        ("so x = 3-5", "3-5", "number"),
        ("so x = -5", "-5", "number"),
        ("Therefore it is $\\frac{1}{3}$.", "\\frac{1}{3}", "math"),
        ("<think>\\boxed{1}</think>\\boxed{2}", "2", "boxed"),
    ],
)
def test_the_answer_and_the_rule_that_located_it(text, answer, how):
    extracted = extract(text)
    assert (extracted.text, extracted.how) == (answer, how)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no digits",
        "<think>\\boxed{3}",
        "\\boxed{}",
        "\\boxed{3",
        "<answer></answer>",
        "\\boxed{7}</think>",
    ],
)
def test_there_is_no_answer_if_reasoning_is_open_or_the_marker_is_empty(text):
    assert extract(text).text is None


CASES = r"\begin{cases} x = 1 \\ y = 2 \end{cases}"
PIECES = r"f(x)=\begin{cases} x^2 & x>0 \\ 0 & x \le 0 \end{cases}"
MATRIX = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"
SYSTEM = r"\begin{aligned} a &= 3 \\ b &= 4 \end{aligned}"
CHAIN = r"\begin{align*} x &= 3 + 4 \\ &= 7 \end{align*}"
STEPS = r"\begin{align*} x + y &= 3 \\ \Rightarrow x &= 2 \end{align*}"


@pytest.mark.parametrize(
    "text, right, wrong",
    [
        (f"So we get {CASES}.", "x=1, y=2", "2"),
        (f"The function is {PIECES}.", PIECES, "0"),
        (f"We find A = {MATRIX}", MATRIX, "4"),
        (f"We obtain\n{SYSTEM}\n", "b = 4, a = 3", "4"),
        (f"We find A = {MATRIX}, so the determinant is -2.", "-2", MATRIX),
        (f"Hence {CHAIN}", "7", "3"),
        (f"Hence {STEPS}", "2", "3"),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_an_environment_without_delimiters_is_one_value_and_not_its_last_number(
    text, right, wrong, lenient
):
    assert math_answer(text, answer=right, lenient=lenient).value == 1
    assert math_answer(text, answer=wrong, lenient=lenient).value == 0


def test_a_box_of_guesses_is_taken_whole():
    assert extract("\\boxed{3 \\text{ or } 4}").text == "3 \\text{ or } 4"
    assert extract("\\boxed{3}, \\boxed{4}").text == "3, 4"


def test_only_text_behind_the_last_closing_think_tag_counts():
    assert extract("<think>a</think> \\boxed{1} <think>b</think> \\boxed{2}").text == "2"
    assert extract("<think>a</think> \\boxed{1} <think>again").text is None


def test_lenient_joins_boxes_across_a_few_words_and_strict_does_not():
    text = "\\boxed{1} papers and \\boxed{2} bins"
    assert extract(text, lenient=True).text == "1, 2"
    assert extract(text).text == "2"
    assert extract("\\boxed{1} no no no no no \\boxed{2}", lenient=True).text == "2"


def test_random_nested_boxes_come_back_unchanged(seed):
    rng = random.Random(seed)
    for _ in range(200):
        content = "x"
        for _ in range(rng.randint(0, 20)):
            content = (
                rng.choice(["{%s}", "\\frac{%s}{2}", "\\sqrt{%s}+1", "\\left\\{%s\\right\\}"])
                % content
            )
        assert extract(f"Thus $\\boxed{{{content}}}$ holds").text == content


@pytest.mark.parametrize(
    "text, answer",
    [
        ("$8$,$4$", "8,4"),
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        ("$125$ miles", "125 miles"),
        ("\\[ f(x) = x \\]", "f(x) = x"),
        ("Thus $x \\geq 5$ is the solution.", "x \\geq 5"),
        ("so the number is 10 which is 1,000.99", "1,000.99"),
        ("2400, 1350, 864", "2400, 1350, 864"),
        ("2 hours, 30 minutes and 5 seconds", "2 hours, 30 minutes and 5 seconds"),
        ("3 red balls and 4 small blue cubes", "3 red balls and 4 small blue cubes"),
        ("\\begin{matrix}1\\end{matrix}+\\begin{cases}2\\end{cases}",) * 2,
        ("it's not 10, it's 1,000.99m", "1,000.99 m"),
        ("The sum is less than zero", "The sum is less than zero"),
        ("work\n#### 72", "72"),
    ],
)
def test_bare_answers_lose_their_delimiters_and_prose_its_words(text, answer):
    assert bare_answer(text).text == answer


HOSTILE = [
    "\\begin{cases}" * 4000,
    "f = \\begin{cases} 1" * 3000 + "\\end{cases}",
    "\\boxed{" * 20_000,
    "{" * 100_000,
    "\\boxed{1}" * 10_000,
    "$" * 50_001,
    "\\(" * 50_000,
    "1," * 50_000,
    "9" * 100_000,
    "answer is " * 20_000,
    "<answer>" * 20_000,
    "$ " * 30_000,
    "\\[ " * 30_000,
    " " * 200_000,
    "-" * 100_000 + "/" * 1000,
    "and " * 50_000,
    "\\boxed{1} " + " and" * 40_000 + "\\boxed{2}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_read_in_linear_time(text):
    started = time.process_time()
    for lenient in (False, True):
        extract(text, lenient=lenient)
        bare_answer(text, lenient=lenient)
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_the_callers_thread_reads_to_find_a_twin_takes_at_most_50_milliseconds(text):
    for padded in (text, "<think>" + text + "</think>" + text[:19_000]):
        started = time.process_time()
        math_answer.cache_key(padded, "1")
        assert time.process_time() - started <= 0.05
