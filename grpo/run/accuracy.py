"""The statistics of scored groups: held-out accuracy with its interval, and the means of rewards.

Nothing is sampled or scored here; ``grpo.evaluate`` does that.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

import numpy

from grpo.types import ScoredGroup

NUM_RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Held-out accuracy with its 95 % bootstrap interval over prompts, and what else was measured.

    ``samples`` completions were scored, ``faults`` could not be. ``length`` is the mean number of tokens and
    ``truncated`` the share of completions that were cut off. ``details`` holds means by name: each reward and the
    numbers it reports. ``seconds`` is the time spent sampling.
    """

    accuracy: float
    low: float
    high: float
    samples: int
    prompts: int
    faults: int
    length: float
    truncated: float
    details: Mapping[str, float]
    tokens: int
    seconds: float
    reward_mean: float = float("nan")
    reward_low: float = float("nan")
    reward_high: float = float("nan")
    groups: Sequence[ScoredGroup] = ()
    reward: str = ""
    threshold: float = 1.0

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.prompts} prompts, "
            f"{self.samples} completions scored)"
        )

    def figures(self) -> dict[str, float]:
        """What is worth plotting of it, by key."""
        return {
            "accuracy": self.accuracy,
            "low": self.low,
            "high": self.high,
            "reward": self.reward_mean,
            "reward_low": self.reward_low,
            "reward_high": self.reward_high,
            "length": self.length,
            "truncated": self.truncated,
            "faults": self.faults,
        }

    def by_source(self) -> dict[str, dict[str, float]]:
        """The figures of each source that its prompts come from, by name; "" where there is only one."""
        groups_of: dict[str, list[ScoredGroup]] = defaultdict(list)
        for group in self.groups:
            groups_of[group.prompt.source].append(group)
        if len(groups_of) < 2:
            return {}
        return {
            source: summarise(groups, self.reward, 0, 0.0, threshold=self.threshold).figures()
            for source, groups in groups_of.items()
        }

    def stuck(self) -> str:
        """Why accuracy may never move though the reward does, in a sentence; empty where it may.

        That is so where no completion reached the threshold, though the reward took several values below it.
        """
        values = set(_values(self.groups, self.reward))
        if len(values) < 3 or max(values) >= self.threshold:
            return ""
        return (
            f"no completion reached {self.threshold:g} by {self.reward} (the best {max(values):.3g}), which "
            f"took {len(values)} values: accuracy stays 0 while the reward moves; set evaluate.threshold to "
            f"what counts as right, or watch the mean reward ({self.reward_mean:.3g})"
        )

    def to_mapping(self) -> dict[str, Any]:
        """Everything but the completions, as plain values."""
        names = [name for name in self.__slots__ if name not in ("groups", "details")]
        values = {name: getattr(self, name) for name in names}
        return {**values, "details": dict(self.details)}


def summarise(
    groups: Sequence[ScoredGroup],
    reward: str,
    tokens: int,
    seconds: float,
    *,
    threshold: float = 1.0,
) -> Evaluation:
    """The evaluation of scored groups; a completion is accurate if `reward` gave it `threshold` or more."""
    passes = [_passes(group, reward, threshold) for group in groups]
    accuracy, low, high = bootstrap([values for values in passes if values])
    rewards = [_rewards(group) for group in groups]
    reward_mean, reward_low, reward_high = bootstrap([values for values in rewards if values])
    completions = [completion for group in groups for completion in group.completions]
    num_scored = sum(map(len, passes))
    return Evaluation(
        accuracy=accuracy,
        low=low,
        high=high,
        samples=num_scored,
        prompts=len(groups),
        faults=len(completions) - num_scored,
        length=mean(len(completion.token_ids) for completion in completions),
        truncated=mean(completion.truncated for completion in completions),
        details=part_means(groups),
        tokens=tokens,
        seconds=seconds,
        reward_mean=reward_mean,
        reward_low=reward_low,
        reward_high=reward_high,
        groups=groups,
        reward=reward,
        threshold=threshold,
    )


def _rewards(group: ScoredGroup) -> list[float]:
    return [score.value for score in group.scores if score.value is not None]


def _values(groups: Sequence[ScoredGroup], reward: str) -> list[float]:
    """The values that `reward` gave."""
    scores = [verdict.get(reward) for group in groups for verdict in group.verdicts]
    return [score.value for score in scores if score is not None and score.value is not None]


def _passes(group: ScoredGroup, reward: str, threshold: float) -> list[float]:
    """1 or 0 for each completion that `reward` scored."""
    scores = [verdict.get(reward) for verdict in group.verdicts]
    values = [score.value for score in scores if score is not None and score.value is not None]
    return [float(value >= threshold) for value in values]


def part_means(groups: Iterable[ScoredGroup]) -> dict[str, float]:
    """``{reward: mean value, "reward/number": mean of a number it reports}`` over the completions it scored."""
    values_of: dict[str, list[float]] = defaultdict(list)
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    for verdict in verdicts:
        for name, score in verdict.items():
            if score.value is None:
                continue
            values_of[name].append(score.value)
            for part, value in score.parts.items():
                if value is not None:
                    values_of[f"{name}/{part}"].append(value)
    return {name: mean(values) for name, values in values_of.items()}


def bootstrap(values: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the mean over prompts of each prompt's mean, resampling prompts; NaN of nothing."""
    means = numpy.array([numpy.mean(row) for row in values])
    if not len(means):
        return float("nan"), float("nan"), float("nan")
    generator = numpy.random.Generator(numpy.random.PCG64(0))
    resampled = []
    for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
        chosen = generator.integers(0, len(means), (RESAMPLES_AT_ONCE, len(means)))
        resampled.append(means[chosen].mean(1))
    tail = (1 - level) / 2
    low, high = numpy.quantile(numpy.concatenate(resampled), [tail, (1 + level) / 2])
    return float(means.mean()), float(low), float(high)


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else float("nan")
