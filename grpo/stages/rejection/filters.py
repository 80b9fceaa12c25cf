"""The filters of rejection sampling: a table of tests, each on one candidate alone.

A candidate is booked under the first filter that catches it, in the order of the table; how many each would catch by
itself is counted too. The reasoning is what stands before the last ``</think>``; a text without that tag is reasoning
as a whole, save for the test on code, which needs the tags: elsewhere code may be the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable

from grpo.recipe import RejectSection
from grpo.stages.rejection.candidates import Candidate
from rewards.reasoning import THINK, THINK_END, opens_reasoning
from rewards.shaping.language import count_words
from rewards.shaping.repetition import repetition

CODE_BLOCK = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Filter:
    """One test: the outcome of what it catches, what that is in words, when it is on, and the test."""

    name: str
    says: str
    is_on: Callable[[RejectSection], bool]
    catches: Callable[[Candidate, RejectSection], bool]


def reasoning_of(text: str, prompt_text: str = "") -> tuple[str, bool]:
    """(the reasoning of a completion, whether tags delimit it); without a tag that is all of the text.

    >>> reasoning_of("<think>2 + 2</think>4"), reasoning_of("2 + 2</think>4", "<think>"), reasoning_of("2 + 2 = 4")
    (('2 + 2', True), ('2 + 2', True), ('2 + 2 = 4', False))
    """
    before, closed, _ = text.rpartition(THINK_END)
    reasoning = before if closed else text
    is_opened = THINK in reasoning or opens_reasoning(prompt_text)
    _, tag, inside = reasoning.partition(THINK)
    return (inside if tag else reasoning), bool(closed) or is_opened


def _reasoning(candidate: Candidate) -> tuple[str, bool]:
    return reasoning_of(candidate.completion.text, candidate.prompt.text)


def share_of_one_language(text: str, language: str | None = None) -> float:
    """The share of words in `language`, by default in whichever has most; 1 for a text without words."""
    counts = count_words(text)
    total = counts.total()
    if not total:
        return 1.0
    return (counts[language] if language else max(counts.values())) / total


def longest_paragraph(text: str) -> int:
    """Characters of the longest line, white space around it left out."""
    return max((len(line.strip()) for line in text.splitlines()), default=0)


# ---- the tests ----------------------------------------------------------------------------------------------------


def _has_no_verdict(candidate: Candidate, section: RejectSection) -> bool:
    return candidate.score.value is None or (section.right and candidate.right is None)


def _is_mixed(candidate: Candidate, section: RejectSection) -> bool:
    reasoning, _ = _reasoning(candidate)
    return share_of_one_language(reasoning, section.language) < section.min_language


def _repeats_itself(candidate: Candidate, section: RejectSection) -> bool:
    return -repetition(candidate.completion.text, n=section.ngram) > section.max_repetition


def _has_long_paragraph(candidate: Candidate, section: RejectSection) -> bool:
    reasoning, _ = _reasoning(candidate)
    return longest_paragraph(reasoning) > (section.max_paragraph or 0)


def _has_code(candidate: Candidate, section: RejectSection) -> bool:
    reasoning, is_delimited = _reasoning(candidate)
    return is_delimited and CODE_BLOCK.search(reasoning) is not None


def _is_below(value: float | None, limit: float | None) -> bool:
    """Whether both are known and `value` is below `limit`."""
    return value is not None and limit is not None and value < limit


FILTERS = (
    Filter(
        name="faulted",
        says="not judged, by a fault",
        is_on=lambda section: section.faults,
        catches=lambda candidate, _: candidate.score.status == "fault",
    ),
    Filter(
        name="unscored",
        says="without a verdict",
        is_on=lambda section: section.faults,
        catches=_has_no_verdict,
    ),
    Filter(
        name="unfinished",
        says="cut off",
        is_on=lambda section: section.finished,
        catches=lambda candidate, _: candidate.completion.finish != "stop",
    ),
    Filter(
        name="wrong",
        says="wrong",
        is_on=lambda section: section.right,
        catches=lambda candidate, _: candidate.right is False,
    ),
    Filter(
        name="low_reward",
        says="of too low a reward",
        is_on=lambda section: section.min_reward is not None,
        catches=lambda candidate, section: _is_below(candidate.score.value, section.min_reward),
    ),
    Filter(
        name="too_short",
        says="too short",
        is_on=lambda section: section.min_tokens is not None,
        catches=lambda candidate, section: _is_below(candidate.num_tokens, section.min_tokens),
    ),
    Filter(
        name="too_long",
        says="too long",
        is_on=lambda section: section.max_tokens is not None,
        catches=lambda candidate, section: _is_below(section.max_tokens, candidate.num_tokens),
    ),
    Filter(
        name="mixed_language",
        says="in mixed languages",
        is_on=lambda section: section.min_language > 0,
        catches=_is_mixed,
    ),
    Filter(
        name="repetitive",
        says="repetitive",
        is_on=lambda section: section.max_repetition < 1,
        catches=_repeats_itself,
    ),
    Filter(
        name="long_paragraph",
        says="with a long paragraph",
        is_on=lambda section: section.max_paragraph is not None,
        catches=_has_long_paragraph,
    ),
    Filter(
        name="code_in_reasoning",
        says="with code in the reasoning",
        is_on=lambda section: section.code,
        catches=_has_code,
    ),
)


def caught_by(candidate: Candidate, section: RejectSection) -> list[str]:
    """The names of all filters that are on and catch a candidate, in the order of the table."""
    return [one.name for one in FILTERS if one.is_on(section) and one.catches(candidate, section)]
