"""One update: micro-batches forward and backward into sums, then one optimizer step.

The denominators are fixed in the `Update` before its first backward, so how the rows are split over micro-batches and
ranks changes no gradient. ``old_logp`` of the step's first update is the detached logp of the same forward, so its
ratio is exactly 1; for later updates it is computed before the first.

What a loss selects over the whole update (high-covariance tokens, second moments, the tokens of highest entropy) is
decided in a pass of its own before the first backward, from the tokens of all ranks in the order of their rows: a
micro-batch never sees a statistic of itself.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo.distributed.fsdp import local_part
from grpo.distributed.process_group import Ranks
from grpo.kernels.log_prob import Gradients, fused_log_prob
from grpo.kernels.log_prob.spec import chunk_spans
from grpo.learner.batch import without
from grpo.learner.diagnosis import arbitrate, suspects
from grpo.learner.expert_load import ExpertLoad, num_read, recorded_counts
from grpo.learner.optimizer import Optimizer
from grpo.learner.selection import SurveyedRow, UpdateSelection, by_row, select
from grpo.learner.sums import UpdateReadback, UpdateStats, UpdateSums, drift_record, with_load
from grpo.learner.teacher import Teacher
from grpo.model.output_head import OutputHead
from grpo.model.packing import PackedRows, micro_batches, pack, upload
from grpo.model.policy import Policy, TokenStats
from grpo.model.routing import Routing
from grpo.monitor import watchdog
from grpo.monitor.gates import DRIFT_GATES, Gates, GateStop
from grpo.monitor.watchdog import Counts
from grpo.objective.entropy import EntropyBonus
from grpo.objective.kl import REWARD_KLS
from grpo.objective.objective import Objective, TokenInputs, couples_tokens_of_a_completion
from grpo.objective.policy_loss import needs_whole_update
from grpo.recipe import LossSection
from grpo.types import Batch, Row, Update

MAX_MASKED_SHARE = 0.05
"""The share of an update's rows that may be masked for their drift."""


@dataclass(frozen=True, slots=True)
class Retry:
    """An attempt that touched no weight and is to be repeated without some rows.

    None of them where only the loss scale was lowered, because the gradient overflowed.
    """

    without: frozenset[int] = frozenset()


