"""Which prompts a step samples and which of its groups are trained: pass rates, refilling, over-sampling.

The history of pass rates is part of the checkpoint, so that a resumed run draws the prompts it would have drawn.
Groups that are sampled but not trained appear in the ledger and in the costs like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from grpo.data.stream import Stream
from grpo.recipe import RecipeError
from grpo.types import Prompt, ScoredGroup


@dataclass(slots=True)
class PassRate:
    """How often a prompt was solved: over all its samples, and the share (``last``) and epoch of the last ones."""

    passed: int = 0
    sampled: int = 0
    last: float = 0.0
    epoch: int = 0

    @property
    def overall(self) -> float:
        """The share over all samples; before any the last one, which another run has measured."""
        return self.passed / self.sampled if self.sampled else self.last

    def add(self, passes: Sequence[int], epoch: int) -> None:
        """Add samples of `epoch`, 1 for each that passed and 0 for each that did not."""
        self.passed += sum(passes)
        self.sampled += len(passes)
        self.last = sum(passes) / len(passes)
        self.epoch = epoch


class Curriculum:
    """Draws prompts from a stream by their pass rates, and chooses which groups of a step are trained.

    A prompt whose pass rate over all its samples reached ``retire_at`` is never drawn again (ScaleRL, arXiv
    2510.13786); one that was outside [``low``, ``high``] when last sampled waits ``again`` epochs. A sample passes
    if the reward `accurate` gave it `threshold` or more.
    """

    def __init__(
        self,
        stream: Stream,
        accurate: str,
        *,
        flat: str = "keep",
        flat_by: str = "score",
        mask_truncated: bool = False,
        retire_at: float = 0.0,
        threshold: float = 1.0,
        low: float = 0.0,
        high: float = 1.0,
        again: int = 3,
    ):
        self.stream = stream
        self.accurate = accurate
        self.flat = flat
        self.flat_by = flat_by
        self.mask_truncated = mask_truncated
        self.retire_at = retire_at
        self.threshold = threshold
        self.low = low
        self.high = high
        self.again = again
        self.history: dict[str, PassRate] = {}

    def begin_with(self, column: str) -> None:
        """Take the pass rates that rows have in `column` for those of the last sampling; a row without one has none.

        Raises `RecipeError` if no row has one, or one is no share.
        """
        for prompt in self.stream.prompts:
            rate = prompt.truth.get(column)
            if rate is None:
                continue
            is_share = isinstance(rate, (int, float)) and 0 <= rate <= 1
            if not is_share:
                raise RecipeError(
                    f"data: {prompt.id} has {rate!r} in the column {column}, which data.pass_column names; a pass rate "
                    "lies between 0 and 1"
                )
            epoch = self.stream.epoch_of(prompt)
            self.history[prompt.id] = PassRate(last=float(rate), epoch=epoch)
        if not self.history:
            raise RecipeError(
                f"recipe: data.pass_column names {column}, and no row has a value there; grpo reject writes the column "
                "pass_rate"
            )

    def take(self, number: int, without: Sequence[ScoredGroup] = ()) -> list[Prompt]:
        """At most `number` prompts that may be sampled now, none of those in `without`.

        Raises `RecipeError` if no prompt is left.
        """
        excluded = {group.prompt.id for group in without}
        num_available = len(self.stream.prompts) - len(excluded)
        room = min(number, num_available)
        prompts = self.stream.take(room, self.admits, excluded) if room > 0 else []
        if not prompts and not excluded:
            raise RecipeError(
                f"data: no prompt is left to train on: of {len(self.stream.prompts)}, {self.num_retired} "
                "have retired and the others wait; raise advantage.retire_at, or widen data.pass_low to "
                "data.pass_high"
            )
        return prompts

    def admits(self, prompt: Prompt) -> bool:
        """Whether a prompt's pass rate lets it be sampled in this epoch."""
        rate = self.history.get(prompt.id)
        if rate is None:
            return True
        if self.retire_at and rate.overall >= self.retire_at:
            return False
        has_waited = self.stream.epoch_of(prompt) - rate.epoch > self.again
        return has_waited or self.low <= rate.last <= self.high

    def learn(self, groups: Sequence[ScoredGroup]) -> None:
        """Add the outcomes of a step's groups to the pass rates of their prompts."""
        for group in groups:
            passes = accuracies(group, self.accurate, self.threshold)
            if passes:
                rate = self.history.setdefault(group.prompt.id, PassRate())
                rate.add(passes, self.stream.epoch_of(group.prompt))

    def choose(self, groups: Sequence[ScoredGroup], wanted: int) -> tuple[dict[int, str], int]:
        """(outcome of each group that is not trained, by its index; how many groups are still missing).

        The first `wanted` groups whose scores spread are trained, in the order they were drawn; further ones count
        as cancelled.
        """
        if self.flat == "keep":
            return {}, 0
        spread = [g for g, group in enumerate(groups) if self.teaches(group)]
        outcomes = {g: "flat" for g in range(len(groups)) if g not in spread}
        outcomes |= {g: "cancelled" for g in spread[wanted:]}
        return outcomes, max(0, wanted - len(spread))

    def teaches(self, group: ScoredGroup) -> bool:
        """Whether a group's scores that count spread, and its accuracies too if ``flat_by`` asks for that."""
        if group.is_flat(self.mask_truncated):
            return False
        return (
            self.flat_by == "score"
            or len(set(accuracies(group, self.accurate, self.threshold))) > 1
        )

    @property
    def num_retired(self) -> int:
        """How many prompts are never drawn again."""
        if not self.retire_at:
            return 0
        return sum(rate.overall >= self.retire_at for rate in self.history.values())

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            name: [rate.passed, rate.sampled, rate.last, rate.epoch]
            for name, rate in self.history.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history = {name: PassRate(*values) for name, values in state.items()}


def accuracies(group: ScoredGroup, reward: str, threshold: float = 1.0) -> list[int]:
    """1 or 0 for each completion that `reward` judged: whether it got `threshold` or more."""
    scores = [verdict.get(reward) for verdict in group.verdicts]
    values = [score.value for score in scores if score is not None]
    return [int(value >= threshold) for value in values if value is not None]
