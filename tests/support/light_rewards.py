"""Rewards that workers import in a moment: functions of a test's own file bring torch into each worker with them."""

from __future__ import annotations

import math

from rewards import Score


def by_text(text: str) -> object:
    """What its text asks for."""
    if text == "raise":
        raise RuntimeError("broken on purpose")
    return {
        "one": 1.0,
        "half": 0.5,
        "nan": math.nan,
        "inf": math.inf,
        "text": "1.0",
        "list": [1.0],
        "none": None,
        "true": True,
        "nothing": Score(0.0, status="no_answer", detail="no number"),
    }[text]


def wants(text: str, finish: str, num_tokens: int, answer: str, factor: float = 1.0) -> Score:
    """Reports what it was given."""
    return Score(
        factor * num_tokens,
        parts={"long": float(finish == "length"), "right": float(text == answer)},
    )


def reward_of_length(text: str) -> float:
    return sum(map(ord, text)) % 7 / 10


def shortness(text: str, num_tokens: int) -> float:
    return float(num_tokens < 8)


def ill(text: str) -> float:
    """Fails on every completion."""
    raise ValueError("the judge is ill")


def share_of_digits(text: str) -> float:
    """How much of a text is digits: easily learnt."""
    return sum(letter.isdigit() for letter in text) / max(1, len(text))
