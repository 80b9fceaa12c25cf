"""One update: micro-batches forward and backward into sums, then one optimizer step.

The denominators stand in the `Update` before its first backward, so how the rows are split over
micro-batches and ranks changes no gradient. ``old_logp`` of the step's first update is the detached logp
of the same forward, so its ratio is exactly 1; for later updates it is taken before the first.

What a loss selects over the whole update (high-covariance tokens, second moments, the tokens of highest
entropy) is decided in a pass of its own before the first backward, from the tokens of all ranks in the
order of their rows: a micro-batch never sees a statistic of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo.distributed.process_group import Ranks
from grpo.kernels.log_prob import Gradients, fused_log_prob
from grpo.kernels.log_prob.spec import chunk_spans
from grpo.learner import drift
from grpo.learner.batch import without
from grpo.learner.diagnosis import arbitrate, suspects
from grpo.learner.drift import Drift
from grpo.learner.optimizer import Optimizer
from grpo.model.packing import PackedRows, micro_batches, pack, upload
from grpo.model.policy import Policy, TokenStats
from grpo.monitor import watchdog
from grpo.monitor.gate_table import DRIFT_GATES
from grpo.monitor.gates import Gates, GateStop
from grpo.objective import correction
from grpo.objective.entropy import EntropyBonus
from grpo.objective.objective import (
    Objective,
    TokenInputs,
    TokenLosses,
    couples_tokens_of_a_completion,
)
from grpo.objective.policy_loss import (
    POLICY_LOSSES,
    REWARD_KLS,
    Tokens,
    needs_whole_update,
    select_top_entropy,
)
from grpo.recipe import LossSection
from grpo.types import Batch, Row, Update


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one update did, over all ranks. ``made`` is False if nothing could be learnt from its rows.

    ``num_tokens`` completion tokens were forwarded; means are over them. ``drift`` is the mean of
    ``|sampled_logp - old_logp|``, None in updates whose old_logp is the sampler's or not fresh; ``detail`` says
    more of it, of tokens that the step's own weights sampled. ``masked`` rows were left out because their numbers
    could not be right, ``overflows`` is 1 where the update was given up for a gradient that is not finite.
    ``ess`` is the effective share of samples under the correction's weights, ``dropped`` the share of tokens
    it weighs 0, ``lost`` the share of the update's mass (aggregation weight x abs(A)) it takes away,
    ``weight`` its mean weight and ``raw_max`` the largest before truncation.
    """

    made: bool
    loss: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0
    num_tokens: int = 0
    entropy: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    ratio_max: float = 1.0
    drift: float | None = None
    drift_max: float | None = None
    ess: float = 1.0
    dropped: float = 0.0
    lost: float = 0.0
    weight: float = 1.0
    raw_max: float = 1.0
    entropy_weight: float = 0.0
    teacher_kl: float | None = None
    detail: Drift | None = None
    masked: int = 0
    overflows: int = 0


MOST_MASKED = 0.05  # the share of an update's rows that may be masked for their drift
SUMS = (
    "loss",
    "kl",
    "clipped",
    "entropy",
    "tokens",
    "teacher",
    "reached",
    "dropped",
    "weight",
    "squares",
    "units",
    "mass",
    "kept_mass",
    "bad",
)
TOPS = ("ratio", "drift", "drift_row", "raw")


