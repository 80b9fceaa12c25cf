"""Which prompts a step samples and which of its groups are trained: pass rates, refilling, over-sampling.

The history of pass rates is part of the checkpoint, so that a resumed run draws the prompts it would have drawn.
What is sampled and not trained is booked and charged like everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from grpo.data.prompts import PromptStream
from grpo.recipe import RecipeError
from grpo.types import Prompt, ScoredGroup


@dataclass(slots=True)
class PassRate:
    """How a prompt fared: over all its samples, and when it was last sampled."""

    passed: int = 0
    sampled: int = 0
    last: float = 0.0
    epoch: int = 0

    @property
    def overall(self) -> float:
        return self.passed / self.sampled


class Curriculum:
    """Draws prompts from a stream by what is known of them, and chooses among a step's groups.

    A prompt whose pass rate over all its samples reached ``retire_at`` is never drawn again (ScaleRL, arXiv
    2510.13786); one that lay outside [``low``, ``high``] when last sampled waits ``again`` epochs. A sample passes
    if the reward `accurate` gave it its full score, 1.
    """

    def __init__(
        self,
        stream: PromptStream,
        accurate: str,
        *,
        flat: str = "keep",
        flat_by: str = "score",
        retire_at: float = 0.0,
        low: float = 0.0,
        high: float = 1.0,
        again: int = 3,
    ):
        self.stream, self.accurate, self.flat, self.flat_by = stream, accurate, flat, flat_by
        self.retire_at, self.low, self.high, self.again = retire_at, low, high, again
        self.history: dict[str, PassRate] = {}

    def take(self, number: int, without: Sequence[ScoredGroup] = ()) -> list[Prompt]:
        """At most `number` prompts that may be sampled now, none of those in `without`."""
        known = {group.prompt.id for group in without}
        room = min(number, len(self.stream.prompts) - len(known))
        prompts = self.stream.take(room, self.admits, known) if room > 0 else []
        if not prompts and not known:
            raise RecipeError(
                f"data: no prompt is left to train on: of {len(self.stream.prompts)}, {self.num_retired} "
                "have retired and the others wait; raise advantage.retire_at, or widen data.pass_low to "
                "data.pass_high"
            )
        return prompts

    def admits(self, prompt: Prompt) -> bool:
        """Whether what is known of a prompt lets it be sampled in this epoch."""
        rate = self.history.get(prompt.id)
        if rate is None:
            return True
        if self.retire_at and rate.overall >= self.retire_at:
            return False
        return self.low <= rate.last <= self.high or self.stream.epoch - rate.epoch > self.again

    def learn(self, groups: Sequence[ScoredGroup]) -> None:
        """Add what a step's groups say of their prompts."""
        for group in groups:
            passes = accuracies(group, self.accurate)
            if passes:
                rate = self.history.setdefault(group.prompt.id, PassRate())
                rate.passed, rate.sampled = rate.passed + sum(passes), rate.sampled + len(passes)
                rate.last, rate.epoch = sum(passes) / len(passes), self.stream.epoch

    def choose(self, groups: Sequence[ScoredGroup], wanted: int) -> tuple[dict[int, str], int]:
        """(groups that are not trained with the outcome they go to, how many groups are still missing).

        The first `wanted` groups that spread are trained, in the order they were drawn; further ones were
        sampled in vain and are counted as cancelled.
        """
        if self.flat == "keep":
            return {}, 0
        teaching = [g for g, group in enumerate(groups) if self.teaches(group)]
        left_out = {g: "flat" for g in range(len(groups)) if g not in set(teaching)}
        left_out |= {g: "cancelled" for g in teaching[wanted:]}
        return left_out, max(0, wanted - len(teaching))

    def teaches(self, group: ScoredGroup) -> bool:
        """Whether a group's scores spread, and its accuracies too where ``flat_by`` asks for that."""
        return not group.flat and (
            self.flat_by == "score" or len(set(accuracies(group, self.accurate))) > 1
        )

    @property
    def num_retired(self) -> int:
        return (
            sum(rate.overall >= self.retire_at for rate in self.history.values())
            if self.retire_at
            else 0
        )

    def state(self) -> dict[str, Any]:
        return {
            name: [rate.passed, rate.sampled, rate.last, rate.epoch]
            for name, rate in self.history.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history = {name: PassRate(*values) for name, values in state.items()}


def accuracies(group: ScoredGroup, reward: str) -> list[int]:
    """1 or 0 for each completion that `reward` judged: whether it got its full score."""
    parts = [verdict.get(reward) for verdict in group.verdicts]
    return [int(part.value >= 1.0) for part in parts if part is not None and part.value is not None]
