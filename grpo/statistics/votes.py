"""maj@k: the chance that the most frequent answer among k completions of a prompt is right.

Votes are for answers, not for right or wrong. Two completions vote for the same answer if these are equal: by
mathematics where the reward is ``math_answer`` (`math_classes`), otherwise as text, letter for letter (`text_classes`).
A completion without an answer votes for none; where nobody votes, the outcome is wrong. The tie rule: each of the most
frequent answers is as likely to be taken as the others. With k below the number of samples the value is the mean over
all k-subsets of the samples, exactly, as for pass@k.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Callable, Hashable, Iterable, Sequence

from grpo.statistics.curves import AtK, at_k
from rewards.spelling import many

Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Ballot:
    """The vote of one completion: the answer's class (None: no answer), and whether it is right."""

    choice: Hashable | None
    right: bool


def text_classes(answers: Sequence[str | None], rights: Sequence[bool]) -> list[Ballot]:
    """Ballots by equal text."""
    return [Ballot(answer, right) for answer, right in zip(answers, rights)]


def same_answer_classes(
    answers: Sequence[str | None], rights: Sequence[bool], same: Same
) -> list[Ballot]:
    """Ballots by a symmetric relation `same` of two answers.

    All right answers are one class, since each equals the gold. Wrong ones are in one class if `same` links them,
    directly or through others, so that the order of the completions does not matter.
    """
    texts = sorted({text for text, right in zip(answers, rights) if text is not None and not right})
    leader = list(range(len(texts)))
    for later in range(len(texts)):
        for earlier in range(later):
            is_known = _root(leader, earlier) == _root(leader, later)
            if not is_known and same(texts[earlier], texts[later]):
                leader[_root(leader, later)] = _root(leader, earlier)
    class_of = {text: _root(leader, index) for index, text in enumerate(texts)}
    ballots = []
    for text, right in zip(answers, rights):
        choice: Hashable | None = None if text is None else ("wrong", class_of.get(text))
        ballots.append(Ballot("right" if right else choice, right))
    return ballots


def _root(leader: Sequence[int], index: int) -> int:
    while leader[index] != index:
        index = leader[index]
    return index


def majority_at_k(ballots: Sequence[Ballot], k: int) -> float:
    """maj@k of one prompt by its `ballots`; `ValueError` unless ``1 <= k <= len(ballots)``.

    A class that holds right and wrong completions (equal text, other verdicts) counts by its share of right ones.

    >>> majority_at_k(text_classes(["1", "1", "2"], [True, True, False]), 3)
    1.0
    """
    if not 1 <= k <= len(ballots):
        raise ValueError(
            f"maj@{k} needs at least {many(max(1, k), 'sample')}, found {len(ballots)}"
        )
    rights_of: dict[Hashable, list[bool]] = defaultdict(list)
    num_silent = 0
    for ballot in ballots:
        if ballot.choice is None:
            num_silent += 1
        else:
            rights_of[ballot.choice].append(ballot.right)
    sizes = {choice: len(rights) for choice, rights in rights_of.items()}
    chances = 0.0
    for choice, rights in rights_of.items():
        if any(rights):
            others = [size for other, size in sizes.items() if other != choice]
            wins = _ways_to_win(len(rights), others, num_silent, k)
            chances += wins * sum(rights) / len(rights)
    return chances / math.comb(len(ballots), k)


def _ways_to_win(size: int, others: Sequence[int], num_silent: int, k: int) -> float:
    """How many of the k-subsets a class of `size` wins against `others`; a tie counts by the class's chance in it."""
    total = 0.0
    for votes in range(1, min(size, k) + 1):
        rivals = [other for other in others if other >= votes]
        harmless = num_silent + sum(others) - sum(rivals)  # too few to reach `votes`
        own = math.comb(size, votes)
        for (taken, tied), ways in _ways_to_lose(rivals, votes, k - votes).items():
            rest = math.comb(harmless, k - votes - taken)
            total += own * ways * rest / (1 + tied)
    return total


def _ways_to_lose(sizes: Sequence[int], votes: int, most: int) -> dict[tuple[int, int], int]:
    """{(completions taken, classes with exactly `votes`): ways}: at most `votes` of each class, `most` in all."""
    ways: dict[tuple[int, int], int] = {(0, 0): 1}
    for size in sizes:
        extended: dict[tuple[int, int], int] = defaultdict(int)
        for (taken, tied), number in ways.items():
            for more in range(min(size, votes, most - taken) + 1):
                state = (taken + more, tied + (more == votes))
                extended[state] += number * math.comb(size, more)
        ways = extended
    return ways


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself; nothing for 0.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    powers = {2**exponent for exponent in range(most.bit_length())}
    return sorted(power for power in powers | {most} if 1 <= power <= most)


def majority_curve(
    prompts: Sequence[Sequence[Ballot]], sizes: Iterable[int] | None = None
) -> list[AtK]:
    """maj@k over prompts at every k of `sizes` that a prompt can answer; by default powers of two and the largest."""
    most = max(map(len, prompts), default=0)
    points = []
    for k in sizes or powers_of_two(most):
        able = [ballots for ballots in prompts if len(ballots) >= k]
        if able:
            values = [majority_at_k(ballots, k) for ballots in able]
            points.append(at_k(k, values, [len(ballots) for ballots in able]))
    return points
