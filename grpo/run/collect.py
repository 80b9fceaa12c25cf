"""Collecting the completions of a step: prompts drawn, sampled, scored, and chosen from. Nothing here updates.

It is done in the trainer's thread when the step begins, or ahead of it in another one (``lookahead``).
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Iterable, Sequence

from grpo.cost.meter import JUDGE, SAMPLE
from grpo.data.prompts import PromptSet
from grpo.environments import turns_of
from grpo.recipe import Recipe
from grpo.rollout.buffer import StepAccount
from grpo.rollout.sequence import PartialGroup
from grpo.run.lookahead import Lookahead
from grpo.run.rollouts import Rollouts
from grpo.run.setup import RunParts, sampling_of
from grpo.run.state import Progress
from grpo.types import Completion, Group, Prompt, ScoredGroup

Phase = Callable[[str], ContextManager[Any]]
"""Counts the time of a block into a phase of the run's costs."""


def uncounted(phase: str) -> ContextManager[Any]:
    """A `Phase` for what another thread does beside the run's own."""
    return nullcontext()


def ahead(collector: Collector, lookahead: Lookahead[Rollouts], account: StepAccount) -> Rollouts:
    """What a step samples in the thread of `lookahead`."""
    return collector.collect(account.step, uncounted, account, lookahead.buffer.step_of)


class Collector:
    """Collects the completions of steps, one step after the other.

    ``partial_groups`` of `progress` are those that the last step left unfinished.
    """

    def __init__(self, recipe: Recipe, parts: RunParts, prompts: PromptSet, progress: Progress):
        self.recipe = recipe
        self.parts = parts
        self.prompts = prompts
        self.progress = progress

    def collect(
        self,
        step: int,
        phase: Phase,
        account: StepAccount | None = None,
        step_of: Callable[[int], int] | None = None,
    ) -> Rollouts:
        """The step's scored groups; where flat groups are refilled, others are sampled in their place.

        What is sampled ahead is entered into its `account`, and `step_of` tells how old weights are by their version.
        """
        parts = self.parts
        sample = self.recipe.sample
        advantage = self.recipe.advantage
        unfinished = self.progress.partial_groups
        number = sample.prompts
        number += math.ceil(sample.prompts * (sample.oversample + sample.over_request))
        number -= sum(parts.ranks.gather([len(unfinished)]))
        continued = parts.ranks.gather([group.prompt.id for group in unfinished])
        rollouts = Rollouts(continued=set(continued))
        call = _Call(self, step, phase, rollouts, account=account, step_of=step_of)
        parts.scorer.set_step(step)
        for _ in range(1 + (advantage.refills if advantage.flat == "refill" else 0)):
            taken: list[Any] = [*rollouts.groups, *self.progress.partial_groups]
            prompts = parts.curriculum.take(number, taken)
            rollouts.begun += len(prompts) * sample.group_size
            rollouts.groups += call.sample_and_score(prompts)
            chosen = parts.curriculum.choose(rollouts.groups, sample.prompts)
            rollouts.left_out, number = chosen
            if not number or not prompts:
                break
        parts.curriculum.learn(rollouts.groups)
        rollouts.num_retired = parts.curriculum.num_retired
        rollouts.in_flight = self.progress.num_in_flight(self.recipe, parts.ranks)
        rollouts.logged = self._logged_metrics()
        return rollouts

    def _logged_metrics(self) -> dict[str, list[float]]:
        """What the rewards of all ranks logged in this step, by name."""
        values_of: dict[str, list[float]] = {}
        for metrics in self.parts.ranks.gather([self.parts.scorer.take_metrics()]):
            for name, values in metrics.items():
                values_of.setdefault(name, []).extend(values)
        return values_of


class _Call:
    """One step's sampling and scoring, entered into its account if it is done ahead."""

    def __init__(
        self,
        collector: Collector,
        step: int,
        phase: Phase,
        rollouts: Rollouts,
        *,
        account: StepAccount | None,
        step_of: Callable[[int], int] | None,
    ):
        self.recipe = collector.recipe
        self.parts = collector.parts
        self.templates = collector.prompts.templates
        self.progress = collector.progress
        self.step = step
        self.phase = phase
        self.rollouts = rollouts
        self.account = account
        self.step_of = step_of

    def sample_and_score(self, prompts: Sequence[Prompt]) -> list[ScoredGroup]:
        """Scored groups, continued ones first, in the order of `prompts`; one is scored while others are sampled."""
        started = time.perf_counter()
        parts = self.parts
        ranks = parts.ranks
        partial_groups = self.progress.partial_groups
        mine = list(range(len(prompts)))[ranks.rank :: ranks.world]
        order = [(0, ranks.rank, i) for i in range(len(partial_groups))] + [(1, i, 0) for i in mine]
        self._begin(prompts)
        with self.phase(SAMPLE):
            pending = []
            for index, group in self._sampled([prompts[i] for i in mine]):
                self._end(group)
                pending.append((order[index], parts.scorer.submit(group)))
        sampling_ended = time.perf_counter()
        rollouts = self.rollouts
        rollouts.sampled_by.add(parts.engine.weights)
        self.progress.partial_groups = parts.engine.partial_groups
        self._leave(self.progress.partial_groups)
        rollouts.notes += parts.engine.stats.notes
        with self.phase(JUDGE):
            scored = ranks.gather([(position, group.result()) for position, group in pending])
        rollouts.seconds["sample"] += sampling_ended - started
        rollouts.seconds["judge"] += time.perf_counter() - sampling_ended
        return [group for _, group in sorted(scored, key=lambda item: item[0])]

    def _sampled(self, prompts: Sequence[Prompt]) -> Iterable[tuple[int, Group]]:
        parts = self.parts
        sample = self.recipe.sample
        my_share = len(range(sample.prompts)[parts.ranks.rank :: parts.ranks.world])
        account = self.account
        return parts.engine.sample(
            prompts,
            group_size=sample.group_size,
            max_tokens=sample.max_tokens_at(self.step),
            sampling=sampling_of(sample),
            seed=("train", self.recipe.seed, self.step),
            enough=my_share if sample.over_request else None,
            partial_groups=self.progress.partial_groups,
            turns=turns_of(parts.environment, self.templates),
            weights=None if account is None else account.weights.identity,
            finish_partial=account is not None,
            interrupted=self._is_given_up,
        )

    def _is_given_up(self) -> bool:
        """Whether nobody will train what is sampled ahead."""
        lookahead = self.parts.lookahead
        return self.account is not None and lookahead is not None and lookahead.is_closing

    # -- the account of what is sampled ahead ---------------------------------------------------------------

    def _begin(self, prompts: Sequence[Prompt]) -> None:
        if self.account is not None:
            self.account.begin(prompt.id for prompt in prompts)

    def _end(self, group: Group) -> None:
        if self.account is not None and not self._is_given_up():
            self.account.end(group.prompt.id, self._oldest(group.completions))

    def _leave(self, groups: Sequence[PartialGroup]) -> None:
        if self.account is not None and not self._is_given_up():
            for group in groups:
                self.account.leave(group.prompt.id, self._oldest(group.completions))

    def _oldest(self, completions: Sequence[Completion]) -> int:
        """How many steps the oldest weights that wrote one of them have behind them."""
        assert self.step_of is not None and self.account is not None, "what is ahead has both"
        steps = [self.account.weights.step]
        for completion in completions:
            steps += [self.step_of(version) for version, first, end in completion.versions]
        return min(steps)
