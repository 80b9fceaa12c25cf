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
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

from grpo import correction
from grpo.entropy import EntropyBonus
from grpo.loss import (
    AGGREGATIONS,
    KLS,
    POLICIES,
    REWARD_KLS,
    Tokens,
    distillation,
    off_policy_kept,
    select_top_entropy,
    spans_update,
)
from grpo.optimizer import Optimizer
from grpo.pack import micro_batches, pack
from grpo.policy import Policy, TokenStats
from grpo.ranks import Ranks
from grpo.recipe import LossSection
from grpo.types import Batch, PackedRows, Row, Update, stack_logps


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one update did, over all ranks. ``made`` is False if nothing could be learnt from its rows.

    ``num_tokens`` completion tokens were forwarded; means are over them. ``drift`` is the mean of
    ``|sampled_logp - old_logp|``, None in updates whose old_logp is the sampler's or not fresh.
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


SUMS = ("loss", "kl", "clipped", "entropy", "drift", "tokens", "teacher", "reached", "dropped", "weight", "squares",
        "units", "mass", "kept_mass")
TOPS = ("ratio", "drift", "raw")


@dataclass(slots=True, eq=False)
class Tally:
    """Sums and largest values over the micro-batches of an update, and the rows whose tokens teach."""

    device: torch.device
    sums: dict[str, Tensor] = field(default_factory=dict)
    tops: dict[str, Tensor] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sums = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in SUMS}
        self.tops = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in TOPS}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] += value.double().sum()

    def top(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.tops[name] = torch.maximum(self.tops[name], value.double().max())

    def over(self, ranks: Ranks) -> tuple[dict[str, float], dict[str, float]]:
        """The sums and largest values over all ranks, as numbers."""
        sums, tops = torch.stack(list(self.sums.values())), torch.stack(list(self.tops.values()))
        ranks.sum([sums])
        ranks.max(tops)
        return dict(zip(SUMS, sums.tolist())), dict(zip(TOPS, tops.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What was decided over a whole update before its first backward, by row index."""

    flag: Mapping[int, Tensor] = field(default_factory=dict)
    keep: Mapping[int, Tensor] = field(default_factory=dict)
    entropy: float | None = None


class Learner:
    """Makes updates of a policy from batches of scored rows."""

    def __init__(self, policy: Policy, optimizer: Optimizer, loss: LossSection, *, temperature: float,
                 tokens_per_micro_batch: int, ranks: Ranks = Ranks(), teacher: Policy | None = None):
        self.policy, self.optimizer, self.loss, self.ranks = policy, optimizer, loss, ranks
        self.temperature, self.budget, self.teacher = temperature, tokens_per_micro_batch, teacher
        self.weight, self.rule = AGGREGATIONS[loss.aggregation], POLICIES[loss.policy]
        self.bonus = EntropyBonus(loss.entropy, loss.entropy_target, loss.entropy_step)
        self.reference: dict[str, Tensor] | None = policy.snapshot() if loss.beta else None
        self._old: dict[int, Tensor] = {}
        self._reached: set[int] = set()

    def begin(self, batch: Batch) -> None:
        """Take the old log-probs that updates after the first will need, while the policy is still the old one."""
        self._old, self._reached = {}, set()
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

    def _mine(self, rows: Sequence[Row]) -> list[list[Row]]:
        """This rank's share of the micro-batches of `rows`."""
        return micro_batches(rows, self.budget)[self.ranks.rank::self.ranks.world]

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
        rows = [row for row in update.rows if row.forwarded]
        if not rows:
            return UpdateStats(made=False)
        before = {row.index for row in rows} & self._old.keys()
        survey = self._survey(rows) if spans_update(self.loss) else Survey()
        entropy_weight = self.bonus.coefficient(survey.entropy)
        while True:
            tally = Tally(self.policy.device)
            for chunk in self._mine(rows):
                self._forward_backward(pack(chunk, self.policy.device), update, survey, entropy_weight, tally)
            stats = self._finish(tally, entropy_weight, fresh=self.loss.old != "sampler" or not before)
            if stats is not None:
                self._reached |= set(self.ranks.gather(sorted(tally.reached)))
                return stats

    @property
    def reached(self) -> set[int]:
        """The rows of the step of which some token had a weight above 0 in some update, on any rank."""
        return self._reached

    @torch.no_grad()
    def _survey(self, rows: Sequence[Row]) -> Survey:
        """Select over the tokens of all ranks, in the order of their rows, before anything is learnt."""
        found: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for chunk in self._mine(rows):
            packed = pack(chunk, self.policy.device)
            stats = self.policy.token_stats(packed, self.temperature)
            logps, entropies = (_by_row(packed.rows, part) for part in (stats.logp_T, stats.entropy_T))
            found += [(row.index, logps[row.index].cpu(), entropies[row.index].cpu(),
                       self._old.get(row.index, logps[row.index]).cpu()) for row in packed.rows]
        seen = {index: parts for index, *parts in self.ranks.gather(found)}
        ordered = sorted(rows, key=lambda row: row.index)
        logp_T, entropy_T, old_T = (torch.cat([seen[row.index][i] for row in ordered]) for i in range(3))
        flag_T = self.rule.select(self._tokens(ordered, logp_T, old_T), self.loss, self.optimizer.num_updates) \
            if self.rule.select else None
        keep_T = select_top_entropy(entropy_T, self.loss.top_entropy) if self.loss.top_entropy < 1 else None
        return Survey(*({} if part is None else _by_row(ordered, part) for part in (flag_T, keep_T)),
                      entropy=float(entropy_T.double().mean()))

    def _tokens(self, rows: Sequence[Row], logp_T: Tensor, old_logp_T: Tensor,
                flag: Mapping[int, Tensor] | None = None) -> Tokens:
        """The rows' tokens as the policy losses see them."""
        device, dtype = logp_T.device, logp_T.dtype
        length_R = torch.tensor([row.num_tokens for row in rows], device=device)
        row_T = torch.arange(len(rows), device=device).repeat_interleave(length_R)
        advantage_T = torch.cat([torch.as_tensor(row.advantage, dtype=dtype).expand(row.num_tokens) for row in rows])
        return Tokens(logp_T, old_logp_T, stack_logps(rows, device).to(dtype), advantage_T.to(device), row_T, length_R,
                      torch.cat([flag[row.index] for row in rows]).to(device) if flag else None)

    def _forward_backward(self, packed: PackedRows, update: Update, survey: Survey, entropy_weight: float,
                          tally: Tally) -> None:
        ref_logp_T, teacher_logp_T = self._reference_logp(packed), self._teacher_logp(packed)
        stats = self.policy.token_stats(packed, self.temperature, entropy_gradient=entropy_weight > 0)
        if packed.rows[0].index not in self._old:
            self._keep_old(packed, stats.logp_T)
        old_logp_T = torch.cat([self._old[row.index] for row in packed.rows])
        known_T = old_logp_T.isfinite()  # the sampler's may be missing; such a token weighs 0, whatever its ratio
        old_logp_T = torch.where(known_T, old_logp_T, stats.logp_T.detach())
        tokens = self._tokens(packed.rows, stats.logp_T, old_logp_T, survey.flag)
        share_T = torch.tensor([self.weight(row, update.denominators, self.loss.constant) for row in packed.rows],
                               dtype=stats.logp_T.dtype, device=stats.logp_T.device)[tokens.row_T]
        weights = correction.weights(tokens, self.loss)
        weight_T = weights.weight_T * known_T
        if self.loss.off_policy_mask:
            weight_T = weight_T * off_policy_kept(tokens, self.loss.off_policy_mask)
        loss_T = self._policy_loss(packed, tokens, survey)
        kl_T = teacher_T = torch.zeros_like(loss_T)
        if ref_logp_T is not None:
            kl_T = KLS[self.loss.kl](tokens, ref_logp_T)
        if ref_logp_T is not None and self.loss.kl_in == "loss":
            loss_T = loss_T + self.loss.beta * kl_T
        if teacher_logp_T is not None:
            teacher_T = distillation(tokens, teacher_logp_T)
            loss_T = loss_T + self.loss.teacher_weight * teacher_T
        loss = _where_weighed(share_T * weight_T, loss_T)
        if entropy_weight:
            loss = loss - entropy_weight * stats.entropy_T.sum() / update.denominators.num_tokens
        (loss * self.optimizer.loss_scale.value).backward()
        with torch.no_grad():
            tally.add(loss=loss, kl=kl_T, teacher=teacher_T)
            self._add_up(packed, stats, tokens, weights, weight_T, share_T, tally)

    def _policy_loss(self, packed: PackedRows, tokens: Tokens, survey: Survey) -> Tensor:
        loss_T = self.rule.loss(tokens, self.loss)
        if not survey.keep:
            return loss_T
        return loss_T * torch.cat([survey.keep[row.index] for row in packed.rows]).to(loss_T.device)

    @torch.no_grad()
    def _reference_logp(self, packed: PackedRows) -> Tensor | None:
        if self.reference is None:
            return None
        with self.policy.as_if(self.reference):
            return self.policy.token_stats(packed, self.temperature).logp_T

    @torch.no_grad()
    def _teacher_logp(self, packed: PackedRows) -> Tensor | None:
        return None if self.teacher is None else self.teacher.token_stats(packed, self.temperature).logp_T

    def _add_up(self, packed: PackedRows, stats: TokenStats, tokens: Tokens, weights: correction.Weights,
                weight_T: Tensor, share_T: Tensor, tally: Tally) -> None:
        drift_T = (tokens.sampled_logp_T - tokens.old_logp_T).abs().nan_to_num(0.0)
        mass_T = share_T * tokens.advantage_T.abs()
        ones_T, dropped_T, unit_T = torch.ones_like(drift_T), weight_T == 0, weights.unit_T
        tally.add(clipped=self.rule.limits(tokens, self.loss), entropy=stats.entropy_T, drift=drift_T, tokens=ones_T,
                  reached=~dropped_T, dropped=dropped_T, weight=weight_T * unit_T,
                  squares=weight_T.square() * unit_T, units=unit_T, mass=mass_T, kept_mass=mass_T * weight_T)
        tally.top(ratio=tokens.ratio_T, drift=drift_T, raw=weights.raw_T)
        teaches = torch.zeros(len(packed.rows), dtype=torch.long, device=unit_T.device).index_add(
            0, tokens.row_T, (~dropped_T).long())
        tally.reached |= {row.index for row, number in zip(packed.rows, teaches.tolist()) if number}

    def _finish(self, tally: Tally, entropy_weight: float, fresh: bool) -> UpdateStats | None:
        """The optimizer step; None if a scaled loss overflowed, and the update is to be made again at a lower scale."""
        self.optimizer.unscale()
        gradients = self.optimizer.gradients()
        self.ranks.sum(gradients)
        sums, tops = tally.over(self.ranks)
        made = bool(sums["reached"]) or entropy_weight > 0
        lr, norm = self.optimizer.lr, self.optimizer.clip()
        if not torch.isfinite(torch.tensor([sums["loss"], norm])).all():
            self.optimizer.drop_gradients()
            if math.isfinite(sums["loss"]) and self.optimizer.loss_scale.lower():
                return None
            raise FloatingPointError(f"the update's loss is {sums['loss']} and its gradient's norm {norm}; the weights "
                                     "were not touched. Lower optim.lr, or train in float32")
        if made:
            self.optimizer.step()
            self._refresh_reference()
            self.policy.weights_changed()
        else:
            self.optimizer.drop_gradients()
        return _stats(made, sums, tops, norm, lr, entropy_weight, fresh, self.teacher is not None)

    def _refresh_reference(self) -> None:
        every = self.loss.reference_every
        if self.reference is not None and every and self.optimizer.num_updates % every == 0:
            self.reference = self.policy.snapshot()

    # -- what a resumed run needs ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state(), "reference": self.reference, "bonus": self.bonus.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state["optimizer"])
        self.reference = None if state["reference"] is None else dict(state["reference"])
        self.bonus.restore(state["bonus"])


def _by_row(rows: Sequence[Row], value_T: Tensor) -> dict[int, Tensor]:
    """Row index: its part of `value_T`."""
    return {row.index: part for row, part in zip(rows, value_T.split([row.num_tokens for row in rows]))}


def _where_weighed(weight_T: Tensor, loss_T: Tensor) -> Tensor:
    """The weighted sum; a token of weight 0 adds nothing even where its loss is not a number."""
    return (weight_T * torch.where(weight_T == 0, 0.0, loss_T)).sum()


def _stats(made: bool, sums: Mapping[str, float], tops: Mapping[str, float], norm: float, lr: float,
           entropy_weight: float, fresh: bool, taught: bool) -> UpdateStats:
    tokens = sums["tokens"]
    return UpdateStats(
        made=made, loss=sums["loss"], grad_norm=norm, lr=lr, num_tokens=int(tokens), entropy=sums["entropy"] / tokens,
        kl=sums["kl"] / tokens, clipped=sums["clipped"] / tokens, ratio_max=tops["ratio"],
        drift=sums["drift"] / tokens if fresh else None, drift_max=tops["drift"] if fresh else None,
        ess=correction.effective_share(sums["weight"], sums["squares"], sums["units"]),
        dropped=sums["dropped"] / tokens, lost=1 - sums["kept_mass"] / sums["mass"] if sums["mass"] else 0.0,
        weight=sums["weight"] / sums["units"], raw_max=tops["raw"], entropy_weight=entropy_weight,
        teacher_kl=sums["teacher"] / tokens if taught else None)
