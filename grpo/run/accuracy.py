"""What scored groups come to: held-out accuracy and mean reward with their intervals, and the means of rewards.

Nothing is sampled or scored here; ``grpo.evaluate`` does that. The intervals are those of ``grpo.statistics``; pass@k,
maj@k and the other figures of a whole evaluation are in ``figures``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

from grpo.notebook.cards import evaluation_card
from grpo.statistics.intervals import mean_interval, share_interval
from grpo.types import ScoredGroup
from rewards import RewardSpec, Score
from rewards.spelling import many

UNIT_REWARDS = (
    "math_answer",
    "arithmetic",
    "countdown",
    "countdown_format",
    "knights_and_knaves",
    "think_format",
)
"""Built-in rewards whose values are 0 or 1, whatever their arguments."""


METRICS = (
    "accuracy",
    "low",
    "high",
    "reward",
    "reward_low",
    "reward_high",
    "length",
    "truncated",
    "no_answer",
    "faults",
)
"""What of an evaluation goes into ``metrics.jsonl`` and to trackers."""
NOT_PLAIN = ("groups", "details", "accurate", "threshold")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Held-out accuracy with its 95 % interval for new prompts, and what else was measured.

    ``samples`` completions of ``rated`` of the ``prompts`` were scored, ``per_prompt`` of each were sampled, ``faults``
    could not be scored; a reward may apply to the rows of one source alone. ``length`` is the mean number of tokens and
    ``truncated`` the share of completions that were cut off, ``no_answer`` of the scored ones the share without an
    answer. ``reward`` is the mean of the whole weighted reward, with its interval. ``details`` holds means by name:
    each reward and the numbers it reports. ``seconds`` is the time spent sampling.
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
    no_answer: float = math.nan
    reward: float = math.nan
    reward_low: float = math.nan
    reward_high: float = math.nan
    rated: int = 0
    per_prompt: int = 0
    groups: Sequence[ScoredGroup] = ()
    accurate: str = ""
    threshold: float = 1.0

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] of {many(self.prompts, 'prompt')}, "
            f"{many(self.samples, 'completion')} scored)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: accuracy with its interval, by source where there are several, and the rest."""
        accurate = self.accurate
        if accurate and self.threshold != 1:
            accurate = f"{accurate}, {self.threshold:g} or more"
        return evaluation_card(self.to_mapping(), accurate, self.by_source())

    def metrics(self) -> dict[str, float]:
        """What is worth plotting of it, by key."""
        return {name: getattr(self, name) for name in METRICS}

    def by_source(self) -> dict[str, dict[str, float]]:
        """The metrics of each source that its prompts come from, by name; none where there is only one."""
        groups_of: dict[str, list[ScoredGroup]] = defaultdict(list)
        for group in self.groups:
            groups_of[group.prompt.source].append(group)
        if len(groups_of) < 2:
            return {}
        return {
            source: summarise(groups, self.accurate, 0, 0.0, threshold=self.threshold).metrics()
            for source, groups in groups_of.items()
        }

    def stuck(self) -> str:
        """Why accuracy may never move though the reward does, in a sentence; empty where it may.

        That is so where no completion reached the threshold, though the reward took several values below it.
        """
        scores = [score for group in self.groups for score in scored_of(group, self.accurate)]
        values = {score.value for score in scores if score.value is not None}
        if len(values) < 3 or max(values) >= self.threshold:
            return ""
        return (
            f"no completion reached {self.threshold:g} by {self.accurate} (the best {max(values):.3g}), which "
            f"took {len(values)} values: accuracy stays 0 while the reward moves; set evaluate.threshold to "
            f"what counts as right, or watch the mean reward ({self.reward:.3g})"
        )

    def to_mapping(self) -> dict[str, Any]:
        """Everything but the completions, as plain values."""
        names = [name for name in self.__slots__ if name not in NOT_PLAIN]
        values = {name: getattr(self, name) for name in names}
        return {**values, "details": dict(self.details)}


def summarise(
    groups: Sequence[ScoredGroup],
    reward: str,
    tokens: int,
    seconds: float,
    bounds: tuple[float, float] | None = None,
    *,
    threshold: float = 1.0,
) -> Evaluation:
    """The evaluation of scored groups; a completion is accurate if `reward` gave it `threshold` or more.

    `bounds` are those of the whole reward, where they are known (`reward_bounds`).
    """
    passes = [passes_of(group, reward, threshold) for group in groups]
    num_scored = sum(map(len, passes))
    shares = [mean(values) for values in passes if values]
    per_prompt = num_scored / max(1, len(shares))
    accuracy = share_interval(shares, per_prompt)
    total = mean_interval(
        reward_means(groups), bounds=bounds, samples=per_prompt if bounds else math.inf
    )
    completions = [completion for group in groups for completion in group.completions]
    most = max((len(group.completions) for group in groups), default=0)
    return Evaluation(
        accuracy=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        samples=num_scored,
        prompts=len(groups),
        faults=num_faults(groups, reward),
        length=mean(completion.num_tokens for completion in completions),
        truncated=mean(completion.truncated for completion in completions),
        details=part_means(groups),
        tokens=tokens,
        seconds=seconds,
        no_answer=share_without_answer(groups, reward),
        reward=total.value,
        reward_low=total.low,
        reward_high=total.high,
        rated=len(shares),
        per_prompt=most,
        groups=groups,
        accurate=reward,
        threshold=threshold,
    )


def scored_of(group: ScoredGroup, reward: str) -> list[Score]:
    """The scores of the completions that `reward` could score."""
    scores = [verdict.get(reward) for verdict in group.verdicts]
    return [score for score in scores if score is not None and score.value is not None]


def num_faults(groups: Iterable[ScoredGroup], reward: str) -> int:
    """How many completions `reward` should have scored and could not; one that it does not apply to is none."""
    number = 0
    for group in groups:
        verdicts = group.verdicts or ({},) * len(group.scores)
        for verdict, score in zip(verdicts, group.scores):
            found = verdict.get(reward, score)
            number += found.value is None and found.status != "not_applicable"
    return number


def passes_of(group: ScoredGroup, reward: str, threshold: float = 1.0) -> list[float]:
    """1 or 0 for each completion that `reward` scored."""
    return [float(is_right(score, threshold)) for score in scored_of(group, reward)]


def is_right(score: Score, threshold: float = 1.0) -> bool:
    """Whether a score reaches the threshold, by default the full score."""
    return score.value is not None and score.value >= threshold


def share_without_answer(groups: Iterable[ScoredGroup], reward: str) -> float:
    """The share of the scored completions in which `reward` found no answer."""
    scores = [score for group in groups for score in scored_of(group, reward)]
    return mean(score.status == "no_answer" for score in scores)


def reward_bounds(specs: Iterable[RewardSpec]) -> tuple[float, float] | None:
    """The least and greatest possible weighted reward; None if a part is not known to be 0 or 1."""
    counted = [spec for spec in specs if spec.weight]
    if not all(isinstance(spec.use, str) and spec.use in UNIT_REWARDS for spec in counted):
        return None
    least = sum(min(0.0, spec.weight) for spec in counted)
    most = sum(max(0.0, spec.weight) for spec in counted)
    return (least, most) if least < most else None


def reward_means(groups: Iterable[ScoredGroup]) -> list[float]:
    """Each prompt's mean reward over its completions that have one; prompts without any are left out."""
    means = []
    for group in groups:
        values = [score.value for score in group.scores if score.value is not None]
        if values:
            means.append(mean(values))
    return means


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


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else float("nan")
