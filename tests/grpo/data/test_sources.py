"""Rows by `where`, from memory, and of a mixture; what overlaps with an evaluation set."""

from __future__ import annotations

import random

import datasets
import numpy
import pandas
import pyarrow
import pytest

from grpo.data.overlap import grams, normalised, overlapping
from grpo.data.sources import load_sources
from grpo.data.where import matching
from grpo.recipe import Recipe, RecipeError

ROWS = [
    {"prompt": "a", "level": 1, "kind": "algebra", "hard": True, "rate": "0.25"},
    {"prompt": "b", "level": 3, "kind": "geometry", "hard": False, "rate": "n/a"},
    {"prompt": "c", "level": "5", "kind": "algebra", "hard": True, "rate": None},
    {"prompt": "d", "kind": "number theory", "level": 4.0, "rate": "1e-1"},
]


@pytest.mark.parametrize(
    "where, kept",
    [
        ({}, "abcd"),
        ({"kind": "algebra"}, "ac"),
        ({"kind": ["algebra", "geometry"]}, "abc"),
        ({"kind": "!= algebra"}, "bd"),
        ({"kind": "== geometry"}, "b"),
        ({"level": ">= 3"}, "bcd"),
        ({"level": ">3"}, "cd"),
        ({"level": "< 3"}, "a"),
        ({"level": "<= 4"}, "abd"),
        ({"level": 5}, "c"),
        ({"level": "4.0"}, "d"),
        ({"level": 4}, "d"),
        ({"level": [1, 5]}, "ac"),
        ({"hard": True}, "ac"),
        ({"hard": "true"}, "ac"),
        ({"hard": False}, "b"),
        ({"rate": "> 0"}, "ad"),
        ({"level": ">= 3", "kind": "algebra"}, "c"),
    ],
)
def test_where_keeps_the_rows_that_match_all_of_it(where, kept):
    assert "".join(row["prompt"] for row in matching(ROWS, where, "x")) == kept


@pytest.mark.parametrize(
    "where, message",
    [
        ({"levl": 3}, "where names the column levl, but x has prompt, level, kind"),
        ({"level": "> 9"}, "none of the 4 rows of x matches"),
        ({"level": "> high"}, "where.level is '> high', but 'high' is not a number"),
    ],
)
def test_a_where_that_keeps_nothing_or_cannot_is_refused(where, message):
    with pytest.raises(RecipeError, match=message):
        matching(ROWS, where, "x")


def data(**section):
    return Recipe.from_mapping({"data": section}).data


def test_a_mixture_names_the_source_of_each_row_and_shares_its_keys():
    section = data(
        held_out=1,
        columns={"prompt": "q"},
        sources=[{"name": "one"}, {"name": "two", "columns": {"prompt": "t"}, "held_out": 2}],
    )
    one = [{"q": f"q{i}"} for i in range(4)]
    two = [{"t": f"t{i}", "source": "its own"} for i in range(5)]
    first, second = load_sources(section, {"one": one, "two": two})
    assert (len(first.train), len(first.held_out)) == (3, 1)
    assert (len(second.train), len(second.held_out)) == (3, 2)
    assert {row["source"] for row in [*first.rows, *second.rows]} == {"one", "two"}
    assert [row["prompt"] for row in second.rows] == ["t0", "t1", "t2", "t3", "t4"]


def stream(rows):
    return datasets.Dataset.from_list(rows).to_iterable_dataset()


@pytest.mark.parametrize(
    "form",
    [list, iter, datasets.Dataset.from_list, stream, pyarrow.Table.from_pylist, pandas.DataFrame],
)
def test_rows_in_memory_are_mapped_and_divided_as_those_of_a_file(form):
    rows = [{"q": f"q{i}", "answer": i} for i in range(6)]
    (source,) = load_sources(data(columns={"prompt": "q"}, held_out=2), form(rows))
    assert sorted(row["prompt"] for row in source.rows) == [f"q{i}" for i in range(6)]
    assert (len(source.train), len(source.held_out)) == (4, 2)


def test_rows_that_where_leaves_out_are_not_checked():
    rows = [
        {"q": "a", "answer": "1", "kind": "ok"}, {"q": "", "answer": "2", "kind": "bad"},
        {"q": ["x"], "answer": None, "kind": "bad"}, {"q": "b", "answer": "3", "kind": "ok"},
    ]  # fmt: skip
    (source,) = load_sources(data(columns={"prompt": "q"}, where={"kind": "ok"}), rows)
    assert [row["prompt"] for row in source.rows] == ["a", "b"] and source.num_left_out == 2
    rows[3]["q"] = ""
    with pytest.raises(RecipeError, match="row 4 of"):
        load_sources(data(columns={"prompt": "q"}, where={"kind": "ok"}), rows)


def test_a_refusal_of_a_mixture_names_the_source():
    section = data(held_out=1, sources=[{"name": "one"}, {"name": "two"}])
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(RecipeError, match=r"cannot hold out 1 of 1.*\(data.sources.two\)"):
        load_sources(section, {"one": rows, "two": rows[:1]})


