"""The reward ``environment``: what a completion's turns were worth, by the environment itself."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

from rewards.conventions import fault
from rewards.types import Score

__all__ = ["environment"]

CUT_OFF = ("length", "context")


def environment(
    text: str, turns: Sequence[Mapping[str, Any]] = (), finish: str | None = None
) -> Score:
    """The sum of the rewards of the turns; ``parts`` are summed by name.

    A turn without a reward adds nothing. Where no turn has one, a completion that was cut off has no answer, 0; of
    others the environment has given none, and that is a fault.
    >>> environment("", [{"reward": 0.5}, {"reward": None}, {"reward": 1.0}]).value
    1.5
    """
    given = [turn["reward"] for turn in turns if turn.get("reward") is not None]
    if not given and finish in CUT_OFF:
        return Score(0.0, status="no_answer", detail="cut off before a turn was given a reward")
    if not given:
        return fault("environment: no turn of the completion was given a reward")
    parts: dict[str, float | None] = {}
    for turn in turns:
        for name, part in (turn.get("parts") or {}).items():
            parts[name] = (parts.get(name) or 0.0) + (part or 0.0)
    return Score(math.fsum(given), parts=parts)