class Learner:
    """Makes updates of a policy from batches of scored rows: `begin` a step's batch, then `update` with each part."""

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer,
        loss: LossSection,
        *,
        temperature: float,
        tokens_per_micro_batch: int,
        ranks: Ranks = Ranks(),
        teacher: Teacher | None = None,
        gates: Gates | None = None,
        sampled_at: float | None = None,
    ):
        """``gates`` judge each update before it is made; ``sampled_at`` is the temperature that was sampled at."""
        self.policy = policy
        self.optimizer = optimizer
        self.loss = loss
        self.temperature = temperature
        self.budget = tokens_per_micro_batch
        self.ranks = ranks
        self.teacher = teacher
        self.gates = gates
        self.sampled_at = temperature if sampled_at is None else sampled_at
        self.objective = Objective(loss)
        self.bonus = EntropyBonus(loss.entropy, loss.entropy_target, loss.entropy_step)
        self.reference: dict[str, Tensor] | None = policy.snapshot() if loss.beta else None
        self._old_logps: dict[int, Tensor] = {}
        self._teacher_logps: dict[int, Tensor] = {}
        self._trained_rows: set[int] = set()
        self._masked_rows: set[int] = set()
        self._version_at_begin = policy.version
        self._num_rows = 0
        self._num_rows_done = 0

    # -- one step ---------------------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        """Take the teacher's log-probs, and the old ones that updates after the first will need.

        The policy is still the old one.
        """
        self.policy.split()
        self._old_logps = {}
        self._trained_rows = set()
        self._masked_rows = set()
        self._version_at_begin = self.policy.version
        self._num_rows = _num_forwarded(batch)
        self._num_rows_done = 0
        in_first_update = {row.index for row in batch.updates[0].rows}
        for update in dict.fromkeys(batch.updates):
            rows = []
            for row in update.rows:
                if row.forwarded and row.index not in in_first_update:
                    rows.append(row)
            self._take_old_logps(rows)
        self._take_teacher_logps(batch)

    def _take_teacher_logps(self, batch: Batch) -> None:
        """Those of every rank's rows: a row may change ranks when an update is tried again without another."""
        if self.teacher is None:
            return
        rows = {row.index: row for update in batch.updates for row in update.rows if row.forwarded}
        logps = self.teacher.logps(self._own_chunks(list(rows.values())), self.temperature)
        self._teacher_logps = dict(self.ranks.gather(list(logps.items())))

    @torch.no_grad()
    def _take_old_logps(self, rows: Sequence[Row]) -> None:
        if self.loss.old == "sampler":
            for row in rows:
                self._old_logps[row.index] = row.sampled_logps.to(self.policy.device)
            return
        for chunk in self._own_chunks(rows, idle=self._idle_forward):
            packed = pack(chunk, self.policy.device)
            logp_T = self.policy.token_stats(packed, self.temperature).logp_T
            self._old_logps |= by_row(packed.rows, logp_T.detach())

    @property
    def trained_rows(self) -> set[int]:
        """The rows of the step of which some token had a weight above 0 in some update, on any rank."""
        return self._trained_rows

    @property
    def masked_rows(self) -> set[int]:
        """The rows of the step that some update left out because their numbers could not be right."""
        return self._masked_rows

    @torch.no_grad()
    def penalties(self, rows: Sequence[Row]) -> dict[int, Tensor]:
        """By row, what the KL to the reference takes off each token's reward [T]: for ``loss.kl_in: reward``."""
        self.policy.split()
        penalties: list[tuple[int, Tensor]] = []
        read = [row for row in rows if row.num_tokens]
        for chunk in self._own_chunks(read, idle=self._idle_penalties):
            packed = pack(chunk, self.policy.device)
            logp_T = self.policy.token_stats(packed, self.temperature).logp_T
            ref_logp_T = self._reference_logp(packed)
            assert ref_logp_T is not None, "a KL in the reward has a weight, so it has a reference"
            kl_T = self.loss.beta * REWARD_KLS[self.loss.kl](logp_T, ref_logp_T)
            penalties += by_row(packed.rows, kl_T.cpu()).items()
        return dict(self.ranks.gather(penalties))

    def _own_chunks(
        self, rows: Sequence[Row], idle: Callable[[], None] | None = None
    ) -> Iterator[list[Row]]:
        """This rank's share of the micro-batches of `rows`; each one done is progress for the watchdog.

        Where weights are divided, every rank takes part in gathering them as often as any other: `idle` does so for a
        micro-batch that others have and this one does not.
        """
        chunks = micro_batches(rows, self.budget)
        for chunk in chunks[self.ranks.rank :: self.ranks.world]:
            yield chunk
            watchdog.beat()
        is_short = self.ranks.rank >= len(chunks) % self.ranks.world > 0
        if self.policy.is_split and idle is not None and is_short:
            idle()
            watchdog.beat()

    def counts(self) -> Counts:
        """How many completions of the step's updates are forward and backward; other ranks are taken to keep up."""
        return Counts(self._num_rows_done, self._num_rows, "completions")

    # -- one update -------------------------------------------------------------------------------------------

    def update(self, update: Update) -> UpdateStats:
        """One optimizer step; the policy is left as it was if no row of the update can teach anything.

        Raises `GateStop` where a gate stops the run and, without gates, `FloatingPointError` where the loss or the
        gradient is not finite; the weights are untouched then.
        """
        self.policy.split()
        masked: set[int] = set()
        measures_drift = self.loss.old != "sampler" or not self._has_old_logps(update)
        bonus = self.bonus.state()
        while True:
            remaining = without(update, masked)
            rows = [row for row in remaining.rows if row.forwarded]
            if not rows:
                return UpdateStats(made=False, masked=len(masked))
            self.bonus.restore(bonus)
            attempt = self._attempt(remaining, rows, measures_drift)
            if isinstance(attempt, UpdateStats):
                self._masked_rows |= masked
                return replace(attempt, masked=len(masked))
            masked |= attempt.without
            if attempt.without:
                self._share_old_logps()

    def _share_old_logps(self) -> None:
        """Let each rank have those of every row: where some are left out, the others may change ranks."""
        if self.ranks.world == 1:
            return
        own = [(index, logp_T.cpu()) for index, logp_T in self._old_logps.items()]
        for index, logp_T in self.ranks.gather(own):
            self._old_logps[index] = logp_T.to(self.policy.device)

    def _has_old_logps(self, update: Update) -> bool:
        return any(row.forwarded and row.index in self._old_logps for row in update.rows)

    def _attempt(
        self, update: Update, rows: Sequence[Row], measures_drift: bool
    ) -> UpdateStats | Retry:
        """Forward and backward over `rows`, those of the update that are forwarded, then the step if all is well."""
        selection = UpdateSelection()
        if needs_whole_update(self.loss):
            seed = self.optimizer.num_updates
            selection = select(self._survey(rows), rows, self.objective, seed)
        entropy_weight = self.bonus.coefficient(selection.entropy)
        entropy_rate = entropy_weight / update.denominators.num_tokens
        sums = UpdateSums(self.policy.device)
        load = self._expert_load(rows)
        for chunk in self._own_chunks(rows, idle=partial(self._idle_update, entropy_rate)):
            packed = pack(chunk, self.policy.device)
            inputs = self._inputs(packed, update, selection)
            self._forward_backward(packed, inputs, entropy_rate, sums, load=load)
            self._num_rows_done += len(chunk) * self.ranks.world
        self.optimizer.unscale()
        if self.policy.shards is None:  # else they are summed as they are made
            self.ranks.sum(self.optimizer.gradients())
        readback = sums.read(self.ranks, self.optimizer.norm())
        if not self._is_finite(readback):
            return self._not_finite(readback, rows)
        stats = readback.stats(
            made=bool(readback.totals.weighed) or entropy_weight > 0 or self.loss.load_balance > 0,
            lr=self.optimizer.lr,
            entropy_weight=entropy_weight,
            measures_drift=measures_drift,
            has_teacher=self.teacher is not None,
        )
        if load is not None:
            stats = with_load(stats, load.stats(self.ranks), self.loss.load_balance)
        return self._finish(stats, readback, rows)

    def _finish(
        self, stats: UpdateStats, readback: UpdateReadback, rows: Sequence[Row]
    ) -> UpdateStats | Retry:
        """Ask the gates, then step, or drop the gradients where nothing teaches or a gate wants the update skipped."""
        distant = self._distant_rows(readback, rows)
        if distant:
            return Retry(without=distant)
        if self._gates_asking(stats, rows):
            self.optimizer.drop_gradients()
            return replace(stats, made=False)
        self._trained_rows |= set(self.ranks.gather(sorted(readback.trained_rows)))
        if not stats.made:
            self.optimizer.drop_gradients()
            return stats
        self.optimizer.clip(readback.norm)
        self.optimizer.step()
        self._refresh_reference()
        self.policy.weights_changed()
        return stats

    def _refresh_reference(self) -> None:
        every = self.loss.reference_every
        if self.reference is not None and every and self.optimizer.num_updates % every == 0:
            self.reference = self.policy.snapshot()

    def _expert_load(self, rows: Sequence[Row]) -> ExpertLoad | None:
        """What adds up the load of a mixture of experts; with ``loss.load_balance`` it knows the update's choices."""
        routing = self.policy.routing
        if routing is None:
            return None
        weight = self.loss.load_balance
        return ExpertLoad(
            routing,
            num_read(rows),
            weight=weight,
            count_E=self._choices(rows, routing) if weight else None,
            device=self.policy.device,
        )

    @torch.no_grad()
    def _choices(self, rows: Sequence[Row], routing: Routing) -> Tensor:
        """How often each expert is chosen for the tokens of `rows`, from the record, or else from a forward."""
        count_E = recorded_counts(rows, routing)
        if count_E is not None:
            return count_E.to(self.policy.device)
        load = ExpertLoad(routing, num_read(rows), device=self.policy.device)
        for chunk in self._own_chunks(rows):
            packed = pack(chunk, self.policy.device)
            with routing.watching():
                self.policy.hidden(packed)
                load.add(routing.last, packed)
        self.ranks.sum([load.count_LE])
        return load.count_LE.sum(0)

    @torch.no_grad()
    def _survey(self, rows: Sequence[Row]) -> list[SurveyedRow]:
        """Log-prob and entropy of the rows' tokens, over all ranks, before the first backward."""
        surveyed: list[SurveyedRow] = []
        for chunk in self._own_chunks(rows, idle=self._idle_forward):
            packed = pack(chunk, self.policy.device)
            stats = self.policy.token_stats(packed, self.temperature)
            entropies = by_row(packed.rows, stats.entropy_T)
            for index, logp_T in by_row(packed.rows, stats.logp_T).items():
                row = SurveyedRow(
                    index=index,
                    logp_T=logp_T.cpu(),
                    entropy_T=entropies[index].cpu(),
                    old_logp_T=self._old_logps.get(index, logp_T).cpu(),
                )
                surveyed.append(row)
        return self.ranks.gather(surveyed)

    # -- one micro-batch ----------------------------------------------------------------------------------------

    def _inputs(
        self, packed: PackedRows, update: Update, selection: UpdateSelection
    ) -> TokenInputs:
        return self.objective.inputs(
            packed,
            self.objective.shares(packed.rows, update),
            self._old_logps,
            ref_logp_T=self._reference_logp(packed),
            teacher_logp_T=self._teacher_logp(packed),
            keep=selection.keep,
            flags=selection.flags,
            dtype=self.policy.statistics_dtype,
        )

    @torch.no_grad()
    def _reference_logp(self, packed: PackedRows) -> Tensor | None:
        if self.reference is None:
            return None
        with self.policy.as_if(self.reference):
            return self.policy.token_stats(packed, self.temperature).logp_T

    def _teacher_logp(self, packed: PackedRows) -> Tensor | None:
        if self.teacher is None:
            return None
        logp_T = torch.cat([self._teacher_logps[row.index] for row in packed.rows])
        return upload(logp_T.to(self.policy.statistics_dtype), self.policy.device)

    def _forward_backward(
        self,
        packed: PackedRows,
        inputs: TokenInputs,
        entropy_rate: float,
        sums: UpdateSums,
        *,
        load: ExpertLoad | None = None,
    ) -> None:
        head = self._one_pass_head(inputs, entropy_rate)
        watching = nullcontext() if load is None else load.routing.watching()
        with watching, self.policy.one_pass():
            if head is not None:
                stats = self._in_one_pass(packed, inputs, head, entropy_rate, load=load)
            else:
                stats = self._through_autograd(packed, inputs, entropy_rate, load)
        if inputs.old_logp_T is None:
            self._old_logps |= by_row(packed.rows, stats.logp_T.detach())
        with torch.no_grad():
            losses = self.objective(inputs, stats.logp_T)
            sums.add_micro_batch(
                packed,
                stats,
                inputs,
                losses,
                limited_T=self.objective.policy_loss.limits(losses.tokens, self.loss),
                entropy_rate=entropy_rate,
            )

    def _one_pass_head(self, inputs: TokenInputs, entropy_rate: float) -> OutputHead | None:
        """The head, if a chunk of it knows its tokens' coefficients and that saves a product; else None."""
        head = self.policy.head
        if head is None or not self._may_take_one_pass(entropy_rate):
            return None
        if not couples_tokens_of_a_completion(self.loss):
            return head
        spans = chunk_spans(head.at(self.temperature), inputs.lengths)
        return head if spans else None

    def _may_take_one_pass(self, entropy_rate: float) -> bool:
        """Whether that can save a product, and, where weights are divided, is so for each rank's micro-batches."""
        if self.policy.shards is not None and couples_tokens_of_a_completion(self.loss):
            return False
        return self.policy.trains_head or entropy_rate > 0

    def _in_one_pass(
        self,
        packed: PackedRows,
        inputs: TokenInputs,
        head: OutputHead,
        entropy_rate: float,
        *,
        load: ExpertLoad | None,
    ) -> TokenStats:
        """Each chunk of the head's logits serves log-prob, coefficient and gradient."""
        scale = self.optimizer.loss_scale.value

        def coefficients(
            start: int, end: int, logp_R: Tensor, entropy_R: Tensor
        ) -> tuple[Tensor, Tensor | None]:
            logp_gradient_R = self.objective.coefficients(inputs.span(start, end), logp_R, scale)
            if not entropy_rate:
                return logp_gradient_R, None
            return logp_gradient_R, torch.full_like(entropy_R, -entropy_rate * scale)

        hidden_TD = self.policy.hidden(packed)
        balance = _balance(load, packed)
        gradient = self._head_gradient()
        result = fused_log_prob(
            hidden_TD.detach(),
            head.at(self.temperature),
            packed.target_T,
            coefficients,
            gradients=self._head_gradients(gradient),
            lengths=inputs.lengths if couples_tokens_of_a_completion(self.loss) else None,
        )
        self._add_head_gradient(gradient)
        if hidden_TD.requires_grad:
            ends = [] if balance is None else [scale * balance]
            torch.autograd.backward([hidden_TD, *ends], [result.hidden_TD, *[None] * len(ends)])
        return TokenStats(result.logp_T, result.entropy_T)

    def _head_gradient(self) -> list[Tensor]:
        """Where the gradients of a trainable head's weight and bias are added up for one pass; nothing without one.

        Of a head that is divided, that is a place of its own, from which `_add_head_gradient` takes them.
        """
        if not self.policy.trains_head:
            return []
        if self.policy.shards is not None:
            return self.policy.shards.head_gradient()
        assert self.policy.head is not None, "one pass is through the head"
        linear = self.policy.head.linear
        parameters = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
        return [self.optimizer.accumulator(parameter) for parameter in parameters]

    def _head_gradients(self, parts: Sequence[Tensor]) -> Gradients | None:
        """`parts` over the tokens that can be sampled."""
        if not parts:
            return None
        sampled = [part[: self.policy.vocab_size] for part in parts]
        return Gradients(weight_VD=sampled[0], bias_V=sampled[1] if len(sampled) > 1 else None)

    def _add_head_gradient(self, parts: Sequence[Tensor]) -> None:
        """Where the head is divided: add what one pass gave over all ranks, and free its weight."""
        shards = self.policy.shards
        if shards is None:
            return
        if parts:
            sums = [self.optimizer.accumulator(p) for p in shards.head_parameters()]
            shards.add_head_gradient(parts, sums)
        shards.end_head()

    def _through_autograd(
        self,
        packed: PackedRows,
        inputs: TokenInputs,
        entropy_rate: float,
        load: ExpertLoad | None,
    ) -> TokenStats:
        """All log-probs of the micro-batch first, then their coefficients, then back."""
        stats = self.policy.token_stats(packed, self.temperature, entropy_gradient=entropy_rate > 0)
        loss = self.objective(inputs, stats.logp_T).loss
        if entropy_rate:
            loss = loss - entropy_rate * stats.entropy_T.sum()
        balance = _balance(load, packed)
        if balance is not None:
            loss = loss + balance
        (loss * self.optimizer.loss_scale.value).backward()
        return TokenStats(stats.logp_T.detach(), stats.entropy_T.detach())

    # -- a rank without a micro-batch, where weights are divided -----------------------------------------------

    @torch.no_grad()
    def _idle_forward(self) -> None:
        """Take part in the forward of a micro-batch that other ranks have."""
        self.policy.token_stats(self._stand_in(), self.temperature)

    def _idle_reference(self) -> None:
        if self.reference is not None:
            with self.policy.as_if(self.reference):
                self._idle_forward()

    def _idle_penalties(self) -> None:
        """As `penalties` of a micro-batch."""
        self._idle_forward()
        self._idle_reference()

    def _idle_update(self, entropy_rate: float) -> None:
        """As `_inputs` and `_forward_backward` of a micro-batch; all that it adds to the gradients is 0."""
        self._idle_reference()
        with self.policy.one_pass():
            hidden_TD = self.policy.hidden(self._stand_in())
            if self._may_take_one_pass(entropy_rate):
                self._add_head_gradient(self._head_gradient())
            elif self.policy.shards is not None:
                self.policy.shards.zero_head_gradient()
            if hidden_TD.requires_grad:
                hidden_TD.backward(torch.zeros_like(hidden_TD))

    def _stand_in(self) -> PackedRows:
        """A row of two tokens, whose log-probs nobody reads."""
        row = Row(
            index=0,
            group=0,
            prompt_ids=(0,),
            token_ids=(0,),
            sampled_logps=torch.zeros(1),
            advantage=0.0,
            mask=False,
            forwarded=True,
            outcome="trained",
        )
        return pack([row], self.policy.device)

    # -- what the gates are asked -------------------------------------------------------------------------------

    def _ask(self, record: Mapping[str, Any], why: Callable[[str], str]) -> list[str]:
        """The gates that want rows masked or the update skipped; one that stops the run leaves no gradient behind."""
        if self.gates is None:
            return []
        try:
            return self.gates.update(record, why)
        except GateStop:
            self.optimizer.drop_gradients()
            raise

    def _gates_asking(self, stats: UpdateStats, rows: Sequence[Row]) -> list[str]:
        """The gates that want the update skipped."""

        def why(gate: str) -> str:
            return self._suspects(stats, rows) if gate in DRIFT_GATES else ""

        record = {**drift_record(stats), "update/grad_norm": stats.grad_norm}
        return self._ask(record, why)

    def _distant_rows(self, readback: UpdateReadback, rows: Sequence[Row]) -> frozenset[int]:
        """The few rows whose drift is out of all proportion, as of a decoder that mixed up one row; to be masked.

        Where they are many, the whole update is at fault, which is for the other gates to say.
        """
        if self.gates is None:
            return frozenset()
        limit = self.gates.limits("drift_rows").get("skip", math.inf)
        largest = readback.largest.row_drift
        if largest <= limit:
            return frozenset()
        own = sorted(index for index, drift in readback.row_drift.items() if drift > limit)
        distant = frozenset(self.ranks.gather(own))
        if len(distant) > max(1, MAX_MASKED_SHARE * len(rows)):
            return frozenset()
        text = f"completion {min(distant)} of the step, {len(distant)} of {len(rows)} in all"
        asking = self._ask({"policy/drift_row": largest}, lambda gate: text)
        if "drift_rows" not in asking:
            return frozenset()
        self.optimizer.drop_gradients()
        return distant

    def _suspects(self, stats: UpdateStats, rows: Sequence[Row]) -> str:
        """One sentence on which side of the drift is wrong, and why."""
        if stats.detail is None:
            return ""
        chunk = next(self._own_chunks(rows), [])
        arbitration = None
        self.policy.gather()  # one rank's micro-batch may have more rows to read than another's
        # The arbiter's weights must be those of both sides.
        if self.policy.version == self._version_at_begin:
            try:
                arbitration = arbitrate(self.policy, chunk, self._old_logps, self.sampled_at)
            except (MemoryError, torch.OutOfMemoryError):
                pass  # the alarm itself matters more than who caused it
        self.policy.split()
        dtype = str(self.policy.base.dtype).removeprefix("torch.")
        return suspects(stats.detail, arbitration, dtype, self.policy.version > 0)

    def _is_finite(self, readback: UpdateReadback) -> bool:
        # A row whose NaN weighs 0 leaves the loss finite; only gates can name it.
        if self.gates is not None and readback.totals.not_finite > 0:
            return False
        return math.isfinite(readback.totals.loss) and math.isfinite(readback.norm)

    def _not_finite(self, readback: UpdateReadback, rows: Sequence[Row]) -> UpdateStats | Retry:
        """What becomes of an update whose loss or gradient is not finite; the weights are not touched."""
        bad = frozenset(self.ranks.gather(sorted(readback.not_finite_rows)))
        loss = readback.totals.loss
        if math.isfinite(loss) and not bad and self.optimizer.loss_scale.lower():
            self.optimizer.drop_gradients()
            return Retry()
        culprit = next(filter(None, self.ranks.gather([_not_finite_name(self.optimizer)])), "")
        self.optimizer.drop_gradients()
        message = (
            f"the update's loss is {loss} and its gradient's norm {readback.norm}; "
            f"the weights were not touched{culprit}"
        )
        if self.gates is None:
            raise FloatingPointError(f"{message}. Lower optim.lr, or train in float32")
        record = {"update/bad_rows": len(bad) / len(rows)} if bad else {"update/overflows": 1}
        text = message + _first_of(bad, rows)
        asking = self._ask(record, lambda gate: text)
        if bad and "nonfinite" in asking:
            return Retry(without=bad)
        return UpdateStats(made=False, grad_norm=float("nan"), overflows=0 if bad else 1)

    # -- what a resumed run needs -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; of divided weights the first rank has the tensors, and all ranks call it."""
        return {
            "optimizer": self.optimizer.state(),
            "reference": self.reference and self.policy.all_of(self.reference),
            "bonus": self.bonus.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state["optimizer"])
        reference = state["reference"]
        self.reference = reference and {
            name: self.policy.held_part(weight).to(self.policy.device)
            for name, weight in reference.items()
        }
        self.bonus.restore(state["bonus"])


