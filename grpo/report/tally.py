"""What is added up over the completions of a run: lengths of right and wrong ones, words, each prompt's results."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Mapping

from grpo.report.samples import TRAINING, Sample
from grpo.report.words import counted


@dataclass(slots=True)
class Sums:
    """Of some completions: how many, their tokens, and the same of the right and of the wrong ones.

    ``words`` counts each word of reflection; ``reflecting`` completions have one or more, ``reflecting_right`` of them
    are right, out of ``reflecting_judged`` that were judged.
    """

    completions: int = 0
    tokens: int = 0
    right: int = 0
    right_tokens: int = 0
    wrong: int = 0
    wrong_tokens: int = 0
    words: Counter[str] = field(default_factory=Counter)
    reflecting: int = 0
    reflecting_judged: int = 0
    reflecting_right: int = 0

    def add(self, sample: Sample) -> None:
        """Count one completion."""
        self.completions += 1
        self.tokens += sample.num_tokens
        if sample.right is True:
            self.right += 1
            self.right_tokens += sample.num_tokens
        elif sample.right is False:
            self.wrong += 1
            self.wrong_tokens += sample.num_tokens
        words = counted(sample.completion)
        if words:
            self.words.update(words)
            self.reflecting += 1
            self.reflecting_judged += sample.right is not None
            self.reflecting_right += sample.right is True

    def right_length(self) -> float | None:
        """Mean tokens of the right completions; None without one."""
        return self.right_tokens / self.right if self.right else None

    def wrong_length(self) -> float | None:
        """Mean tokens of the wrong completions; None without one."""
        return self.wrong_tokens / self.wrong if self.wrong else None

    def rate(self, *words: str) -> float | None:
        """How often `words` (all, if none is given) stand in a thousand tokens; None without tokens."""
        number = sum(self.words[word] for word in words) if words else self.words.total()
        return 1000 * number / self.tokens if self.tokens else None


@dataclass(slots=True)
class Results:
    """Of each prompt of one evaluation: which judged completions were right, and the rewards."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    rewards: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sample: Sample) -> None:
        if sample.right is not None:
            self.right[sample.prompt_id].append(sample.right)
        if sample.reward is not None:
            self.rewards[sample.prompt_id].append(sample.reward)


@dataclass(slots=True)
class Tally:
    """Sums by step of training, and by set and step of evaluations, whose ``results`` are kept by prompt."""

    steps: dict[int, Sums] = field(default_factory=lambda: defaultdict(Sums))
    sets: dict[tuple[str, int], Sums] = field(default_factory=lambda: defaultdict(Sums))
    results: dict[tuple[str, int], Results] = field(default_factory=lambda: defaultdict(Results))

    def add(self, sample: Sample) -> None:
        """Count one completion where it belongs."""
        if sample.set == TRAINING:
            self.steps[sample.step].add(sample)
            return
        self.sets[sample.set, sample.step].add(sample)
        self.results[sample.set, sample.step].add(sample)

    def of_set(self, name: str) -> dict[int, Sums]:
        """The sums of a set's evaluations by step, in order."""
        steps = sorted(step for known, step in self.sets if known == name)
        return {step: self.sets[name, step] for step in steps}


def prompt_means(values: Mapping[str, list[float]] | Mapping[str, list[bool]]) -> dict[str, float]:
    """Each prompt's mean."""
    return {prompt: sum(of_prompt) / len(of_prompt) for prompt, of_prompt in values.items()}
