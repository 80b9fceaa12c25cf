"""The loop: sample groups, score them, update the policy, record the step. ``python -m grpo.train RECIPE``.

`Trainer` is the loop as an iterator, one step an iteration; it may be left and continued. Everything a user can get
wrong is checked when a Trainer is made, before a model loads. How a run is opened, evaluated, saved and ended is in
``grpo.run.lifecycle``, how its parts are built in ``grpo.run.setup``, the command in ``grpo.cli``.
"""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("train"))

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Mapping, Sequence

from torch import Tensor

from grpo.cost.meter import JUDGE, SAMPLE, UPDATE
from grpo.environments import turns_of
from grpo.learner.batch import make_batch, with_final_outcomes
from grpo.learner.learner import UpdateStats
from grpo.monitor import watchdog
from grpo.monitor.gates import GateStop, stale_completions
from grpo.objective.advantage import advantages
from grpo.objective.policy_loss import forwards_flat_groups
from grpo.run.lifecycle import Run
from grpo.run.log import Record
from grpo.run.metrics import sampled_record, step_record
from grpo.run.setup import sampling_of
from grpo.scoring import worst_fault
from grpo.types import Batch, Prompt, ScoredGroup


@dataclass(slots=True, eq=False)
class Rollouts:
    """What a step has sampled and scored.

    ``left_out`` names the groups that are not trained, with their outcome. ``continued`` are the prompts whose groups
    began in an earlier step, ``sampled_by`` the weights (version, fingerprint) that the engine read.
    """

    groups: list[ScoredGroup] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"sample": 0.0, "judge": 0.0})
    continued: set[str] = field(default_factory=set)
    sampled_by: set[tuple[int, int]] = field(default_factory=set)


