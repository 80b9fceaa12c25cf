"""The filters of rejection sampling and its choice, on texts written for them."""

from __future__ import annotations

import itertools
import random
from dataclasses import fields, replace

import pytest
from candidates import candidate

from grpo.recipe import RejectSection
from grpo.run.ledger import LedgerError
from grpo.stages.rejection.books import OUTCOMES, Books
from grpo.stages.rejection.diversity import farthest_first, outcomes_of, shingles, similarity
from grpo.stages.rejection.filters import FILTERS, caught_by, longest_paragraph, reasoning_of

EVERY = RejectSection(min_reward=0.5, min_tokens=2, max_tokens=900)
LOOP = "so we add them and look at what is left over again " * 6
CODE = "<think>Let me run it\n```python\nprint(4)\n```\n</think>4"
CASES = {
    "faulted": candidate("a b", value=None, status="fault"),
    "unscored": candidate("a b", value=None, status="not_applicable"),
    "unfinished": candidate("a b", finish="length"),
    "wrong": candidate("a b", value=0.7, right=False),
    "low_reward": candidate("a b", value=0.2, right=True),
    "too_short": candidate("a", num_tokens=1),
    "too_long": candidate("a b", num_tokens=901),
    "mixed_language": candidate("<think>We add both of them 所以和是</think>4"),
    "repetitive": candidate(LOOP),
    "long_paragraph": candidate(
        "word by word, " + " ".join(str(n) for n in range(1100)), num_tokens=9
    ),
    "code_in_reasoning": candidate(CODE),
}
OFF = {
    "faulted": {"faults": False},
    "unscored": {"faults": False, "right": False},
    "unfinished": {"finished": False},
    "wrong": {"right": False},
    "low_reward": {"min_reward": None},
    "too_short": {"min_tokens": None},
    "too_long": {"max_tokens": None},
    "mixed_language": {"min_language": 0.0},
    "repetitive": {"max_repetition": 1.0},
    "long_paragraph": {"max_paragraph": None},
    "code_in_reasoning": {"code": False},
}


@pytest.mark.parametrize("name", CASES)
def test_each_filter_catches_its_own_case_alone_and_can_be_switched_off(name):
    assert caught_by(CASES[name], EVERY) == (
        ["faulted", "unscored"] if name == "faulted" else [name]
    )
    assert caught_by(CASES[name], replace(EVERY, **OFF[name])) == []


def test_every_filter_has_a_case_and_a_plain_right_completion_passes_all():
    assert [one.name for one in FILTERS] == list(CASES)
    assert caught_by(candidate("<think>2 and 2 make 4.</think>4"), EVERY) == []


def test_what_several_filters_catch_is_booked_under_the_first_and_counted_by_each():
    both = candidate(LOOP, value=0.0)
    outcomes, caught = outcomes_of([both], RejectSection(), seed=0)
    assert outcomes == ["wrong"] and caught == [["wrong", "repetitive"]]


def test_code_in_an_answer_and_in_a_text_without_tags_is_no_code_in_the_reasoning():
    answer = CODE.replace("</think>4", "").replace("<think>", "<think>easy</think>")
    assert caught_by(candidate(answer), RejectSection()) == []
    assert (
        caught_by(candidate(CODE.replace("<think>", "").replace("</think>", "")), RejectSection())
        == []
    )


def test_reasoning_that_the_prompt_has_opened_is_told():
    assert reasoning_of("so 4</think>4", "Assistant: <think>") == ("so 4", True)
    assert reasoning_of("so 4, but", "Assistant: <think>") == ("so 4, but", True)
    assert reasoning_of("<think>so 4", "Assistant:") == ("so 4", True)
    opened = candidate("```\nx\n```\nso</think>4", prompt="<think>\n")
    assert caught_by(opened, RejectSection()) == ["code_in_reasoning"]


def test_a_language_may_be_named_and_symbols_are_in_none():
    english = candidate("We add two and two.")
    assert caught_by(english, RejectSection(language="ja")) == ["mixed_language"]
    assert caught_by(candidate("2 + 2 = 4"), RejectSection(language="ja")) == []
    assert caught_by(candidate("二と二を足すと四です。"), RejectSection(language="ja")) == []


