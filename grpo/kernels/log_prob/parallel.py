"""The head with its vocabulary divided over ranks: each holds some rows of the weight, all the same hidden states.

Each rank computes the statistics of its own tokens; four numbers per token are gathered, from which every rank computes
the same log-prob and entropy. A rank's logit gradient is the probabilities of its tokens under the whole distribution;
the gradient of the hidden states is summed over the ranks, that of the weight stays on its rank.
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
    """`grpo.kernels.log_prob.fused_log_prob` for a `head` that holds the tokens from `first` on.

    `target_T` counts over the whole vocabulary. Every rank of `group` calls it with the same hidden states, targets and
    `rows`.
    """
    head = head.without_gradient()
    logps = []
    entropies = []
    grads = []
    for start, end in even_spans(len(target_T), rows or chunk_rows(head)):
        part = slice(start, end)
        chunk = ShardChunk(hidden_TD[part], target_T[part], head, first, group=group)
        logps.append(chunk.logp_R)
        entropies.append(chunk.entropy_R)
        if coefficients is not None:
            g_R, e_R = coefficients(start, end, chunk.logp_R, chunk.entropy_R)
            chunk.to_logit_gradient(with_entropy=e_R is not None)
            grad_RD = chunked.backward(chunk, g_R, e_R, gradients)
            dist.all_reduce(grad_RD, group=group)
            grads.append(grad_RD.to(hidden_TD.dtype))
    grad_TD = torch.cat(grads) if coefficients is not None else None
    return LogProbResult(torch.cat(logps), torch.cat(entropies), grad_TD)


class ShardChunk(chunked.LogitGradient):
    """A rank's logits of some tokens, with statistics over all ranks."""

    def __init__(
        self,
        hidden_RD: Tensor,
        target_R: Tensor,
        head: Head,
        first: int,
        *,
        group: dist.ProcessGroup | None,
    ):
        self.hidden_RD = hidden_RD
        self.head = head
        buffer_RV = chunked.Chunk.buffer(head, max(chunked.MIN_ROWS, len(target_R)))
        self.logit_grad_RV = chunked.product(hidden_RD, head, buffer_RV)
        z_RV = logits_of(self.logit_grad_RV.clone(), head)
        local_R = target_R - first
        self.is_local_R = (local_R >= 0) & (local_R < z_RV.shape[1])
        self.target_R1 = local_R.clamp(0, z_RV.shape[1] - 1)[:, None]
        taken_R = torch.where(self.is_local_R, z_RV.gather(-1, self.target_R1)[:, 0], 0.0)
        z_RV = self._with_target(z_RV, torch.full_like(z_RV[:, :1], -torch.inf))
        top_R = z_RV.amax(-1).clamp_min(torch.finfo(z_RV.dtype).min)
        e_RV = (z_RV - top_R[:, None]).exp()
        moment_R = torch.where(e_RV > 0, (z_RV - top_R[:, None]) * e_RV, 0.0).sum(-1)
        local_4R = torch.stack([top_R, e_RV.sum(-1), moment_R, taken_R])
        self.logp_R, self.entropy_R, self.lse_R, self.rest_R = merge_ranks(local_4R, group)

    def _with_target(self, x_RV: Tensor, value_R1: Tensor) -> Tensor:
        """`x_RV` with `value_R1` at the target, on the rank that holds it."""
        old_R1 = x_RV.gather(-1, self.target_R1)
        new_R1 = torch.where(self.is_local_R[:, None], value_R1, old_R1)
        return x_RV.scatter(-1, self.target_R1, new_R1)

    def to_logit_gradient(self, *, with_entropy: bool) -> None:
        """The products become p - onehot(target) of this rank's tokens, times the soft-cap's slope."""
        head = self.head
        z_RV = logits_of(self.logit_grad_RV.clone(), head)
        self.slope_RV: Tensor | None = None
        if head.softcap:
            self.slope_RV = 1 - (z_RV * (head.temperature / head.softcap)).square()
        p_RV = (z_RV - self.lse_R[:, None]).exp()
        if with_entropy:
            self.prob_RV = p_RV
        grad_RV = self._with_target(p_RV, -self.rest_R[:, None])
        if self.slope_RV is not None:
            grad_RV = grad_RV * self.slope_RV
        self.logit_grad_RV = grad_RV.to(self.logit_grad_RV.dtype)

    def add_entropy_gradient(self, g_R: Tensor, e_R: Tensor) -> None:
        """See `chunked.LogitGradient.add_entropy_gradient`."""
        rise_RV = torch.xlogy(self.prob_RV, self.prob_RV) + self.prob_RV * self.entropy_R[:, None]
        rise_RV = rise_RV * e_R[:, None]
        if self.slope_RV is not None:
            rise_RV = rise_RV * self.slope_RV
        grad_RV = rise_RV + self.logit_grad_RV * g_R[:, None]
        self.logit_grad_RV = grad_RV.to(self.logit_grad_RV.dtype)


def merge_ranks(
    local_4R: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp, entropy, log-sum-exp, others' mass) from each rank's largest logit, sum, moment and target's logit.

    Sums and moments leave out the target, whose logit comes from one rank alone, so that a confident token keeps its
    digits.
    """
    ranks = [torch.empty_like(local_4R) for _ in range(dist.get_world_size(group))]
    dist.all_gather(ranks, local_4R.contiguous(), group=group)
    top_NR, sum_NR, moment_NR, taken_NR = torch.stack(ranks, 1)
    taken_R = taken_NR.sum(0)
    top_R = torch.maximum(top_NR.amax(0), taken_R)
    shift_NR = top_NR - top_R
    weight_NR = shift_NR.exp()
    others_R = (sum_NR * weight_NR).sum(0)
    moment_R = torch.where(weight_NR > 0, (moment_NR + shift_NR * sum_NR) * weight_NR, 0.0).sum(0)
    e_taken_R = (taken_R - top_R).exp()
    total_R = others_R + e_taken_R
    rest_R = others_R / total_R
    logp_R = taken_R - top_R - total_R.log()
    logp_R = torch.where(rest_R < 0.5, torch.log1p(-rest_R.clamp(max=0.5)), logp_R)
    entropy_R = total_R.log() - (moment_R + (taken_R - top_R) * e_taken_R) / total_R
    return logp_R, entropy_R, top_R + total_R.log(), rest_R