def test_arrays_in_which_pandas_keeps_lists_are_lists():
    turns = numpy.array([{"role": "user", "content": "a"}], dtype=object)
    row = {"prompt": turns, "nums": numpy.array([1, 2]), "answer": numpy.int64(3)}
    (source,) = load_sources(data(template="chat"), pandas.DataFrame([row]))
    (loaded,) = source.rows
    assert loaded == {
        "prompt": [{"role": "user", "content": "a"}],
        "nums": [1, 2],
        "answer": 3,
    }
    assert type(loaded["answer"]) is int


@pytest.mark.parametrize(
    "section, given, message",
    [
        ({}, "rows.jsonl", "is str, not rows; a file is named in data.source"),
        ({}, 5, "is int, not rows"),
        ({}, ["q"], "row 1 is str, not a mapping of columns"),
        ({}, {"a": [{"prompt": "x"}]}, "has no data.sources; give a list"),
        ({"sources": {"a": {}}}, [{"prompt": "x"}], "the recipe mixes a; give the rows of each"),
        ({"sources": {"abc": {}}}, {"abd": []}, "rows of abd were given.*did you mean abc"),
        ({}, [], "the data in memory holds no rows"),
    ],
)
def test_rows_that_do_not_suit_the_recipe_are_refused(section, given, message):
    with pytest.raises(RecipeError, match=message):
        load_sources(data(**section), given)


# ---- overlap ---------------------------------------------------------------------------------------------------

LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May"
)


def test_thirteen_words_in_a_row_overlap_whatever_stands_around_them():
    assert overlapping([f"Question: {LONG}. How many?"], [f"{LONG.upper()}; how much?"]) == [0]
    assert overlapping([" ".join(LONG.split()[:11])], [LONG]) == []


def test_a_short_question_overlaps_only_with_itself():
    assert overlapping(
        ["What is 3 + 4?", "2 + 2"], ["what is 3+4 ?", "What is 3 + 5?", "2 + 2 + 2"]
    ) == [0]


def test_the_wording_that_all_prompts_share_is_no_overlap():
    shared = (
        "Using each of the numbers below exactly once and only plus minus times make the target"
    )
    train = [f"{shared} {i} {i + 1} {i + 2}" for i in range(200)]
    assert overlapping(train, [f"{shared} 900 901 902"]) == []
    assert overlapping(train, [f"{shared} 7 8 9"]) == [0]


TEMPLATES = {
    "numbers and names": "{a} apples are in the basket of {n}. After lunch {n} puts {b} more apples into it and gives "
    "{c} of them to {m}. How many apples are left in the basket in the end?",
    "names alone": "If {n} is taller than {m} and {m} is taller than {k}, and nobody else is in the room with them, "
    "who is the shortest of the three friends in the room today?",
    "an equation": "Find every integer value of $x$ such that $x^2+{a}x+{b}=0$ holds and x is greater than {c}.",
}
NAMES = ["Tom", "Anna", "Bob", "Lucy", "Maria", "Ken", "Omar", "Priya", "Chen", "Olga"]


def made(template: str, rng: random.Random, number: int) -> list[str]:
    """Different questions of one template."""
    found: dict[str, None] = {}
    while len(found) < number:
        names = dict(zip("nmk", rng.sample(NAMES, 3)))
        numbers = {letter: rng.randint(2, 60) for letter in "abc"}
        found[TEMPLATES[template].format(**names, **numbers)] = None
    return list(found)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("num_train, num_evaluated", [(8, 3), (40, 12), (300, 40)])
def test_questions_of_one_template_are_no_leak_and_one_that_trains_is_found(
    template: str, num_train: int, num_evaluated: int, seed: int
):
    questions = made(template, random.Random(seed), num_train + num_evaluated)
    evaluated, train = questions[:num_evaluated], questions[num_evaluated:]
    assert overlapping(train, evaluated) == []
    leak = f"Solve the problem in at most 300 words.\n{evaluated[1].upper()} Think step by step."
    assert overlapping([*train, leak], evaluated) == [1]
    wrapped = [f"{text} Round to 2 places and box the answer." for text in evaluated]
    assert overlapping([*train, leak], wrapped) == ([1] if num_evaluated > 5 else [])


def test_a_question_of_nothing_but_wording_is_found_where_it_trains_as_it_stands():
    text = "Which of the two is the larger one of all that we have seen so far in {}?"
    train = [text.format(word) for word in "abcdefgh"]
    assert overlapping(train, [text.format("d"), text.format("z")]) == [0]


def test_a_shared_sentence_of_a_longer_question_is_no_leak():
    other = "In May she had to pay rent, so what did she earn if each clip sold for two dollars at the fair?"
    assert overlapping([LONG], [f"{LONG}. {other} {other}"]) == []


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("What is 3 + 4?", "what is  3+4", True),
        ("What is 3 + 4?", "What is 3 - 4?", False),
        ("(1 + 2) * 3", "1 + (2 * 3)", False),
        ("It's \u201cred\u201d, isn't it?", "it's red isn't it", True),
    ],
)
def test_prompts_are_compared_by_words_and_signs(one: str, other: str, same: bool):
    assert (normalised(one) == normalised(other)) is same


def test_an_empty_text_has_no_words_to_share():
    assert grams([]) == [] and overlapping(["", "a"], [""]) == []
