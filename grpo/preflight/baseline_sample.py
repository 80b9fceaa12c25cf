"""What a sample of the untrained policy's completions came to."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.types import ScoredGroup
from rewards import Score


@dataclass(frozen=True, slots=True)
class BaselineSample:
    """A sample of the untrained policy's completions: shares of them, seconds for all, mean ``length`` in tokens.

    ``stuck`` says why its accuracy cannot move, if it cannot; ``cores`` is how many computed at once, in the mean.
    """

    groups: tuple[ScoredGroup, ...]
    pass_rate: float
    truncated: float
    flat: float
    length: float
    sample_seconds: float
    judge_seconds: float
    update_seconds: float
    stuck: str = ""
    cores: float = 1.0

    @property
    def num_completions(self) -> int:
        return sum(len(group.completions) for group in self.groups)

    def scores(self) -> list[Score]:
        """The combined scores of all completions."""
        scores: list[Score] = []
        for group in self.groups:
            scores += group.scores
        return scores
