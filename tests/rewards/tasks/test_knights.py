"""Knights and knaves: one solution each, and a reward that reads roles and nothing else."""

import itertools
import random
import re
import time

import pytest

from rewards.tasks import TASKS, knights_and_knaves, load_task
from rewards.tasks.knights import NAMES, is_true, knights_rows, solutions

TRUTH = "Ada is a knight, Ben is a knave, Cleo is a knave"


def value(text, truth=TRUTH, **columns):
    return knights_and_knaves(text, truth, **columns).value


def understood(prompt):
    """The claims of a prompt, read back from its text by rules of the test's own."""
    person = {name: index for index, name in enumerate(NAMES)}

    def claim(text):
        if match := re.fullmatch(r"it is not true that (.*)", text):
            return ("not", claim(match[1]))
        if match := re.fullmatch(r"if (.*) then (.*)", text):
            return ("if", claim(match[1]), claim(match[2]))
        for joint, op in ((" if and only if ", "iff"), (" or ", "or")):
            if joint in text:
                return (op, *map(claim, text.split(joint)))
        if match := re.fullmatch(r"(\w+) and (\w+) are of the same kind", text):
            return ("same", person[match[1]], person[match[2]])
        if match := re.fullmatch(r"there (?:is|are) exactly (\d) knights? here", text):
            return ("count", int(match[1]))
        if " and " in text:
            return ("and", *map(claim, text.split(" and ")))
        name, role = re.fullmatch(r"(\w+) is a (\w+)", text).groups()
        return (role, person[name])

    return [claim(text) for text in re.findall(r'says: "(.*?)\."', prompt)]


@pytest.mark.parametrize("people", range(2, 9))
def test_every_puzzle_has_one_solution_which_is_its_answer(people):
    for row in knights_rows(people, 25):
        claims = understood(row["prompt"])
        agreeing = [
            roles
            for roles in itertools.product((True, False), repeat=people)
            if all(is_true(claim, roles) == honest for claim, honest in zip(claims, roles))
        ]
        assert agreeing == solutions(claims) and len(agreeing) == 1
        solution = ", ".join(
            f"{name} is a {'knight' if honest else 'knave'}"
            for name, honest in zip(NAMES, agreeing[0])
        )
        assert row["answer"] == solution


def test_rows_do_not_repeat_and_do_not_depend_on_the_global_seed():
    random.seed(1)
    first = load_task("knights-and-knaves").rows(people=4, count=200)
    random.seed(2)
    assert load_task("knights-and-knaves").rows(people=4, count=200) == first
    assert len({row["prompt"] for row in first}) == 200
    assert TASKS["knights-and-knaves"].reward == "knights_and_knaves"


@pytest.mark.parametrize(
    "arguments", [{"people": 1}, {"people": 9}, {"count": 0}, {"people": 2, "count": 10**5}]
)
def test_what_cannot_be_made_is_refused(arguments):
    with pytest.raises(ValueError, match="knights-and-knaves"):
        load_task("knights-and-knaves").rows(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        "<think>Ada is a knave?</think><answer>Ada is a knight, Ben is a knave, Cleo is a knave</answer>",
        "<answer>Cleo is a knave. Ben is a knave. Ada is a knight.</answer>",
        "<answer>Ada: knight\nBen: knave\nCleo: knave</answer>",
        "<answer>**Ada** is a **knight**, and both Ben and Cleo are knaves.</answer>",
        "<answer>Knights: Ada; Knaves: Ben, Cleo</answer>",
        "Hence the answer is: Ada is a knight, while Ben and Cleo are knaves.",
        "We try all.\nThus Ada is a knight, Ben is a knave and Cleo is a knave.",
    ],
)
def test_the_right_roles_score_however_they_are_listed(text):
    assert value(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "<answer>Ada is a knight, Ben is a knight, Cleo is a knave</answer>",
        "<answer>Ada is a knight, Ben is a knave</answer>",
        "<answer>Ada is a knight or a knave, Ben is a knave, Cleo is a knave</answer>",
        "<answer>Ada is a knight, Ben is not a knight, Cleo is a knave</answer>",
        "<answer>Ada is a knight, Ben is a knave, Cleo is a knave, Ben is a knight</answer>",
        "<answer>Ada is a knight, Ben is a knave, Cleo is a knave, Dan is a knave</answer>",
        "<answer>Ada is a knave</answer><answer>Ada is a knight, Ben is a knave, Cleo is a knave</answer>",
        "<answer>Ada is a knight, Ben is a knave, Cleo is a knave</answer> or the other way round",
        "<answer>Knights: Ada, Ben; Knaves: Ben, Cleo</answer>",
        "<answer>Ada Ben Cleo knight knave knave</answer>",
        "<answer></answer>",
        "<think>Ada is a knight, Ben is a knave, Cleo is a knave",
        "",
        "I do not know.",
        "<answer>" + "Ada is a knight, " * 500 + "</answer>",
    ],
)
def test_guesses_repetitions_and_gaps_do_not_score(text):
    assert value(text) == 0.0


def test_a_completion_without_an_answer_says_so_and_an_unreadable_truth_is_a_fault():
    assert knights_and_knaves("hello", TRUTH).status == "no_answer"
    assert knights_and_knaves("<answer>Ada is a knight</answer>", "who knows").status == "fault"


def test_a_right_answer_that_did_not_end_by_itself_does_not_score():
    right = f"<answer>{TRUTH}</answer>"
    assert (value(right, finish="stop"), value(right, finish="length")) == (1.0, 0.0)


def test_the_reward_takes_linear_time():
    began = time.process_time()
    for text in (
        "<answer>" * 20_000,
        "answer: " * 20_000,
        "knight " * 20_000,
        "Ada: " * 20_000,
        "answer" * 40_000,
    ):
        value(text)
    assert time.process_time() - began < 4