@dataclass(slots=True, eq=False)
class UpdateSums:
    """Sums and largest values over the micro-batches of an update, and what is known of each row.

    Of a row: how many tokens teach, how many log-probs are not finite, the mean drift of those that are. All stays
    on the device until `read`, the update's one wait for it.
    """

    device: torch.device
    sums: dict[str, Tensor] = field(default_factory=dict)
    drift: Tensor = field(init=False)
    tops: dict[str, Tensor] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    of_rows: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drift = torch.zeros(
            len(drift.MOMENTS) + drift.NUM_BINS, dtype=torch.float64, device=self.device
        )
        self.sums = {
            name: torch.zeros((), dtype=torch.float64, device=self.device) for name in SUMS
        }
        self.tops = {
            name: torch.zeros((), dtype=torch.float64, device=self.device) for name in TOPS
        }

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] += value.double().sum()

    def top(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.tops[name] = torch.maximum(self.tops[name], value.double().max())

    def read(self, ranks: Ranks, norm: Tensor) -> UpdateReadback:
        """Everything as numbers, over all ranks but for the rows, which are this rank's."""
        sums = torch.cat([torch.stack(list(self.sums.values())), self.drift])
        tops = torch.stack(list(self.tops.values()))
        ranks.sum([sums])
        ranks.max(tops)
        found = torch.cat(
            [norm.double().reshape(1), tops, sums, *(part.flatten() for part in self.of_rows)]
        ).tolist()
        at = 1 + len(TOPS)
        moments, counts = at + len(SUMS), at + len(SUMS) + len(drift.MOMENTS)
        end = counts + drift.NUM_BINS
        rows = {row: tuple(found[end + 3 * i : end + 3 * i + 3]) for i, row in enumerate(self.rows)}
        return UpdateReadback(
            dict(zip(SUMS, found[at:])),
            dict(zip(TOPS, found[1:])),
            found[0],
            {row for row, (teaching, _, _) in rows.items() if teaching},
            {row for row, (_, bad, _) in rows.items() if bad},
            {row: far for row, (_, _, far) in rows.items()},
            dict(zip(drift.MOMENTS, found[moments:])),
            found[counts:end],
        )


@dataclass(frozen=True, slots=True)
class UpdateReadback:
    """An update's numbers on the host.

    ``reached`` are the rows of which some token teaches, ``bad`` those with a log-prob that is not finite, ``far``
    the mean drift of each; these are of this rank, all else is over all ranks.
    """

    sums: Mapping[str, float]
    tops: Mapping[str, float]
    norm: float
    reached: set[int]
    bad: set[int]
    far: Mapping[int, float]
    moments: Mapping[str, float]
    counts: Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class UpdateSelection:
    """What was decided over a whole update before its first backward, by row index."""

    flag: Mapping[int, Tensor] = field(default_factory=dict)
    keep: Mapping[int, Tensor] = field(default_factory=dict)
    entropy: float | None = None


class Learner:
    """Makes updates of a policy from batches of scored rows."""

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer,
        loss: LossSection,
        *,
        temperature: float,
        tokens_per_micro_batch: int,
        ranks: Ranks = Ranks(),
        teacher: Policy | None = None,
        gates: Gates | None = None,
        sampled_at: float | None = None,
    ):
        """``gates`` judge each update before it is made; ``sampled_at`` is the temperature that was sampled at."""
        self.gates, self.sampled_at = gates, temperature if sampled_at is None else sampled_at
        self.policy, self.optimizer, self.loss, self.ranks = policy, optimizer, loss, ranks
        self.temperature, self.budget, self.teacher = temperature, tokens_per_micro_batch, teacher
        self.objective = Objective(loss)
        self.bonus = EntropyBonus(loss.entropy, loss.entropy_target, loss.entropy_step)
        self.reference: dict[str, Tensor] | None = policy.snapshot() if loss.beta else None
        self._old: dict[int, Tensor] = {}
        self._reached: set[int] = set()
        self._masked: set[int] = set()
        self._begun_at = policy.version

    def begin(self, batch: Batch) -> None:
        """Take the old log-probs that updates after the first will need, while the policy is still the old one."""
        self._old, self._reached, self._masked = {}, set(), set()
        self._begun_at = self.policy.version
        known = {row.index for row in batch.updates[0].rows}
        for update in dict.fromkeys(batch.updates):
            rows = [row for row in update.rows if row.forwarded and row.index not in known]
            if self.loss.old == "sampler":
                self._old |= {row.index: row.sampled_logps.to(self.policy.device) for row in rows}
            else:
                self._remember_old(rows)

    @torch.no_grad()
    def _remember_old(self, rows: Sequence[Row]) -> None:
        for chunk in self._mine(rows):
            packed = pack(chunk, self.policy.device)
            self._keep_old(packed, self.policy.token_stats(packed, self.temperature).logp_T)

    def _keep_old(self, packed: PackedRows, logp_T: Tensor) -> None:
        self._old |= _by_row(packed.rows, logp_T.detach())

    def _mine(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """This rank's share of the micro-batches of `rows`; each that is done is progress in the watchdog's eyes."""
        for chunk in micro_batches(rows, self.budget)[self.ranks.rank :: self.ranks.world]:
            yield chunk
            watchdog.beat()

    @torch.no_grad()
    def penalties(self, rows: Sequence[Row]) -> dict[int, Tensor]:
        """By row, what the KL to the reference takes off each token's reward: for ``loss.kl_in: reward``."""
        found: list[tuple[int, Tensor]] = []
        for chunk in self._mine([row for row in rows if row.token_ids]):
            packed = pack(chunk, self.policy.device)
            logp_T = self.policy.token_stats(packed, self.temperature).logp_T
            kl_T = self.loss.beta * REWARD_KLS[self.loss.kl](logp_T, self._reference_logp(packed))
            found += _by_row(packed.rows, kl_T.cpu()).items()
        return dict(self.ranks.gather(found))

    # -- one update -----------------------------------------------------------------------------------------

    def update(self, update: Update) -> UpdateStats:
        """One optimizer step; the policy is left as it was if no row of the update can teach anything."""
        out: set[int] = set()
        before = {row.index for row in update.rows if row.forwarded} & self._old.keys()
        fresh, bonus = self.loss.old != "sampler" or not before, self.bonus.state()
        while True:
            kept = without(update, out)
            rows = [row for row in kept.rows if row.forwarded]
            if not rows:
                return UpdateStats(made=False, masked=len(out))
            self.bonus.restore(bonus)
            selection = (
                self._selection(rows, kept) if needs_whole_update(self.loss) else UpdateSelection()
            )
            entropy_weight = self.bonus.coefficient(selection.entropy)
            sums = UpdateSums(self.policy.device)
            for chunk in self._mine(rows):
                self._forward_backward(
                    pack(chunk, self.policy.device), kept, selection, entropy_weight, sums
                )
            found = self._finish(sums, entropy_weight, fresh, rows)
            if isinstance(found, UpdateStats):
                self._masked |= out
                return replace(found, masked=len(out))
            out |= found

    @property
    def reached(self) -> set[int]:
        """The rows of the step of which some token had a weight above 0 in some update, on any rank."""
        return self._reached

    @property
    def masked(self) -> set[int]:
        """The rows of the step that some update left out because their numbers could not be right."""
        return self._masked

    @torch.no_grad()
    def _selection(self, rows: Sequence[Row], update: Update) -> UpdateSelection:
        """Select over the tokens of all ranks, in the order of their rows, before anything is learnt."""
        found: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for chunk in self._mine(rows):
            packed = pack(chunk, self.policy.device)
            stats = self.policy.token_stats(packed, self.temperature)
            logps, entropies = (
                _by_row(packed.rows, part) for part in (stats.logp_T, stats.entropy_T)
            )
            found += [
                (
                    row.index,
                    logps[row.index].cpu(),
                    entropies[row.index].cpu(),
                    self._old.get(row.index, logps[row.index]).cpu(),
                )
                for row in packed.rows
            ]
        seen = {index: parts for index, *parts in self.ranks.gather(found)}
        ordered = sorted(rows, key=lambda row: row.index)
        logp_T, entropy_T, _ = (
            torch.cat([seen[row.index][i] for row in ordered]) for i in range(3)
        )
        rule, old = (
            POLICY_LOSSES[self.loss.policy],
            {index: parts[2] for index, parts in seen.items()},
        )
        flag_T = (
            rule.select(
                self.objective.terms(
                    pack(ordered), [0.0] * len(ordered), old, dtype=logp_T.dtype
                ).tokens(logp_T),
                self.loss,
                self.optimizer.num_updates,
            )
            if rule.select
            else None
        )
        keep_T = (
            select_top_entropy(entropy_T, self.loss.top_entropy)
            if self.loss.top_entropy < 1
            else None
        )
        return UpdateSelection(
            *({} if part is None else _by_row(ordered, part) for part in (flag_T, keep_T)),
            entropy=float(entropy_T.double().mean()),
        )

    def _forward_backward(
        self,
        packed: PackedRows,
        update: Update,
        selection: UpdateSelection,
        entropy_weight: float,
        sums: UpdateSums,
    ) -> None:
        terms = self.objective.terms(
            packed,
            self.objective.shares(packed.rows, update),
            self._old,
            self._reference_logp(packed),
            self._teacher_logp(packed),
            selection.keep,
            selection.flag,
            self.policy.statistics_dtype,
        )
        rate = entropy_weight / update.denominators.num_tokens
        backward = self._in_one_pass if self._fits_one_pass(terms, rate) else self._after_the_whole
        stats = backward(packed, terms, rate)
        if terms.old_logp_T is None:
            self._keep_old(packed, stats.logp_T)
        with torch.no_grad():
            found = self.objective(terms, stats.logp_T)
            sums.add(loss=found.loss - rate * stats.entropy_T.sum())
            self._add_up(packed, stats, terms, found, sums)

    def _fits_one_pass(self, terms: TokenInputs, rate: float) -> bool:
        """Whether a chunk of the head knows its tokens' coefficients, and that saves a product."""
        head = self.policy.head
        if head is None or not (head.linear.weight.requires_grad or rate):
            return False
        return not couples_tokens_of_a_completion(self.loss) or bool(
            chunk_spans(head.at(self.temperature), terms.lengths)
        )

    def _in_one_pass(self, packed: PackedRows, terms: TokenInputs, rate: float) -> TokenStats:
        """Each chunk of the head's logits serves log-prob, coefficient and gradient."""
        head, scale = self.policy.head, self.optimizer.loss_scale.value

        def coefficients(
            start: int, end: int, logp_R: Tensor, entropy_R: Tensor
        ) -> tuple[Tensor, Tensor | None]:
            g_R = self.objective.coefficients(terms.span(start, end), logp_R, scale)
            return g_R, torch.full_like(entropy_R, -rate * scale) if rate else None

        gradients, sampled = None, self.policy.vocab_size
        if head.linear.weight.requires_grad:
            gradients = Gradients(
                *(
                    None if part is None else self.optimizer.accumulator(part)[:sampled]
                    for part in (head.linear.weight, head.linear.bias)
                )
            )
        hidden_TD = self.policy.hidden(packed)
        swept = fused_log_prob(
            hidden_TD.detach(),
            head.at(self.temperature),
            packed.target_T,
            coefficients,
            gradients,
            lengths=terms.lengths if couples_tokens_of_a_completion(self.loss) else None,
        )
        if hidden_TD.requires_grad:
            hidden_TD.backward(swept.hidden_TD)
        return TokenStats(swept.logp_T, swept.entropy_T)

    def _after_the_whole(self, packed: PackedRows, terms: TokenInputs, rate: float) -> TokenStats:
        """All log-probs of the micro-batch first, then their coefficients, then back."""
        stats = self.policy.token_stats(packed, self.temperature, entropy_gradient=rate > 0)
        loss = self.objective(terms, stats.logp_T).loss
        if rate:
            loss = loss - rate * stats.entropy_T.sum()
        (loss * self.optimizer.loss_scale.value).backward()
        return TokenStats(stats.logp_T.detach(), stats.entropy_T.detach())

    @torch.no_grad()
    def _reference_logp(self, packed: PackedRows) -> Tensor | None:
        if self.reference is None:
            return None
        with self.policy.as_if(self.reference):
            return self.policy.token_stats(packed, self.temperature).logp_T

    @torch.no_grad()
    def _teacher_logp(self, packed: PackedRows) -> Tensor | None:
        return (
            None
            if self.teacher is None
            else self.teacher.token_stats(packed, self.temperature).logp_T
        )

    def _add_up(
        self,
        packed: PackedRows,
        stats: TokenStats,
        terms: TokenInputs,
        found: TokenLosses,
        sums: UpdateSums,
    ) -> None:
        tokens, weights, weight_T = found.tokens, found.weights, found.weight_T
        far_T = self._add_drift(packed, tokens, stats.entropy_T, sums)
        mass_T = terms.share_T * tokens.advantage_T.abs()
        ones_T, dropped_T, unit_T = torch.ones_like(mass_T), weight_T == 0, weights.unit_T
        sums.add(
            clipped=self.objective.rule.limits(tokens, self.loss),
            entropy=stats.entropy_T,
            tokens=ones_T,
            kl=found.kl_T,
            teacher=found.teacher_T,
            reached=~dropped_T,
            dropped=dropped_T,
            weight=weight_T * unit_T,
            squares=weight_T.square() * unit_T,
            units=unit_T,
            mass=mass_T,
            kept_mass=mass_T * weight_T,
            bad=~stats.logp_T.isfinite(),
        )
        sums.top(ratio=tokens.ratio_T, drift=far_T, raw=weights.raw_T)
        self._add_rows(
            packed,
            torch.stack([~dropped_T, ~stats.logp_T.isfinite(), far_T, ones_T], 1).double(),
            sums,
            tokens.row_T,
        )

    def _add_rows(
        self, packed: PackedRows, known_T4: Tensor, sums: UpdateSums, row_T: Tensor
    ) -> None:
        """Of each row: how many tokens teach, how many log-probs are not finite, and the mean drift."""
        sums.rows += [row.index for row in packed.rows]
        sums_R4 = known_T4.new_zeros((len(packed.rows), 4)).index_add(0, row_T, known_T4)
        far_R1 = sums_R4[:, 2:3] / sums_R4[:, 3:]
        sums.top(drift_row=far_R1)
        sums.of_rows.append(torch.cat([sums_R4[:, :2], far_R1], 1))

    def _add_drift(
        self, packed: PackedRows, tokens: Tokens, entropy_T: Tensor, sums: UpdateSums
    ) -> Tensor:
        """abs(sampled_logp - old_logp) of each token, 0 where it cannot be known; the sums are added up."""
        fresh_T = None
        if any(row.fresh_from for row in packed.rows):
            fresh_T = upload(
                torch.cat([torch.arange(row.num_tokens) >= row.fresh_from for row in packed.rows]),
                entropy_T.device,
            )
        far_T, counts = drift.distances(tokens.sampled_logp_T, tokens.old_logp_T, fresh_T)
        moments = drift.moments(tokens.sampled_logp_T, tokens.old_logp_T, entropy_T, fresh_T)
        sums.drift += torch.cat([moments, counts])
        return far_T

    def _finish(
        self, sums: UpdateSums, entropy_weight: float, fresh: bool, rows: Sequence[Row]
    ) -> UpdateStats | set[int]:
        """The optimizer step; or the rows without which the update is to be made again, none of them where a scaled
        loss overflowed and its scale was lowered."""
        self.optimizer.unscale()
        self.ranks.sum(self.optimizer.gradients())
        read = sums.read(self.ranks, self.optimizer.norm())
        unseen = (
            self.gates is not None and read.sums["bad"] > 0
        )  # a row whose NaN weighs 0 leaves the loss finite
        if unseen or not (math.isfinite(read.sums["loss"]) and math.isfinite(read.norm)):
            return self._not_finite(read, rows)
        made = bool(read.sums["reached"]) or entropy_weight > 0
        stats = _stats(
            made, read, self.optimizer.lr, entropy_weight, fresh, self.teacher is not None
        )
        far = self._far_rows(read, rows)
        if far:
            return far
        if self._asking(stats, rows):
            self.optimizer.drop_gradients()
            return replace(stats, made=False)
        self._reached |= set(self.ranks.gather(sorted(read.reached)))
        if made:
            self.optimizer.clip(read.norm)
            self.optimizer.step()
            self._refresh_reference()
            self.policy.weights_changed()
        else:
            self.optimizer.drop_gradients()
        return stats

    def _far_rows(self, read: UpdateReadback, rows: Sequence[Row]) -> set[int]:
        """The few rows whose drift is out of all proportion, as of a sampler's slot that went wrong, to be masked.

        Where they are many the whole update is at fault, which is for the other gates to say.
        """
        limit = (
            math.inf
            if self.gates is None
            else self.gates.limits("drift_rows").get("skip", math.inf)
        )
        if read.tops["drift_row"] <= limit:
            return set()
        far = set(
            self.ranks.gather(sorted(row for row, distance in read.far.items() if distance > limit))
        )
        if len(far) > max(1, MOST_MASKED * len(rows)):
            return set()
        words = f"completion {min(far)} of the step, {len(far)} of {len(rows)} in all"
        asking = self._ask({"policy/drift_row": read.tops["drift_row"]}, lambda gate: words)
        if "drift_rows" not in asking:
            return set()
        self.optimizer.drop_gradients()
        return far

    def _asking(self, stats: UpdateStats, rows: Sequence[Row]) -> list[str]:
        """The gates that want the update skipped."""
        return self._ask(
            {**drift_record(stats), "update/grad_norm": stats.grad_norm},
            lambda gate: self._suspects(stats, rows) if gate in DRIFT_GATES else "",
        )

    def _ask(self, record: Mapping[str, Any], why: Callable[[str], str]) -> list[str]:
        """The gates that want rows masked or the update skipped; one that stops the run leaves no gradient behind."""
        if self.gates is None:
            return []
        try:
            return self.gates.update(record, why)
        except GateStop:
            self.optimizer.drop_gradients()
            raise

    def _suspects(self, stats: UpdateStats, rows: Sequence[Row]) -> str:
        if stats.detail is None:
            return ""
        mine = next(self._mine(rows), [])
        found = None
        if (
            self.policy.version == self._begun_at
        ):  # the arbiter's weights must be those of both sides
            try:
                found = arbitrate(self.policy, mine, self._old, self.sampled_at)
            except (MemoryError, torch.OutOfMemoryError):
                pass  # the alarm itself matters more than who is behind it
        dtype = str(self.policy.base.dtype).removeprefix("torch.")
        return suspects(stats.detail, found, dtype, self.policy.version > 0)

    def _not_finite(self, read: UpdateReadback, rows: Sequence[Row]) -> UpdateStats | set[int]:
        """What becomes of an update whose loss or gradient is not finite; the weights are not touched."""
        out = set(self.ranks.gather(sorted(read.bad)))
        if math.isfinite(read.sums["loss"]) and not out and self.optimizer.loss_scale.lower():
            self.optimizer.drop_gradients()
            return set()
        names = _not_finite_names(self.optimizer)
        self.optimizer.drop_gradients()
        words = (
            f"the update's loss is {read.sums['loss']} and its gradient's norm {read.norm}; the weights were not "
            f"touched{names}"
        )
        if self.gates is None:
            raise FloatingPointError(f"{words}. Lower optim.lr, or train in float32")
        record = {"update/bad_rows": len(out) / len(rows)} if out else {"update/overflows": 1}
        first = min(
            (row for row in rows if row.index in out), key=lambda row: row.index, default=None
        )
        where = (
            f"; the first is completion {first.index} of the step, of group {first.group}"
            if first
            else ""
        )
        asking = self._ask(record, lambda gate: words + where)
        if out and "nonfinite" in asking:
            return out
        return UpdateStats(made=False, grad_norm=float("nan"), overflows=0 if out else 1)

    def _refresh_reference(self) -> None:
        every = self.loss.reference_every
        if self.reference is not None and every and self.optimizer.num_updates % every == 0:
            self.reference = self.policy.snapshot()

    # -- what a resumed run needs ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state(),
            "reference": self.reference,
            "bonus": self.bonus.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state["optimizer"])
        reference = state["reference"]
        self.reference = reference and {
            name: p.to(self.policy.device) for name, p in reference.items()
        }
        self.bonus.restore(state["bonus"])


