"""The head with its vocabulary divided over ranks: each holds some rows of the weight, all the same hidden states.

Each rank takes its own tokens' statistics; four numbers a token are gathered, from which every rank makes the same
log-prob and entropy. A rank's unit gradient is its own tokens' probabilities under the whole distribution; the gradient
of the hidden states is summed over the ranks, that of the weight stays where the weight is.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from grpo.kernels.log_prob import chunked
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    chunk_rows,
    even_spans,
    logits_of,
)


@torch.no_grad()
def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    first: int,
    group: dist.ProcessGroup | None = None,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    rows: int | None = None,
) -> LogProbResult:
    """As `grpo.kernels.log_prob.fused_log_prob` for a `head` that holds the tokens from `first` on; `target_T` counts over all.

    Every rank of `group` calls it with the same hidden states, targets and `rows`.
    """
    number, head = len(target_T), head.without_gradient()
    logp, entropy, grads = [], [], []
    for start, end in even_spans(number, rows or chunk_rows(head)):
        chunk = ShardChunk(hidden_TD[start:end], target_T[start:end], head, first, group)
        logp.append(chunk.logp_R)
        entropy.append(chunk.entropy_R)
        if coefficients is not None:
            g_R, e_R = coefficients(start, end, chunk.logp_R, chunk.entropy_R)
            chunk.to_units(e_R is not None)
            grad_RD = chunked.backward(chunk, g_R, e_R, gradients)
            dist.all_reduce(grad_RD, group=group)
            grads.append(grad_RD.to(hidden_TD.dtype))
    return LogProbResult(
        torch.cat(logp), torch.cat(entropy), torch.cat(grads) if coefficients is not None else None
    )


class ShardChunk:
    """A rank's logits of some tokens, with statistics over all ranks."""

    def __init__(
        self,
        hidden_RD: Tensor,
        target_R: Tensor,
        head: Head,
        first: int,
        group: dist.ProcessGroup | None,
    ):
        self.hidden_RD, self.head = hidden_RD, head
        buffer_RV = chunked.Chunk.buffer(head, max(chunked.MIN_ROWS, len(target_R)))
        self.unit_RV = chunked.product(hidden_RD, head, buffer_RV)
        z_RV = logits_of(self.unit_RV.clone(), head)
        local_R = target_R - first
        self.mine_R = (local_R >= 0) & (local_R < z_RV.shape[1])
        self.target_R = local_R.clamp(0, z_RV.shape[1] - 1)
        taken_R = torch.where(self.mine_R, z_RV.gather(-1, self.target_R[:, None])[:, 0], 0.0)
        z_RV = self._without_target(z_RV, -torch.inf)
        top_R = z_RV.amax(-1).clamp_min(torch.finfo(z_RV.dtype).min)
        e_RV = (z_RV - top_R[:, None]).exp()
        moment_R = torch.where(e_RV > 0, (z_RV - top_R[:, None]) * e_RV, 0.0).sum(-1)
        self.logp_R, self.entropy_R, self.lse_R, self.rest_R = merged(
            torch.stack([top_R, e_RV.sum(-1), moment_R, taken_R]), group
        )

    def _without_target(self, z_RV: Tensor, value: float) -> Tensor:
        """`z_RV` with `value` in place of the target, on the rank that holds it."""
        at_R1 = self.target_R[:, None]
        kept_R1 = torch.where(
            self.mine_R[:, None], torch.full_like(z_RV[:, :1], value), z_RV.gather(-1, at_R1)
        )
        return z_RV.scatter(-1, at_R1, kept_R1)

    def to_units(self, with_entropy: bool) -> None:
        """The products become p - onehot(target) of this rank's tokens, times the cap's slope."""
        z_RV = logits_of(self.unit_RV.clone(), self.head)
        self.slope_RV = None
        if self.head.softcap:
            self.slope_RV = 1 - (z_RV * (self.head.temperature / self.head.softcap)).square()
        p_RV = (z_RV - self.lse_R[:, None]).exp()
        self.prob_RV = p_RV.clone() if with_entropy else None
        at_R1 = self.target_R[:, None]
        p_RV.scatter_(
            -1,
            at_R1,
            torch.where(self.mine_R[:, None], -self.rest_R[:, None], p_RV.gather(-1, at_R1)),
        )
        self.unit_RV = (p_RV if self.slope_RV is None else p_RV * self.slope_RV).to(
            self.unit_RV.dtype
        )

    def mix(self, g_R: Tensor, e_R: Tensor) -> None:
        """See `chunked.ChunkSteps.mix`."""
        rise_RV = torch.xlogy(self.prob_RV, self.prob_RV) + self.prob_RV * self.entropy_R[:, None]
        rise_RV = rise_RV * e_R[:, None] * (1 if self.slope_RV is None else self.slope_RV)
        self.unit_RV = (rise_RV + self.unit_RV * g_R[:, None]).to(self.unit_RV.dtype)


def merged(
    own_4R: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp, entropy, log-sum-exp, others' mass) from each rank's largest logit, sum, moment and target's logit.

    Sums and moments leave the target out, whose logit one rank alone gives, so that a confident token keeps its digits.
    """
    every = [torch.empty_like(own_4R) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own_4R.contiguous(), group=group)
    top_NR, sum_NR, moment_NR, taken_NR = torch.stack(every, 1)
    taken_R = taken_NR.sum(0)
    top_R = torch.maximum(top_NR.amax(0), taken_R)
    shift_NR = top_NR - top_R
    weight_NR = shift_NR.exp()
    others_R = (sum_NR * weight_NR).sum(0)
    moment_R = torch.where(weight_NR > 0, (moment_NR + shift_NR * sum_NR) * weight_NR, 0.0).sum(0)
    own_R = (taken_R - top_R).exp()
    total_R = others_R + own_R
    rest_R = others_R / total_R
    logp_R = torch.where(
        rest_R < 0.5, torch.log1p(-rest_R.clamp(max=0.5)), taken_R - top_R - total_R.log()
    )
    entropy_R = total_R.log() - (moment_R + (taken_R - top_R) * own_R) / total_R
    return logp_R, entropy_R, top_R + total_R.log(), rest_R
