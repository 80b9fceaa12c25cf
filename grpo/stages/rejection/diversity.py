"""The choice among the completions of a prompt that passed the filters: duplicates out, then at most so many, unlike.

The rule: completions stand in order of their weighted reward, the highest first, equal ones in an order that the seed
draws. Of duplicates the first stays. The first of all is taken; then, again and again, the one whose nearest taken
completion is farthest from it (farthest-first traversal, T. F. Gonzalez 1985); of equally far ones the first. Distance
is 1 minus the Jaccard similarity of the sets of word trigrams.
"""

from __future__ import annotations

import re
from typing import Collection, Mapping, Sequence

from grpo.kernels.sampling.spec import completion_seed
from grpo.recipe import RejectSection
from grpo.stages.rejection.candidates import Candidate
from grpo.stages.rejection.filters import caught_by

SHINGLE = 3
_WITHOUT_SPACES = "\u0e00-\u0e7f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+|[^\w\s]")
"""A character of a script without spaces, a run of letters and digits, or a sign."""

ACCEPTED = "accepted"
CHOSEN_AMONG = {
    "duplicate": "duplicates",
    "near_duplicate": "near duplicates",
    "over_limit": "over the limit per prompt",
}
"""Outcomes of completions that passed every filter and were not chosen, in words."""


def normalised(text: str) -> str:
    r"""A text with white space as single spaces, none around it.

    >>> normalised(" 2 +\n\n 2 ")
    '2 + 2'
    """
    return " ".join(text.split())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The set of word trigrams of a text in lower case; of a shorter text that text itself."""
    words = _WORD.findall(text.lower())
    last = max(1, len(words) - SHINGLE + 1)
    return frozenset(tuple(words[start : start + SHINGLE]) for start in range(last))


def similarity(first: Collection[tuple[str, ...]], second: Collection[tuple[str, ...]]) -> float:
    """Jaccard's: the share of what either has that both have.

    >>> similarity(shingles("one two three four"), shingles("one two three five"))
    0.3333333333333333
    """
    one = frozenset(first)
    return len(one.intersection(second)) / len(one.union(second))


def outcomes_of(
    candidates: Sequence[Candidate], section: RejectSection, seed: int
) -> tuple[list[str], list[list[str]]]:
    """(what becomes of each candidate of a prompt, the filters that catch each).

    The outcome is ``accepted``, ``cancelled``, the name of the first filter that catches it, or one of `CHOSEN_AMONG`.
    It does not depend on the order of the candidates.
    """
    caught = []
    outcomes = []
    for candidate in candidates:
        is_cancelled = candidate.completion.finish == "cancelled"
        names = [] if is_cancelled else caught_by(candidate, section)
        caught.append(names)
        outcomes.append("cancelled" if is_cancelled else next(iter(names), ACCEPTED))
    passing = [index for index, outcome in enumerate(outcomes) if outcome == ACCEPTED]
    ordered = sorted(passing, key=lambda index: _preference(candidates[index], seed))
    shingles_of = {index: shingles(candidates[index].completion.text) for index in ordered}
    unlike: list[int] = []
    for index in ordered:
        kind = _kind_of_duplicate(index, unlike, candidates, shingles_of, section=section)
        if kind:
            outcomes[index] = kind
        else:
            unlike.append(index)
    for index in set(unlike) - set(farthest_first(unlike, shingles_of, section.per_prompt)):
        outcomes[index] = "over_limit"
    return outcomes, caught


def _preference(candidate: Candidate, seed: int) -> tuple[float, int, tuple[str, int, int]]:
    value = candidate.score.value
    draw = completion_seed("choose", seed, candidate.prompt.id, *candidate.origin.key)
    return (-value if value is not None else 0.0, draw, candidate.origin.key)


def _kind_of_duplicate(
    index: int,
    kept: Sequence[int],
    candidates: Sequence[Candidate],
    shingles_of: Mapping[int, frozenset[tuple[str, ...]]],
    *,
    section: RejectSection,
) -> str:
    """``duplicate`` or ``near_duplicate`` of one that is kept; empty for neither."""
    text = normalised(candidates[index].completion.text)
    own = shingles_of[index]
    is_near = False
    for other in kept:
        is_same = normalised(candidates[other].completion.text) == text
        if section.duplicates and is_same:
            return "duplicate"
        if section.near_duplicates and not is_same:
            is_near = is_near or similarity(own, shingles_of[other]) >= section.near_duplicates
    return "near_duplicate" if is_near else ""


def farthest_first(
    ordered: Sequence[int], shingles_of: Mapping[int, frozenset[tuple[str, ...]]], most: int
) -> list[int]:
    """At most `most` of `ordered` (all for 0): the first, then always the one farthest from those taken."""
    if not most or len(ordered) <= most:
        return list(ordered)
    taken = [ordered[0]]
    nearest = {
        index: similarity(shingles_of[index], shingles_of[ordered[0]]) for index in ordered[1:]
    }
    while len(taken) < most:
        chosen = min(nearest, key=nearest.__getitem__)  # of equals the first in order
        del nearest[chosen]
        taken.append(chosen)
        for index, known in nearest.items():
            nearest[index] = max(known, similarity(shingles_of[index], shingles_of[chosen]))
    return taken