def _by_row(rows: Sequence[Row], value_T: Tensor) -> dict[int, Tensor]:
    """Row index: its part of `value_T`."""
    return {
        row.index: part for row, part in zip(rows, value_T.split([row.num_tokens for row in rows]))
    }


def drift_record(stats: UpdateStats) -> dict[str, Any]:
    """What a record says of the drift; every value None where it was not measured."""
    detail = stats.detail
    return {
        "policy/drift": stats.drift,
        "policy/drift_max": stats.drift_max,
        **{
            f"policy/drift_{name}": None if detail is None else getattr(detail, name)
            for name in (
                "p99",
                "k3",
                "ess",
                "signed",
                "weight",
                "weight_error",
                "tilt",
                "tilt_error",
                "tilt_share",
                "missing",
            )
        },
    }


def _not_finite_names(optimizer: Optimizer) -> str:
    """``; <weight> is not finite`` of the first such weight, or gradient, or nothing."""
    for name, p in optimizer.parameters.items():
        if not bool(p.detach().isfinite().all()):
            return f"; the weight {name} holds values that are not finite"
    for name, master in optimizer.masters.items():
        if master.grad is not None and not bool(master.grad.isfinite().all()):
            return f"; the first gradient that is not finite is that of {name}"
    return ""


def _stats(
    made: bool, read: UpdateReadback, lr: float, entropy_weight: float, fresh: bool, taught: bool
) -> UpdateStats:
    sums, tops, tokens = read.sums, read.tops, read.sums["tokens"]
    detail = drift.read(read.moments, read.counts, tops["drift"]) if fresh else None
    return UpdateStats(
        made=made,
        loss=sums["loss"],
        grad_norm=read.norm,
        lr=lr,
        num_tokens=int(tokens),
        entropy=sums["entropy"] / tokens,
        kl=sums["kl"] / tokens,
        clipped=sums["clipped"] / tokens,
        ratio_max=tops["ratio"],
        drift=detail.mean if detail else None,
        drift_max=detail.largest if detail else None,
        detail=detail,
        ess=correction.effective_share(sums["weight"], sums["squares"], sums["units"]),
        dropped=sums["dropped"] / tokens,
        lost=1 - sums["kept_mass"] / sums["mass"] if sums["mass"] else 0.0,
        weight=sums["weight"] / sums["units"],
        raw_max=tops["raw"],
        entropy_weight=entropy_weight,
        teacher_kl=sums["teacher"] / tokens if taught else None,
    )
