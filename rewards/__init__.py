"""Rewards: what a completion is worth. Knows nothing of training, torch or transformers.

A reward judges one completion: ``def reward(text: str, **columns) -> float | bool | None | Score``.
``text`` is what the policy wrote; the other parameters are the data set's columns it wants.
Judging many completions in killable worker processes is ``rewards.service``; the calling conventions of other
trainers are ``rewards.conventions``.
"""

from rewards.table import (
    TABLE,
    default_timeout_seconds,
    load,
    missing_columns,
    timeout_seconds_of,
    wanted_columns,
)
from rewards.types import STATUSES, RewardSpec, Sample, Score

__all__ = [
    "RewardSpec",
    "STATUSES",
    "Sample",
    "Score",
    "TABLE",
    "default_timeout_seconds",
    "load",
    "missing_columns",
    "timeout_seconds_of",
    "wanted_columns",
]
