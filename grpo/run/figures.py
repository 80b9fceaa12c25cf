"""The figures of one evaluation set as plain values: accuracy, pass@k, maj@k, rates, each with its interval.

From scored groups alone, whoever sampled them: one call of `figures` for each set and each reading of the rewards
(strict, lenient).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Callable, Iterable, Sequence

import rewards
from grpo.run.accuracy import is_right, mean, num_faults, passes_of, scored_of
from grpo.statistics.curves import AtK, pass_curve
from grpo.statistics.intervals import Interval, fixed_prompts_interval, share_interval
from grpo.statistics.votes import Ballot, Same, majority_curve, same_answer_classes, text_classes
from grpo.types import ScoredGroup
from rewards import RewardSpec
from rewards.math_answer import math_answer
from rewards.mathematics.equality import equal

PLAIN = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


def figures(
    groups: Sequence[ScoredGroup],
    reward: str,
    same: Same | None = None,
    *,
    threshold: float = 1.0,
) -> dict[str, Any]:
    """The figures of scored groups by the part `reward`, of which `threshold` or more means right.

    ``accuracy`` (avg@k, the mean over prompts of each one's share of right completions) with ``low`` and ``high`` for
    new prompts and ``these_prompts``, the interval for these very ones; ``samples`` scored and ``faults`` not;
    ``no_answer`` and ``fault``, shares of the scored and of all completions; ``pass_at`` and ``maj_at`` by k. `same`
    says when two answers are one vote (`grpo.statistics.votes`); ``maj_at`` is None where `reward` extracts no answer.
    """
    passes = list(filter(None, (passes_of(group, reward, threshold) for group in groups)))
    shares = [mean(values) for values in passes]
    num_scored = sum(map(len, passes))
    num_all = sum(len(group.completions) for group in groups)
    per_prompt = num_scored / max(1, len(passes))
    accuracy = share_interval(shares, per_prompt)
    fixed = fixed_prompts_interval(shares, max(1, int(per_prompt)))
    scores = [score for group in groups for score in scored_of(group, reward)]
    faults = num_faults(groups, reward)
    counts = [(len(values), int(sum(values))) for values in passes]
    return {
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "these_prompts": {"low": fixed.low, "high": fixed.high},
        "samples": num_scored,
        "faults": faults,
        "no_answer": mean(score.status == "no_answer" for score in scores),
        "fault": faults / num_all if num_all else 0.0,
        "pass_at": _by_k(pass_curve(counts)),
        "maj_at": _majorities(groups, reward, same, threshold),
    }


def _majorities(
    groups: Sequence[ScoredGroup], reward: str, same: Same | None, threshold: float
) -> dict[str, Any] | None:
    ballots = [ballots_of(group, reward, same, threshold) for group in groups]
    ballots = [found for found in ballots if found]
    if not any(ballot.choice is not None for found in ballots for ballot in found):
        return None
    return _by_k(majority_curve(ballots))


def ballots_of(
    group: ScoredGroup, reward: str, same: Same | None, threshold: float = 1.0
) -> list[Ballot]:
    """The votes of the completions that were scored, for the answers that `reward` extracted."""
    scores = scored_of(group, reward)
    answers = [score.extracted for score in scores]
    rights = [is_right(score, threshold) for score in scores]
    return (
        text_classes(answers, rights)
        if same is None
        else same_answer_classes(answers, rights, same)
    )


def same_answer(specs: Iterable[RewardSpec], reward: str) -> Same | None:
    """When two answers that `reward` extracts are one: equal mathematics for ``math_answer``; None: equal text."""
    functions: list[Callable[..., Any]] = [
        rewards.load(spec.use) for spec in specs if spec.name == reward
    ]
    return same_mathematics if math_answer in functions else None


def same_mathematics(first: str, second: str) -> bool:
    """Whether two answers are equal by the strict rules, either taken for the gold."""
    if PLAIN.fullmatch(first) and PLAIN.fullmatch(second):
        return Fraction(first) == Fraction(second)
    if equal(first, second).equal is True:
        return True
    is_mixed = ("." in first) != ("." in second)  # the rules for a decimal and an exact gold differ
    return is_mixed and equal(second, first).equal is True


def _by_k(points: Sequence[AtK]) -> dict[str, Any]:
    return {
        str(point.k): {**interval_values(point.estimate), "prompts": point.prompts}
        for point in points
    }


def interval_values(interval: Interval) -> dict[str, float]:
    """``{"value": ..., "low": ..., "high": ...}``."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}