def test_the_longest_paragraph_is_the_longest_line():
    assert longest_paragraph("ab\n\n  cde  \nf") == 3


# ---- duplicates and the choice ------------------------------------------------------------------------------------


def numbered(*texts: str, **more) -> list:
    return [candidate(text, index=index, **more) for index, text in enumerate(texts)]


WIDE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_of_duplicates_one_stays_and_near_ones_are_booked_apart():
    near = WIDE.replace("fourteen", "fifteen")
    group = numbered("2 + 2\n= 4", "2 + 2 =  4", WIDE, near, "an answer of its own")
    section = RejectSection(near_duplicates=0.8, per_prompt=0)
    outcomes, _ = outcomes_of(group, section, seed=0)
    assert sorted(outcomes[:2]) == ["accepted", "duplicate"]
    assert sorted(outcomes[2:4]) == ["accepted", "near_duplicate"]
    assert outcomes[4] == "accepted"
    assert similarity(shingles(WIDE), shingles(near)) == pytest.approx(11 / 13)
    off = RejectSection(near_duplicates=0, duplicates=False, per_prompt=0)
    assert outcomes_of(group, off, seed=0)[0] == ["accepted"] * 5


def test_of_duplicates_the_one_of_the_higher_reward_stays():
    group = [candidate("a b c", index=0, value=1.0), candidate("a  b c", index=1, value=1.5)]
    assert outcomes_of(group, RejectSection(), seed=0)[0] == ["duplicate", "accepted"]


def slow_farthest_first(ordered, texts, most):
    taken = ordered[:1]
    while len(taken) < min(most, len(ordered)):
        left = [index for index in ordered if index not in taken]
        distance = {
            index: min(1 - similarity(texts[index], texts[other]) for other in taken)
            for index in left
        }
        taken.append(max(left, key=lambda index: (distance[index], -ordered.index(index))))
    return taken


def test_the_chosen_are_those_of_a_plain_farthest_first_traversal(seed):
    rng = random.Random(seed)
    for _ in range(20):
        texts = {n: shingles(" ".join(rng.choices("abcd", k=rng.randint(1, 9)))) for n in range(9)}
        ordered = rng.sample(range(9), 9)
        most = rng.randint(1, 10)
        chosen = farthest_first(ordered, texts, most)
        assert sorted(chosen) == sorted(slow_farthest_first(ordered, texts, most))


def test_the_choice_prefers_the_unlike_and_depends_on_the_seed_and_on_no_order():
    texts = ["a b c d e f", "a b c d e g", "u v w x y z", "a b c d h i"]
    group = numbered(*texts)
    section = RejectSection(per_prompt=2)
    outcomes, _ = outcomes_of(group, section, seed=3)
    assert outcomes[2] == "accepted" and outcomes.count("over_limit") == 2
    for order in itertools.permutations(range(4)):
        again, _ = outcomes_of([group[index] for index in order], section, seed=3)
        assert [again[order.index(index)] for index in range(4)] == outcomes
    by_seed = {tuple(outcomes_of(group, section, seed=seed)[0]) for seed in range(20)}
    assert len(by_seed) == 3  # the far one is always chosen, with any of the others


# ---- the books ----------------------------------------------------------------------------------------------------


def test_the_books_sum_and_an_unknown_outcome_is_a_bug():
    books = Books()
    books.add(["accepted", "wrong", "duplicate"], [[], ["wrong", "repetitive"], []], step=1)
    books.add(["cancelled"], [[]], step=2)
    summary = books.summary()
    assert summary["ledger"]["candidates"] == 4 == sum(summary["ledger"][name] for name in OUTCOMES)
    assert summary["caught"]["repetitive"] == 1 and summary["ledger"]["repetitive"] == 0
    other = Books()
    other.restore(books.state())
    assert other.summary() == summary
    with pytest.raises(LedgerError, match="unknown"):
        books.add(["lost"], [[]], step=3)


def test_every_key_that_filters_is_tried_here():
    tried = {name for change in OFF.values() for name in change}
    others = {
        "prompts",
        "samples",
        "language",
        "ngram",
        "duplicates",
        "near_duplicates",
        "per_prompt",
    }
    assert tried | others == {part.name for part in fields(RejectSection)}
