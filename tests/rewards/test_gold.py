"""Which golds are answers, which are none, and how a list of them is meant."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy
import pytest

from rewards.gold import gold_items, is_missing, is_placeholder, num_answers, stated_gold
from rewards.math_answer import math_answer, pairs

SPELLINGS = (
    "nan",
    "NaN",
    "NAN",
    "none",
    "None",
    "NONE",
    "null",
    "NULL",
    "n/a",
    "N/A",
    "#N/A",
    "<NA>",
    "",
)
WRAPPERS = (
    "{}",
    " {} ",
    "{}\n",
    "${}$",
    "$${}$$",
    r"\text{{{}}}",
    r"$\text{{{}}}$",
    r"\boxed{{{}}}",
    '"{}"',
    "'{}'",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_nothing_is_an_answer(spelling):
    for wrapper in WRAPPERS:
        gold = wrapper.format(spelling)
        assert is_missing(gold), gold
        for completion in (
            "4",
            r"\boxed{4}",
            rf"\boxed{{{spelling}}}",
            f"The answer is {spelling}.",
            "",
        ):
            score = math_answer(completion, gold)
            assert (score.value, score.status) == (None, "fault"), (gold, completion)
        assert pairs(gold, spelling).status == "fault"


@pytest.mark.parametrize(
    "gold",
    [
        None,
        math.nan,
        -math.nan,
        Decimal("nan"),
        [],
        [None],
        ["nan", None],
        "[null]",
        "[]",
        "[NaN]",
        [[None]],
    ],
)
def test_a_gold_without_a_value_is_a_fault_in_both_modes(gold):
    assert is_missing(gold)
    for lenient in (False, True):
        assert math_answer(r"\boxed{4}", gold, lenient=lenient).status == "fault"


@pytest.mark.parametrize(
    "gold",
    [
        "0",
        0,
        0.0,
        "no",
        "No",
        "no solution",
        "nano",
        "none of these",
        r"\varnothing",
        r"\{\}",
        "nil",
        "undefined",
        "i",
    ],
)
def test_answers_that_look_like_nothing_are_answers(gold):
    assert not is_missing(gold)


@pytest.mark.parametrize(
    "gold",
    ["proof", "Proof", "proof.", "PROOF", "$proof$", r"\text{proof}", "not found", "Not Found", "notfound", "not_found",
     "Answer not found", "unknown", "?", "-", "\u2014", "...", "\u2026", "See solution", "[\"proof\"]", ["not found"]],
)  # fmt: skip
def test_remarks_in_place_of_an_answer_are_found(gold):
    assert is_placeholder(gold) and not is_missing(gold)


@pytest.mark.parametrize(
    "gold",
    ["x", "A", "N", "-1", ".5", "0", "no solution", "DNE", "false", "waterproof", 3, None, "p"],
)
def test_short_answers_are_no_remarks(gold):
    assert not is_placeholder(gold)


@pytest.mark.parametrize(
    "gold, items",
    [
        (["5"], ["5"]), (("5",), ["5"]), ([5], [5]), ([["5"]], ["5"]), ('["5"]', ["5"]), ("['5']", ["5"]), ("[5]", [5]),
        ([" 5 "], [" 5 "]), ('["\\\\frac{1}{2}"]', ["\\frac{1}{2}"]), ('["\\frac12"]', ["\\frac12"]),
        (["5", "6"], ["5", "6"]), ('["5", "6"]', ["5", "6"]), ("['a', 'b']", ["a", "b"]), ("[1, 2]", ["[1, 2]"]),
        ("[1, 2)", ["[1, 2)"]), ("[0, 1]", ["[0, 1]"]), ("[x]", ["[x]"]), ("5", ["5"]), (5, [5]), ("[", ["["]),
    ],
)  # fmt: skip
def test_a_list_is_its_items_and_brackets_of_mathematics_stay(gold, items):
    assert gold_items(gold) == items


ONE = (
    ["5"], [5], '["5"]', "['5']", "[5]", [["5"]], ["5", None], ["5", "5"], Decimal("5"), 5, 5.0,
    numpy.int64(5), numpy.array(["5"]), numpy.array([5.0]),
)  # fmt: skip


@pytest.mark.parametrize("gold", ONE, ids=repr)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_list_of_one_is_that_item(gold, lenient):
    assert math_answer(r"So \boxed{5}", gold, lenient=lenient).value == 1
    assert math_answer(r"So \boxed{6}", gold, lenient=lenient).value == 0
    assert pairs(gold, "5", lenient=lenient).value == 1 and pairs(gold, "6").value == 0


@pytest.mark.parametrize(
    "gold", [["5", "7"], '["5", "7"]', "['5', '7']", [5, 7], [["5"], ["7"]]], ids=repr
)
def test_a_list_of_several_needs_a_rule(gold):
    unruled = math_answer(r"\boxed{5}", gold)
    assert unruled.status == "fault" and "several" in unruled.detail
    completions = {
        "5": (1, 0),
        "7": (1, 0),
        "5, 7": (0, 1),
        "7, 5": (0, 1),
        "6": (0, 0),
        "5, 6": (0, 0),
        "5, 6, 7": (0, 0),
    }
    for answer, (any_value, all_value) in completions.items():
        text = rf"Hence \boxed{{{answer}}}"
        assert math_answer(text, gold, several="any").value == any_value, answer
        assert math_answer(text, gold, several="all").value == all_value, answer
    assert math_answer("I do not know", gold, several="any").status == "no_answer"


def test_all_of_several_with_grouped_digits_stay_apart():
    assert math_answer(r"\boxed{1,234 and 5}", ["1,234", "5"], several="all").value == 1
    assert math_answer(r"\boxed{1,234,5}", ["1,234", "5"], several="any").value == 0


def test_one_unreadable_alternative_is_a_fault_only_where_no_other_one_is_equal():
    assert math_answer(r"\boxed{5}", ["5", True], several="any").value == 1
    assert math_answer(r"\boxed{6}", ["5", True], several="any").status == "fault"


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="it can be any or all"):
        math_answer("4", "4", several="some")


def test_a_gold_is_stated_as_a_completion_would():
    assert (
        stated_gold(["5"])
        == stated_gold('["5"]')
        == stated_gold({"ground_truth": "5"})
        == stated_gold(5)
        == "5"
    )
    assert (
        stated_gold(["5", "7"], "any") == "5"
        and stated_gold(["5", "7"], "all") == stated_gold(["5", "7"]) == "5, 7"
    )
    assert (
        num_answers(["5", None]) == num_answers(["5", "5"]) == num_answers("5") == 1
        and num_answers(["5", "6"]) == 2
    )
