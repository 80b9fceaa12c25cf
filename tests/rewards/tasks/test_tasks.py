"""Procedural tasks: rows, the held-out split, and a countdown reward that cannot be talked into a point."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.tasks import TASKS, countdown, countdown_format, held_out, load_task, retries

NUMBERS, TARGET = [3, 5, 7], 56


def value(text: str, numbers=NUMBERS, target=TARGET, **columns) -> float | None:
    return countdown(text, numbers, target, **columns).value


# ------------------------------------------------------------------------------------------------- tasks


def test_importing_tasks_pulls_in_neither_torch_nor_transformers():
    check = "import sys, rewards.tasks; sys.exit(bool({'torch', 'transformers', 'grpo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean countdown"):
        load_task("count-down")


def test_an_unknown_argument_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match="task countdown: unknown argument hihg; did you mean high"
    ):
        load_task("countdown").rows(hihg=5)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_gives_the_same_rows_whatever_the_global_seed(name):
    random.seed(1)
    first = load_task(name).rows()
    random.seed(2)
    assert load_task(name).rows() == first
    assert len({row["prompt"] for row in first}) == len(first) > 500


def brute_force(numbers, low, high):
    """Every target in the range, by trying all orders, signs and both ways to bracket three numbers."""

    def step(a, b):
        made = {a + b, a - b, a * b} | ({a / b} if b else set())
        return {value for value in made if value.denominator == 1 and 1 <= value <= high}

    reached = set()
    for a, b, c in itertools.permutations(map(Fraction, numbers)):
        for middle in step(a, b):
            reached |= step(middle, c) | step(c, middle)
    return {int(value) for value in reached if low <= value <= high}


def test_search_countdown_holds_every_solvable_problem_and_no_other():
    rows = load_task("search-countdown-3").rows()
    given_targets = {}
    for row in rows:
        given_targets.setdefault(tuple(row["numbers"]), set()).add(row["target"])
    for numbers in itertools.combinations_with_replacement(range(1, 14), 3):
        assert given_targets.get(numbers, set()) == brute_force(numbers, 10, 99)
    assert len(rows) == 4016


def test_the_prompt_states_numbers_and_target_in_either_style():
    symbols, words = (
        {"low": 5, "high": 5, "target_low": 50, "style": style} for style in ("symbols", "words")
    )
    assert load_task("countdown").rows(**symbols)[0]["prompt"] == "5 5 5 make 50 :"
    assert "5, 5 and 5" in load_task("countdown").rows(**words)[0]["prompt"]


def test_a_count_of_harder_problems_is_drawn_by_a_fixed_rule():
    rows = load_task("countdown").rows(numbers=4, high=25, target_high=200, count=300)
    assert rows == load_task("countdown").rows(numbers=4, high=25, target_high=200, count=300)
    assert len({row["prompt"] for row in rows}) == 300
    assert all(len(row["numbers"]) == 4 and 10 <= row["target"] <= 200 for row in rows)
    assert rows[:100] == load_task("countdown").rows(numbers=4, high=25, target_high=200, count=100)


def test_more_problems_than_there_are_is_refused():
    with pytest.raises(ValueError, match="found 1 problems, not 2"):
        load_task("countdown").rows(
            numbers=2, low=5, high=5, target_low=10, target_high=10, count=2
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": "prose"},
        {"numbers": 9},
        {"low": 0},
        {"low": 9, "high": 3},
        {"count": 1, "traces": "some"},
    ],
)
def test_countdown_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="countdown: "):
        load_task("countdown").rows(**wrong)


@pytest.mark.parametrize("style", ["symbols", "words"])
@pytest.mark.parametrize("kind", ["direct", "search"])
def test_every_trace_of_countdown_solves_its_problem(style, kind):
    rows = load_task("countdown").rows(style=style, traces=kind, numbers=4, count=60)
    plain = load_task("countdown").rows(style=style, numbers=4, count=60)
    assert [{**row, "completion": None} for row in rows] == [
        {**row, "completion": None} for row in plain
    ]
    for row in rows:
        score = countdown(row["completion"], row["numbers"], row["target"], finish="stop")
        assert score.value == 1, row
    tries = sum(retries(row["completion"]) for row in rows)
    assert tries == 0 if kind == "direct" else tries > 60


def test_arithmetic_rows_hold_the_right_answers():
    rows = load_task("arithmetic").rows(operations="+-*", low=2, high=9)
    assert len(rows) == 3 * 8 * 8
    assert {"prompt": "What is 3 - 9?", "answer": "-6"} in rows
    assert {"prompt": "What is 7 * 8?", "answer": "56"} in rows
    with pytest.raises(ValueError, match="operations is '/'"):
        load_task("arithmetic").rows(operations="/")


def test_arithmetic_of_several_terms_takes_products_first_and_draws_by_a_fixed_rule():
    task = load_task("arithmetic")
    rows = task.rows(terms=4, low=10, high=99, count=400)
    assert len({row["prompt"] for row in rows}) == 400
    assert rows[:100] == task.rows(terms=4, low=10, high=99, count=100)
    for row in rows:
        assert Fraction(row["answer"]) == sum(map(product, row["prompt"][8:-1].split(" + ")))


def product(text: str) -> int:
    """The value of products and differences of products."""
    first, *others = text.split(" - ")
    values = [math.prod(map(int, part.split(" * "))) for part in (first, *others)]
    return values[0] - sum(values[1:])


def test_every_question_of_three_terms_is_there_once():
    rows = load_task("arithmetic").rows(operations="+*", low=1, high=3, terms=3)
    assert len({row["prompt"] for row in rows}) == len(rows) == 2**2 * 3**3
    assert {"prompt": "What is 1 + 2 * 3?", "answer": "7"} in rows


@pytest.mark.parametrize(
    ("args", "refusal"),
    [
        ({"terms": 1}, "terms is 1; it can be 2 to 5"),
        ({"terms": 4, "high": 99}, "these ranges hold 2,593,609,227 questions; set count"),
        ({"operations": "+", "high": 2, "count": 5}, "count is 5; these ranges hold 4 questions"),
    ],
)
def test_arithmetic_that_cannot_be_written_out_is_refused(args, refusal):
    with pytest.raises(ValueError, match=refusal):
        load_task("arithmetic").rows(**args)


# ---------------------------------------------------------------------------------------------- held out


def test_held_out_prompts_are_those_with_the_smallest_digest():
    rows = load_task("arithmetic").rows()
    train, held = held_out(rows, 10)
    digests = sorted(
        hashlib.sha256(f"held-out:{row['prompt']}".encode()).hexdigest() for row in rows
    )
    assert [
        hashlib.sha256(f"held-out:{row['prompt']}".encode()).hexdigest() for row in held
    ] == digests[:10]
    assert len(train) + len(held) == len(rows)


def test_the_split_does_not_depend_on_the_order_of_rows():
    rows = load_task("arithmetic").rows()
    assert held_out(rows[::-1], 32)[1] == held_out(rows, 32)[1]


def test_a_prompt_that_is_held_out_never_trains_also_where_it_occurs_twice():
    rows = load_task("arithmetic").rows(low=1, high=3)
    train, held = held_out(rows * 2, 5)
    assert len(held) == 5 and len(train) == 2 * (len(rows) - 5)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}


def test_holding_out_everything_is_refused():
    with pytest.raises(ValueError, match="cannot hold out 9 of 9"):
        held_out(load_task("arithmetic").rows(operations="+", low=1, high=3), 9)


def test_a_prompt_may_be_a_conversation():
    rows = [{"prompt": [{"role": "user", "content": str(i)}]} for i in range(6)]
    train, held = held_out(rows, 2)
    assert len(train) == 4 and len(held) == 2


# ------------------------------------------------------------------------------------- countdown's reward


@pytest.mark.parametrize(
    "text",
    [
        "3 + 5 = 8 , 8 * 7 = 56 answer ( 3 + 5 ) * 7",
        "7 - 5 = 2 , 2 * 3 = 6 no 3 + 5 = 8 , 8 * 7 = 56 answer 7 * ( 3 + 5 )",
        "<think>3 + 5 is 8, times 7 is 56</think> <answer>(3+5)*7</answer>",
        "<think>no</think>\n<answer> 7 × (5 + 3) = 56. </answer>\n",
        "Try 3 + 5 first.\nThe answer is: (3 + 5) * 7 = 56.",
        "Let me think.\n(3 + 5) * 7",
        "(3 + 5) \\times 7 = 56",
    ],
)
def test_an_expression_that_makes_the_target_scores_one(text):
    assert countdown(text, NUMBERS, TARGET).value == 1.0
    assert countdown_format(text).value == 1.0


@pytest.mark.parametrize(
    "text, why",
    [
        ("answer 3 + 5 * 7", "makes 38"),
        ("answer 8 * 7", "not each of"),
        ("answer ( 3 + 5 ) * 7 * 7 / 7", "not each of"),
        ("answer 56", "not each of"),
        ("answer ( 3 + 5 ) * 7 answer ( 3 + 5 ) * 7", "more than one"),
        ("answer ( 3 + 5 ) * 7 no 3 * 5 = 15", "claims 15"),
        ("answer ( 3 + 5 ) * 7 = 57", "claims 57"),
        ("answer ( 3 + 5 ) * 7 = 56 = 56", "not an expression"),
        ("answer ( 3 + 5 ) * 7 , 3 + 5", "cannot read"),
        ("answer ( 3 + 5 * 7", "not closed"),
        ("answer ( 3 + 5 ) 7", "left over"),
        ("answer ( 3 + 5 ) *", "breaks off"),
        ("answer ( 3 + 5 ) * 7 + ( 7 - 7 )", "not each of"),
        ("answer ( 3 + 5 ) ** 7", "instead of a number"),
        ("answer ( - 3 + 5 ) * 7", "instead of a number"),
        ("answer ( 3.0 + 5 ) * 7", "cannot read"),
        ("answer ( 3e0 + 5 ) * 7", "cannot read"),
        ("answer (3 + 5) * 7 # __import__('os')", "cannot read"),
        ("<answer>(3+5)*7</answer><answer>1</answer>", "more than one"),
        ("<answer>(3+5)*7</answer> or (3*5)*7", "something follows"),
        ("<answer>3<answer>(3+5)*7</answer>", "more than one"),
        ("answer " + "(" * 5000 + "3", "longer than"),
        ("answer 3 / ( 5 - 5 ) * 7", "not each of"),
    ],
)
def test_a_wrong_or_misplaced_expression_scores_zero_and_says_why(text, why):
    score = countdown(text, NUMBERS, TARGET)
    assert (score.value, score.status) == (0.0, "scored")
    assert why in score.detail


@pytest.mark.parametrize(
    "text", ["", "no no no", "3 5 7 56", "<answer></answer>", "<answer>(3+5)*7", "the answer"]
)
def test_where_there_is_no_expression_the_status_says_so(text):
    score = countdown(text, NUMBERS, TARGET)
    assert (score.value, score.status) == (0.0, "no_answer")
    assert countdown_format(text).value == 0.0


def test_values_are_exact_fractions():
    assert value("answer 8 / ( 3 - 8 / 3 )", [3, 3, 8, 8], 24) == 1.0
    assert value("answer 8 * 3 / ( 8 / 3 )", [3, 3, 8, 8], 9) == 1.0
    assert value("answer 22 / 7 * 113", [7, 22, 113], 355) == 0.0
    assert value("answer 1 / 3 * 3", [1, 3, 3], 1) == 1.0


@pytest.mark.parametrize(
    "piece", ["<answer>", "answer ", "answer(", "answer" + " " * 999, "=", "= 1 ", "(", "no "]
)
def test_no_length_of_text_stalls_the_reward(piece):
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    assert countdown(text, NUMBERS, TARGET).value == countdown_format(text).value == 0.0
    assert time.process_time() - started < 4.0


def test_dividing_by_zero_scores_zero():
    score = countdown("answer 7 / ( 5 - 5 )", [5, 5, 7], 56)
    assert (score.value, score.detail) == (0.0, "it divides by zero")


@pytest.mark.parametrize(
    "finish, expected", [(None, 1.0), ("stop", 1.0), ("length", 0.0), ("context", 0.0)]
)
def test_a_completion_that_did_not_end_by_itself_scores_zero(finish, expected):
    text = "answer ( 3 + 5 ) * 7"
    assert value(text, finish=finish) == expected
    assert countdown_format(text, finish=finish).value == expected
    assert countdown(text, NUMBERS, TARGET, finish=finish).parts["ended"] == expected


@pytest.mark.parametrize(
    "numbers, target", [("[3, 5, 7]", "56"), ("3 5 7", 56), ((3.0, 5.0, 7.0), 56.0)]
)
def test_truths_are_read_as_a_csv_or_parquet_file_holds_them(numbers, target):
    assert value("answer ( 3 + 5 ) * 7", numbers, target) == 1.0


@pytest.mark.parametrize(
    "numbers, target", [([], 56), ("three", 56), ([3, 5.5], 56), (None, 56), ([3, 5, 7], "many")]
)
def test_a_truth_that_cannot_be_read_is_a_fault_and_not_a_wrong_answer(numbers, target):
    score = countdown("answer ( 3 + 5 ) * 7", numbers, target)
    assert (score.value, score.status) == (None, "fault")


def test_parts_are_numbers_that_count_what_the_completion_did():
    score = countdown(
        "3 * 5 = 15 , 15 + 7 = 22 no 3 + 5 = 8 , 8 * 7 = 56 answer ( 3 + 5 ) * 7", NUMBERS, TARGET
    )
    assert score.parts == {"correct": 1.0, "ended": 1.0, "retries": 1.0}


def test_the_score_says_what_was_judged():
    assert countdown("Well.\nThe answer is 7 * (3 + 5)", NUMBERS, TARGET).extracted == "7 * (3 + 5)"
    assert countdown("no idea", NUMBERS, TARGET).extracted is None


def test_retries_counts_the_word_no_and_not_the_letters():
    assert retries("3 + 5 = 8 no 3 * 5 = 15 no answer 3") == 2
    assert retries("nothing known, not now") == 0


@st.composite
def expressions(draw):
    """A random expression over numbers, and Python's own exact value of it."""
    numbers = draw(st.lists(st.integers(1, 25), min_size=2, max_size=5))
    parts = [(str(number), Fraction(number)) for number in numbers]
    while len(parts) > 1:
        (left, a), (right, b) = parts.pop(0), parts.pop(0)
        sign = draw(st.sampled_from("+-*/" if b else "+-*"))
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
        parts.insert(draw(st.integers(0, len(parts))), (f"( {left} {sign} {right} )", result))
    return numbers, *parts[0]


@settings(max_examples=300, deadline=None)
@given(expressions())
def test_the_parser_agrees_with_exact_arithmetic(case):
    numbers, text, result = case
    target = int(result) if result.denominator == 1 else 0
    expected = 1.0 if result == target else 0.0
    assert value(f"answer {text}", numbers, target) == expected
    assert value(f"answer {text}", numbers, target + 1) == 0.0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/()=. answero<>\n", max_size=60))
def test_no_text_makes_the_reward_fail(text):
    score = countdown(text, NUMBERS, TARGET, finish="stop")
    assert score.status in ("scored", "no_answer") and score.value in (0.0, 1.0)