def _balance(load: ExpertLoad | None, packed: PackedRows) -> Tensor | None:
    """The part of the load-balancing loss that the forward of a micro-batch has; None where there is none."""
    return None if load is None else load.add(load.routing.last, packed)


def _num_forwarded(batch: Batch) -> int:
    """The rows that the updates of a step put through the policy, each as often as it comes up."""
    return sum(row.forwarded for update in batch.updates for row in update.rows)


def _first_of(indices: frozenset[int], rows: Sequence[Row]) -> str:
    """``; the first is completion ...`` for the first row of these indices; empty if there is none."""
    chosen = [row for row in rows if row.index in indices]
    if not chosen:
        return ""
    first = min(chosen, key=lambda row: row.index)
    return f"; the first is completion {first.index} of the step, of group {first.group}"


def _not_finite_name(optimizer: Optimizer) -> str:
    """``; the weight ... is not finite`` for the first such weight, or gradient; empty if there is none."""
    for name, parameter in optimizer.parameters.items():
        if not bool(local_part(parameter).isfinite().all()):
            return f"; the weight {name} holds values that are not finite"
    for name, master in optimizer.masters.items():
        if master.grad is not None and not bool(master.grad.isfinite().all()):
            return f"; the first gradient that is not finite is that of {name}"
    return ""
