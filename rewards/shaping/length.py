"""Rewards that shape how long completions grow. Lengths are counts of tokens, the stop token included.

``num_tokens`` comes with every sampled completion; on the command line it is a column of the row.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Mapping, Sequence

from rewards.calling import judge
from rewards.conventions import Convention, convention_of, fault
from rewards.spelling import agree, many
from rewards.table import load
from rewards.types import Sample, Score

__all__ = ["cosine", "kimi_length", "soft_overlong"]


def soft_overlong(text: str, num_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """0 for short completions, falling to -1 over the last ``cache_tokens`` before ``max_tokens``.

    DAPO, equation 13 (arXiv:2503.14476), which used ``max_tokens`` 20480 and ``cache_tokens`` 4096. Meant to be
    added to a correctness reward. Never below -1, not even past ``max_tokens``.
    >>> [soft_overlong("", n, max_tokens=100, cache_tokens=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 0 < cache_tokens <= max_tokens:
        raise ValueError(
            f"soft_overlong: cache_tokens is {cache_tokens}; it must lie in 1..max_tokens ({max_tokens})"
        )
    return min(0.0, max(-1.0, (max_tokens - cache_tokens - num_tokens) / cache_tokens))


def cosine(
    text: str,
    num_tokens: int,
    max_tokens: int,
    correct_by: str = "math_answer",
    correct: tuple[float, float] = (2.0, 1.0),
    wrong: tuple[float, float] = (-10.0, 0.0),
    exceeding: float = -10.0,
    prompt_text: str = "",
    **columns: Any,
) -> Score:
    """Short correct completions are worth more than long ones; wrong ones cost less the longer they are.

    The cosine reward of "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, section 4.2), with the
    values of its authors' script for that section (github.com/eddycmu/demystify-long-cot): ``correct`` and ``wrong``
    are the rewards at length 0 and at ``max_tokens``, interpolated by half a cosine; a completion of
    ``max_tokens`` or more is worth ``exceeding``. The reward ``correct_by`` judges what is correct, so this
    replaces that reward and is not added to it. The authors add a penalty on repetition, here `repetition`.
    """
    verdict = _verdict(correct_by, text, columns, prompt_text)
    if verdict.value is None:
        return verdict
    if num_tokens >= max_tokens:
        detail = (
            f"{many(num_tokens, 'token')} {agree(num_tokens, 'reach')} the limit of {max_tokens}"
        )
        return Score(float(exceeding), detail=detail)
    at_zero, at_limit = correct if verdict.value >= 1 else wrong
    weight = 0.5 * (1 + math.cos(math.pi * num_tokens / max_tokens))
    value = at_limit + (at_zero - at_limit) * weight
    return Score(value, detail=verdict.detail, extracted=verdict.extracted)


def kimi_length(
    texts: list[str],
    num_tokens: list[int],
    groups: list[str],
    correct_by: str = "math_answer",
    prompt_texts: Sequence[str] | None = None,
    **columns: list[Any],
) -> list[Score]:
    """From 0.5 for the shortest completion of a group to -0.5 for the longest; a wrong one never gains.

    Kimi k1.5 (arXiv:2501.12599, section 2.3.3): with lambda = 0.5 - (length - shortest) / (longest - shortest) a
    correct completion gets lambda, a wrong one min(0, lambda); all 0 if the lengths are equal. Meant to be added,
    with a small weight, to the reward ``correct_by``, which here only decides what is correct.
    """
    verdicts = []
    for index, text in enumerate(texts):
        row = {name: values[index] for name, values in columns.items()}
        shown = prompt_texts[index] if prompt_texts else ""
        verdicts.append(_verdict(correct_by, text, row, shown))
    spans: dict[str, tuple[int, int]] = {}
    for group, length in zip(groups, num_tokens):
        shortest, longest = spans.get(group, (length, length))
        spans[group] = (min(shortest, length), max(longest, length))
    scores = []
    for verdict, group, length in zip(verdicts, groups, num_tokens):
        if verdict.value is None:
            scores.append(verdict)
        else:
            scores.append(Score(_kimi_value(length, spans[group], verdict.value >= 1)))
    return scores


def _kimi_value(length: int, span: tuple[int, int], is_correct: bool) -> float:
    shortest, longest = span
    if shortest == longest:
        return 0.0
    value = 0.5 - (length - shortest) / (longest - shortest)
    return value if is_correct else min(0.0, value)


@functools.cache
def _judge_named(use: str) -> tuple[Convention, Any]:
    function = load(use)
    return convention_of(function), function


def _verdict(correct_by: str, text: str, columns: Mapping[str, Any], prompt_text: str) -> Score:
    """The score that the reward ``correct_by`` gives the completion."""
    convention, function = _judge_named(correct_by)
    missing = convention.missing(columns)
    if missing:
        return fault(f"{correct_by} wants the column {missing[0]}")
    scores: list[Score] = []

    def emit(index: int, score: Score, seconds: float) -> None:
        scores.append(score)

    judge(convention, function, [Sample(text, columns, prompt_text)], args={}, emit=emit)
    return scores[0]