class Trainer(Run):
    """A run of a recipe. Iterate over it: each iteration makes one step and yields its record.

    ``Trainer(recipe, data=None, rewards=None, model=None, tokenizer=None, tools=(), resume=False, quiet=False,
    verbose=False, console=None)``: ``data`` are rows in memory (a list of mappings, a `datasets.Dataset`; by source for
    a mixture) instead of ``data.source``; ``rewards`` are callables, by name or in a list, added to the recipe's or in
    place of theirs; ``model`` and ``tokenizer`` are used instead of loading ``model.name``; ``tools`` are functions
    that the policy may call, added to the recipe's; ``resume`` continues the run in the recipe's folder; ``quiet``
    prints nothing, ``verbose`` the objective as a formula and the kernels too; ``console`` is used instead of the one
    that suits this process. Raises `RecipeError` for what a user can fix, before a model loads.

    The first iteration opens the run, and so does `open`: only then are there `policy`, `engine`, `learner` and the
    other parts; asking earlier is a `RuntimeError`. `groups` holds the last step's scored groups, `before` and `after`
    the held-out evaluations, `ledger` the outcome of every completion. `plot` draws the run so far; in a notebook the
    Trainer itself shows how far it is.
    """

    def _step(self) -> Record:
        """One pass of the loop."""
        parts = self.parts
        started = time.perf_counter()
        step = self.num_steps + 1
        self.storage.writer.check()
        rollouts = self._collect(step)
        batch = self._make_batch(rollouts.groups, rollouts.left_out)
        self.groups = rollouts.groups
        sampled = sampled_record(
            self.groups,
            batch.ledger,
            version=parts.policy.version,
            mask_truncated=self.recipe.advantage.mask_truncated,
            has_rewards=bool(self.inputs.specs),
            by_score=self.kind.by_score,
            is_answered=parts.environment is not None,
        )
        sampling_ended = time.perf_counter()
        with (
            watchdog.waiting("update", owner="grpo.learner", counts=parts.learner.counts),
            self.cost.phase(UPDATE),
        ):
            updates = self._update(step, sampled, batch, rollouts)
        batch = with_final_outcomes(batch, parts.learner.trained_rows, parts.learner.masked_rows)
        ended = time.perf_counter()
        times = {"update": ended - sampling_ended, "step": ended - started}
        record = step_record(
            step,
            sampled,
            batch,
            updates,
            seconds={**rollouts.seconds, **times},
            num_retired=parts.curriculum.num_retired,
            logged=self._logged_metrics(),
        )
        num_completions = sum(len(group.completions) for group in self.groups)
        self._end_step(step, batch, record, num_completions)
        return record

    # -- sampling and scoring -------------------------------------------------------------------------------

    def _collect(self, step: int) -> Rollouts:
        """The step's scored groups; where flat groups are refilled, others are sampled in their place."""
        parts = self.parts
        parts.policy.gather()
        sample = self.recipe.sample
        advantage = self.recipe.advantage
        unfinished = self.progress.partial_groups
        number = sample.prompts
        number += math.ceil(sample.prompts * (sample.oversample + sample.over_request))
        number -= sum(parts.ranks.gather([len(unfinished)]))
        continued = parts.ranks.gather([group.prompt.id for group in unfinished])
        rollouts = Rollouts(continued=set(continued))
        parts.scorer.set_step(step)
        for _ in range(1 + (advantage.refills if advantage.flat == "refill" else 0)):
            taken: list[Any] = [*rollouts.groups, *self.progress.partial_groups]
            prompts = parts.curriculum.take(number, taken)
            self.ledger.begin(len(prompts) * sample.group_size)
            rollouts.groups += self._sample_and_score(prompts, step, rollouts)
            chosen = parts.curriculum.choose(rollouts.groups, sample.prompts)
            rollouts.left_out, number = chosen
            if not number or not prompts:
                break
        parts.curriculum.learn(rollouts.groups)
        return rollouts

    def _sample_and_score(
        self, prompts: Sequence[Prompt], step: int, rollouts: Rollouts
    ) -> list[ScoredGroup]:
        """Scored groups, continued ones first, in the order of `prompts`; one is scored while others are sampled."""
        started = time.perf_counter()
        parts = self.parts
        ranks = parts.ranks
        sample = self.recipe.sample
        partial_groups = self.progress.partial_groups
        mine = list(range(len(prompts)))[ranks.rank :: ranks.world]
        my_share = len(range(sample.prompts)[ranks.rank :: ranks.world])
        order = [(0, ranks.rank, i) for i in range(len(partial_groups))] + [(1, i, 0) for i in mine]
        with self.cost.phase(SAMPLE):
            sampled = parts.engine.sample(
                [prompts[i] for i in mine],
                group_size=sample.group_size,
                max_tokens=sample.max_tokens_at(step),
                sampling=sampling_of(sample),
                seed=("train", self.recipe.seed, step),
                enough=my_share if sample.over_request else None,
                partial_groups=partial_groups,
                turns=turns_of(parts.environment, self.inputs.prompts.templates),
            )
            pending = [(order[index], parts.scorer.submit(group)) for index, group in sampled]
        sampling_ended = time.perf_counter()
        rollouts.sampled_by.add(parts.engine.weights)
        self.progress.partial_groups = parts.engine.partial_groups
        parts.log.say(*parts.engine.stats.notes)
        with self.cost.phase(JUDGE):
            scored = ranks.gather([(position, group.result()) for position, group in pending])
        rollouts.seconds["sample"] += sampling_ended - started
        rollouts.seconds["judge"] += time.perf_counter() - sampling_ended
        return [group for _, group in sorted(scored, key=lambda item: item[0])]

    def _logged_metrics(self) -> dict[str, list[float]]:
        """What the rewards of all ranks logged in this step, by name."""
        values_of: dict[str, list[float]] = {}
        for metrics in self.parts.ranks.gather([self.scorer.take_metrics()]):
            for name, values in metrics.items():
                values_of.setdefault(name, []).extend(values)
        return values_of

    # -- learning -------------------------------------------------------------------------------------------

    def _make_batch(self, groups: Sequence[ScoredGroup], left_out: Mapping[int, str]) -> Batch:
        recipe = self.recipe
        batch_of = partial(
            make_batch,
            groups,
            num_updates=recipe.optim.updates,
            epochs=recipe.optim.epochs,
            max_tokens=recipe.sample.max_tokens,
            mask_truncated=recipe.advantage.mask_truncated,
            left_out=left_out,
            version=self.policy.version,
            by_score=self.kind.by_score,
        )
        if not self.kind.by_score:
            return batch_of(_no_advantages(groups), forward_flat=True)
        values = advantages(
            groups,
            recipe.advantage,
            weights={spec.name: spec.weight for spec in self.inputs.specs},
            penalties=self._penalties(groups, batch_of),
            left_out=list(left_out),
        )
        return batch_of(values, forward_flat=forwards_flat_groups(recipe.loss))

    def _penalties(
        self, groups: Sequence[ScoredGroup], batch_of: Callable[..., Batch]
    ) -> dict[tuple[int, int], Tensor] | None:
        """By (group, completion), what the KL takes off each token's reward; None unless it acts there."""
        loss = self.recipe.loss
        if not loss.beta or loss.kl_in != "reward":
            return None
        rows = batch_of(_no_advantages(groups), forward_flat=True).rows
        first_of = {row.group: row.index for row in reversed(rows)}
        penalty_of = self.learner.penalties([row for row in rows if row.forwarded])
        return {
            (row.group, row.index - first_of[row.group]): penalty_of[row.index]
            for row in rows
            if row.index in penalty_of
        }

    def _update(
        self, step: int, sampled: Record, batch: Batch, rollouts: Rollouts
    ) -> list[UpdateStats]:
        """The updates that the gates let pass; if they stop the run, its completions are written first."""
        parts = self.parts
        parts.policy.gather()  # if a KL in the reward has divided them
        weights = (parts.policy.version, parts.policy.fingerprint())
        num_stale, stale = stale_completions(
            self.groups, rollouts.continued, weights, rollouts.sampled_by
        )

        def reason(gate: str) -> str:
            if gate == "faults":
                return worst_fault(self.groups, parts.policy.not_finite)
            return stale if gate == "stale" else ""

        try:
            parts.learner.begin(batch)
            if not parts.gates.sampled(step, {**sampled, "weights/stale": num_stale}, reason):
                return [UpdateStats(made=False)] * len(batch.updates)
            return [parts.learner.update(update) for update in batch.updates]
        except GateStop:
            parts.log.samples(step, self.groups, batch)
            raise


def _no_advantages(groups: Sequence[ScoredGroup]) -> list[list[float]]:
    return [[0.0] * len(group.completions) for group in groups]


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.train``, the same as ``grpo train``; returns the exit code."""
    return command_line.run("train", arguments)
