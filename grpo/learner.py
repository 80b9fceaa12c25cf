"""One update: micro-batches forward and backward into sums, then one optimizer step.

The denominators stand in the `Update` before its first backward, so how the rows are split over
micro-batches and ranks changes no gradient. ``old_logp`` of the step's first update is the detached logp
of the same forward, so its ratio is exactly 1; for later updates it is taken before the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

from grpo.loss import AGGREGATIONS, clip_loss, is_clipped, k3, log_ratio
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


class Learner:
    """Makes updates of a policy from batches of scored rows."""

    def __init__(self, policy: Policy, optimizer: Optimizer, loss: LossSection, *, temperature: float,
                 tokens_per_micro_batch: int, ranks: Ranks = Ranks()):
        self.policy, self.optimizer, self.loss, self.ranks = policy, optimizer, loss, ranks
        self.temperature, self.budget = temperature, tokens_per_micro_batch
        self.weight = AGGREGATIONS[loss.aggregation]
        self.reference: dict[str, Tensor] | None = policy.snapshot() if loss.beta else None
        self._old: dict[int, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        """Take the old log-probs that updates after the first will need, while the policy is still the old one."""
        self._old = {}
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
        parts = logp_T.detach().split([row.num_tokens for row in packed.rows])
        self._old |= {row.index: part for row, part in zip(packed.rows, parts)}

    def _mine(self, rows: Sequence[Row]) -> list[list[Row]]:
        """This rank's share of the micro-batches of `rows`."""
        return micro_batches(rows, self.budget)[self.ranks.rank::self.ranks.world]

    def update(self, update: Update) -> UpdateStats:
        """One optimizer step; the policy is left as it was if no row of the update can teach anything."""
        rows = [row for row in update.rows if row.forwarded]
        if not rows:
            return UpdateStats(made=False)
        before = {row.index for row in rows} & self._old.keys()
        while True:
            sums = torch.zeros(6, dtype=torch.float64, device=self.policy.device)
            tops = torch.zeros(2, dtype=torch.float64, device=self.policy.device)
            for chunk in self._mine(rows):
                self._forward_backward(pack(chunk, self.policy.device), update, sums, tops)
            stats = self._finish(sums, tops, fresh=self.loss.old != "sampler" or not before)
            if stats is not None:
                return stats

    def _forward_backward(self, packed: PackedRows, update: Update, sums: Tensor, tops: Tensor) -> None:
        ref_logp_T = self._reference_logp(packed)
        stats = self.policy.token_stats(packed, self.temperature)
        if packed.rows[0].index not in self._old:
            self._keep_old(packed, stats.logp_T)
        old_logp_T = torch.cat([self._old[row.index] for row in packed.rows])
        dtype, device = stats.logp_T.dtype, stats.logp_T.device
        lengths = torch.tensor([row.num_tokens for row in packed.rows], device=device)
        advantage_T, weight_T = (torch.tensor(values, dtype=dtype, device=device).repeat_interleave(lengths)
                                 for values in self._row_factors(packed, update))
        ratio_T = log_ratio(stats.logp_T, old_logp_T).exp()
        loss_T = clip_loss(ratio_T, advantage_T, self.loss.epsilon_low, self.loss.epsilon_high)
        kl_T = torch.zeros_like(loss_T)
        if ref_logp_T is not None:
            kl_T = k3(stats.logp_T, ref_logp_T)
            loss_T = loss_T + self.loss.beta * kl_T
        loss = (weight_T * loss_T).sum()
        (loss * self.optimizer.loss_scale.value).backward()
        clipped_T = is_clipped(ratio_T, advantage_T, self.loss.epsilon_low, self.loss.epsilon_high)
        self._add_up(packed, stats, old_logp_T, (loss, kl_T, clipped_T, ratio_T), sums, tops)

    def _row_factors(self, packed: PackedRows, update: Update) -> tuple[list[float], list[float]]:
        """(advantage, weight) of each row; the weight carries the update's denominator."""
        return ([row.advantage for row in packed.rows],
                [self.weight(row, update.denominators, self.loss.constant) for row in packed.rows])

    @torch.no_grad()
    def _reference_logp(self, packed: PackedRows) -> Tensor | None:
        if self.reference is None:
            return None
        with self.policy.as_if(self.reference):
            return self.policy.token_stats(packed, self.temperature).logp_T

    @torch.no_grad()
    def _add_up(self, packed: PackedRows, stats: TokenStats, old_logp_T: Tensor, terms: tuple[Tensor, ...],
                sums: Tensor, tops: Tensor) -> None:
        loss, kl_T, clipped_T, ratio_T = terms
        drift_T = (stack_logps(packed.rows, old_logp_T.device) - old_logp_T).abs()
        sums += torch.stack([x.double() for x in (loss, kl_T.sum(), clipped_T.sum(), stats.entropy_T.sum(),
                                                  drift_T.sum(), torch.tensor(len(drift_T), device=loss.device))])
        tops.copy_(torch.maximum(tops, torch.stack([ratio_T.max(), drift_T.max()]).double()))

    def _finish(self, sums: Tensor, tops: Tensor, fresh: bool) -> UpdateStats | None:
        """The optimizer step; None if a scaled loss overflowed, and the update is to be made again at a lower scale."""
        self.optimizer.unscale()
        gradients = self.optimizer.gradients()
        self.ranks.sum([*gradients, sums])
        self.ranks.max(tops)
        loss, kl, clipped, entropy, drift, tokens = sums.tolist()
        lr, norm = self.optimizer.lr, self.optimizer.clip()
        if not torch.isfinite(torch.tensor([loss, norm])).all():
            self.optimizer.drop_gradients()
            if math.isfinite(loss) and self.optimizer.loss_scale.lower():
                return None
            raise FloatingPointError(f"the update's loss is {loss} and its gradient's norm {norm}; the weights were "
                                     "not touched. Lower optim.lr, or train in float32")
        self.optimizer.step()
        self._refresh_reference()
        self.policy.weights_changed()
        return UpdateStats(True, loss, norm, lr, int(tokens), entropy / tokens, kl / tokens, clipped / tokens,
                           tops[0].item(), drift / tokens if fresh else None, tops[1].item() if fresh else None)

    def _refresh_reference(self) -> None:
        every = self.loss.reference_every
        if self.reference is not None and every and self.optimizer.num_updates % every == 0:
            self.reference = self.policy.snapshot()

    # -- what a resumed run needs ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state(), "reference": self.reference}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state["optimizer"])
        self.reference = None if state["reference"] is None else dict(state["reference"])
