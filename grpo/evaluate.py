"""Held-out evaluation: accuracy over k samples a prompt, with an interval over prompts that never train.

The same prompts, seeds and temperature serve every evaluation of a run, so that before and after differ
by the weights alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy

from grpo.judge import Judge
from grpo.rollout.engine import Engine
from grpo.rollout.sampler import Sampling
from grpo.types import Prompt, ScoredGroup

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Accuracy with its 95 % bootstrap interval over prompts, and what else was seen.

    ``samples`` completions were scored, ``faults`` could not be. ``details`` holds means by name: each reward
    part and the numbers it reports.
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
    groups: Sequence[ScoredGroup] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Everything but the completions, as plain values."""
        names = [name for name in self.__slots__ if name not in ("groups", "details")]
        return {**{name: getattr(self, name) for name in names}, "details": dict(self.details)}


def evaluate(engine: Engine, judge: Judge, prompts: Sequence[Prompt], *, samples: int, max_tokens: int,
             sampling: Sampling, seed: int, reward: str,
             interrupted: Callable[[], bool] = lambda: False) -> Evaluation | None:
    """Sample and judge `samples` completions of each prompt; None if interrupted before the end.

    A completion is accurate if the part `reward` gave it its full score, 1.
    """
    pending = [(place, judge.submit(group)) for place, group in engine.sample(
        prompts, group_size=samples, max_tokens=max_tokens, sampling=sampling, seed=("evaluate", seed),
        interrupted=interrupted)]
    if interrupted():
        return None
    groups = [p.result() for _, p in sorted(pending, key=lambda item: item[0])]
    return summarise(groups, reward, engine.stats.tokens, engine.stats.seconds)


def summarise(groups: Sequence[ScoredGroup], reward: str, tokens: int, seconds: float) -> Evaluation:
    """The evaluation that scored groups amount to."""
    right = [[float(value >= 1.0) for value in _values(group, reward)] for group in groups]
    accuracy, low, high = bootstrap([values for values in right if values])
    completions = [completion for group in groups for completion in group.completions]
    scored = sum(map(len, right))
    return Evaluation(
        accuracy=accuracy, low=low, high=high, samples=scored, prompts=len(groups), faults=len(completions) - scored,
        length=mean(len(c.token_ids) for c in completions), truncated=mean(c.truncated for c in completions),
        details=part_means(groups), tokens=tokens, seconds=seconds, groups=groups)


def _values(group: ScoredGroup, reward: str) -> list[float]:
    parts = [verdict.get(reward) for verdict in group.verdicts]
    return [part.value for part in parts if part is not None and part.value is not None]


def part_means(groups: Iterable[ScoredGroup]) -> dict[str, float]:
    """``{reward: mean value, "reward/number": mean of a number it reports}`` over the completions it judged."""
    found: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for verdict in group.verdicts:
            for name, score in verdict.items():
                if score.value is not None:
                    found[name].append(score.value)
                    for inner, value in score.parts.items():
                        if value is not None:
                            found[f"{name}/{inner}"].append(value)
    return {name: mean(values) for name, values in found.items()}


def bootstrap(values: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the mean over prompts of each prompt's mean, resampling prompts."""
    means = numpy.array([numpy.mean(row) for row in values])
    if not len(means):
        return float("nan"), float("nan"), float("nan")
    generator = numpy.random.Generator(numpy.random.PCG64(0))
    drawn = numpy.concatenate([means[generator.integers(0, len(means), (100, len(means)))].mean(1)
                               for _ in range(RESAMPLES // 100)])
    low, high = numpy.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(means.mean()), float(low), float(high)


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    values = [float(value) for value in values]
    return sum(values) / len(values) if values else float("nan")
