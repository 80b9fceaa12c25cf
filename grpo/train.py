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

import time
from functools import partial
from typing import Callable, Mapping, Sequence

from torch import Tensor

from grpo.cost.meter import SAMPLE, UPDATE
from grpo.learner.batch import make_batch, with_final_outcomes
from grpo.learner.learner import UpdateStats
from grpo.monitor import watchdog
from grpo.monitor.gates import GateStop, stale_completions
from grpo.objective.advantage import advantages
from grpo.objective.policy_loss import forwards_flat_groups
from grpo.run.collect import Collector, ahead
from grpo.run.lifecycle import Run
from grpo.run.log import Record
from grpo.run.metrics import sampled_record, staleness_record, step_record
from grpo.run.rollouts import Rollouts, ages_of
from grpo.scoring import worst_fault
from grpo.types import Batch, ScoredGroup


class Trainer(Run):
    """A run of a recipe. Iterate over it: each iteration makes one step and yields its record.

    ``Trainer(recipe, data=None, rewards=None, model=None, tokenizer=None, tools=(), environment=None, resume=False,
    quiet=False, verbose=False, console=None)``: ``data`` are rows in memory (a list of mappings, a `datasets.Dataset`;
    by source for a mixture) instead of ``data.source``; ``rewards`` are callables, by name or in a list, added to the
    recipe's or in place of theirs; ``model`` and ``tokenizer`` are used instead of loading ``model.name``; ``tools``
    are functions that the policy may call, added to the recipe's; ``environment`` is a class, in place of
    ``environment.use``; ``resume`` continues the run in the recipe's folder; ``quiet`` prints nothing, ``verbose`` the
    objective as a formula and the kernels too; ``console`` is used instead of the one that suits this process. Raises
    `RecipeError` for what a user can fix, before a model loads.

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
        sampled |= self._staleness(step)
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
            num_retired=rollouts.num_retired,
            logged=rollouts.logged,
        )
        num_completions = sum(len(group.completions) for group in self.groups)
        self._end_step(step, batch, record, num_completions, in_flight=rollouts.in_flight)
        return record

    # -- sampling and scoring -------------------------------------------------------------------------------

    def _collect(self, step: int) -> Rollouts:
        """The step's scored groups, sampled now or ahead of it."""
        collector = Collector(self.recipe, self.parts, self.inputs.prompts, self.progress)
        lookahead = self.parts.lookahead
        self.parts.policy.gather()
        if lookahead is None:
            rollouts = collector.collect(step, self.cost.phase)
        else:
            started = time.perf_counter()
            with self.cost.phase(SAMPLE):
                weights, rollouts = lookahead.take(step, partial(ahead, collector, lookahead))
            rollouts.weights = weights
            rollouts.seconds["wait"] = time.perf_counter() - started
        self.ledger.begin(rollouts.begun)
        self.parts.log.say(*rollouts.notes)
        return rollouts

    def _staleness(self, step: int) -> Record:
        """How old what trains is; nothing of a run that never samples ahead."""
        lookahead = self.parts.lookahead
        if lookahead is None:
            return {}
        return staleness_record(ages_of(self.groups, step, lookahead.buffer.step_of))

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
        if rollouts.weights is not None:
            weights = rollouts.weights.identity
        num_stale, stale = stale_completions(
            self.groups, rollouts.continued, weights, rollouts.sampled_by
        )

        def reason(gate: str) -> str:
            if gate == "faults":
                return worst_fault(self.groups, parts.policy.not_finite)
            return stale if gate == "stale" else ""

        try:
            parts.learner.begin(batch)
            known = {
                **sampled,
                "weights/stale": num_stale,
                "staleness/bound": self.recipe.sample.staleness,
            }
            if not parts.gates.sampled(step, known, reason):
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
