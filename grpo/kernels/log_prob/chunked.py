"""The head in plain torch, a chunk of tokens at a time: three products with gradient, two with a frozen head, else one.

A chunk's logits are computed once. Blocks of a few of its rows, small enough for the cache, become the unit
gradient U = p - onehot(target) in place; p of the target is minus the mass of all others, so that a confident
token keeps its digits. With g = dL/dlogp of each row, dL/dh = -factor g U W and dL/dW = -factor U' (g h): the
coefficient multiplies [R, D], never [R, V].

Products are those of the weight's dtype. In bfloat16 on a CPU that rounds the logits themselves (torch has no
product of bfloat16 with a float32 result there); on CUDA they are float32. float16 is taken up to float32,
whose range the small entries of U need.
"""

from __future__ import annotations

from typing import Protocol, Sequence

import torch
from torch import Tensor

from grpo.kernels.linear import available, onednn
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    buffer_dtype,
    logits_of,
    statistics_dtype,
)

BLOCK_BYTES = 8 * 2**20  # fewer would cost threads more waits for each other than caches save
SLICE_BYTES = (
    8 * 2**20
)  # of the weight, in float32, that is cast or copied, or whose gradient is, at once
MIN_ROWS = 8  # products of fewer rows may round differently


@torch.no_grad()
def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    spans: Sequence[tuple[int, int]] = (),
    steps: type[ChunkSteps] | None = None,
) -> LogProbResult:
    """See `grpo.kernels.log_prob.fused_log_prob`; `steps` are what is done between the products."""
    steps = steps or Chunk
    number, dtype = len(target_T), statistics_dtype(hidden_TD.dtype)
    logp_T, entropy_T = (
        torch.empty(number, dtype=dtype, device=hidden_TD.device) for _ in range(2)
    )
    grad_TD = None if coefficients is None else torch.zeros_like(hidden_TD)
    longest = max((end - start for start, end in spans), default=0)
    buffer_RV = steps.buffer(head, max(MIN_ROWS, longest))
    for start, end in spans:
        part = slice(start, end)
        hidden_RD, target_R = hidden_TD[part], target_T[part]
        chunk = steps(hidden_RD, target_R, head, buffer_RV)
        logp_T[part], entropy_T[part] = chunk.statistics(coefficients is not None)
        if grad_TD is not None:
            g_R, e_R = coefficients(start, end, logp_T[part], entropy_T[part])
            grad_TD[part] = backward(chunk, g_R, e_R, gradients)
    return LogProbResult(logp_T, entropy_T, grad_TD)


class ChunkSteps(Protocol):
    """Some tokens: their logits are computed, then statistics taken, and with gradient ``unit_RV`` is U."""

    hidden_RD: Tensor
    target_R: Tensor
    head: Head
    unit_RV: Tensor
    logp_R: Tensor | None
    entropy_R: Tensor | None

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        """What holds the logits of so many tokens."""
        ...

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor): ...

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the logits are replaced by the unit gradients."""
        ...

    def mix(self, g_R: Tensor, e_R: Tensor) -> None:
        """unit := g unit + e dEntropy, up to the sign and factor that `backward` applies."""
        ...


class Chunk(ChunkSteps):
    """The steps in torch: blocks of a few rows at a time, which on a CPU stay in its cache."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        return torch.empty(
            rows, len(head.weight_VD), dtype=buffer_dtype(head), device=head.weight_VD.device
        )

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD, self.target_R, self.head = hidden_RD, target_R, head
        self.unit_RV = product(hidden_RD, head, buffer_RV)
        self.logp_R = self.entropy_R = None

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        blocks, dtype = _blocks(self.unit_RV), statistics_dtype(self.unit_RV.dtype)
        scratch_2BV = self.unit_RV.new_empty(2, blocks[0][1], self.unit_RV.shape[1], dtype=dtype)
        found = [
            unit_block(
                self.unit_RV[a:b],
                self.target_R[a:b],
                self.head,
                with_gradient,
                scratch_2BV[:, : b - a],
            )
            for a, b in blocks
        ]
        self.logp_R, self.entropy_R = (torch.cat(parts) for parts in zip(*found))
        return self.logp_R, self.entropy_R

    def mix(self, g_R: Tensor, e_R: Tensor) -> None:
        if self.head.softcap:
            mix_again(self, g_R, e_R)
            return
        for a, b in _blocks(self.unit_RV):
            prob_BV = self.unit_RV[a:b].to(g_R.dtype, copy=True)
            prob_BV.scatter_add_(-1, self.target_R[a:b, None], prob_BV.new_ones(b - a, 1))
            add_entropy(self, slice(a, b), prob_BV, None, g_R, e_R)


def mix_again(chunk: ChunkSteps, g_R: Tensor, e_R: Tensor) -> None:
    """`ChunkSteps.mix` where a soft-cap's slope hides the probabilities: the products are made again."""
    head, size = chunk.head, max(MIN_ROWS, len(chunk.target_R))
    again_RV = product(chunk.hidden_RD, head, Chunk.buffer(head, size))
    for a, b in _blocks(again_RV):
        z_BV = logits_of(again_RV[a:b], head)
        slope_BV = 1 - (z_BV * (head.temperature / head.softcap)).square_()
        add_entropy(chunk, slice(a, b), z_BV.softmax(-1), slope_BV, g_R, e_R)


def _blocks(rows_RV: Tensor) -> list[tuple[int, int]]:
    number, size = rows_RV.shape
    step = max(2, BLOCK_BYTES // (size * 4)) if rows_RV.device.type == "cpu" else number
    return [(a, min(a + step, number)) for a in range(0, number, step)]


def backward(
    chunk: ChunkSteps, g_R: Tensor, e_R: Tensor | None, gradients: Gradients | None
) -> Tensor:
    """dL/dh of the chunk; adds dL/dW and dL/db to `gradients`."""
    row_R, hidden_RD, kept = -chunk.head.factor * g_R, chunk.hidden_RD, None
    if e_R is None:
        kept = _kept(row_R)
    else:
        chunk.mix(g_R, e_R)
        row_R = torch.full_like(g_R, -chunk.head.factor)
    unit_RV = chunk.unit_RV
    if kept is not None and not len(kept):
        return torch.zeros_like(chunk.hidden_RD, dtype=statistics_dtype(unit_RV.dtype))
    if kept is not None:
        unit_RV, row_R, hidden_RD = unit_RV[kept], row_R[kept], hidden_RD[kept]
    grad_RD = times_weight(unit_RV, chunk.head).mul_(row_R[:, None])
    if gradients is not None:
        add_outer(unit_RV, hidden_RD, row_R, chunk.head, gradients)
    if kept is None:
        return grad_RD
    return torch.zeros_like(chunk.hidden_RD, dtype=grad_RD.dtype).index_copy_(0, kept, grad_RD)


def _kept(row_R: Tensor) -> Tensor | None:
    """The rows whose coefficient is not 0 where leaving the others out saves more than it costs; CPU only.

    Elsewhere to know their number the host would have to wait for the device.
    """
    if row_R.device.type != "cpu":
        return None
    kept = row_R.nonzero()[:, 0]
    return kept if len(kept) <= 0.9 * len(row_R) else None


def unit_block(
    product_BV: Tensor, target_B: Tensor, head: Head, with_gradient: bool, scratch_2BV: Tensor
) -> tuple[Tensor, Tensor]:
    """(logp_B, entropy_B) of some rows of products; with gradient these become d(-logp)/d(product) over factor.

    Everything is relative to the largest logit of a row, so logits far from 0 lose no digits. The scratch memory is
    used again for each block: fresh pages would cost more than the arithmetic.
    """
    z_BV, p_BV = scratch_2BV
    z_BV = logits_of(product_BV if product_BV.dtype == z_BV.dtype else z_BV.copy_(product_BV), head)
    slope_BV = (
        1 - (z_BV * (head.temperature / head.softcap)).square_()
        if head.softcap and with_gradient
        else None
    )
    z_BV.sub_(z_BV.amax(-1, keepdim=True))
    torch.softmax(z_BV, -1, out=p_BV)
    at_B = target_B[:, None]
    largest_B = p_BV.amax(-1).log_()
    entropy_B = -(torch.linalg.vecdot(p_BV, z_BV) + largest_B)
    logp_B = z_BV.gather(-1, at_B)[:, 0] + largest_B
    p_BV.scatter_(-1, at_B, 0.0)
    other_B = p_BV.sum(-1)
    logp_B = torch.where(other_B < 0.5, torch.log1p(-other_B.clamp(max=0.5)), logp_B)
    if with_gradient:
        p_BV.scatter_(-1, at_B, -other_B[:, None])
        product_BV.copy_(p_BV if slope_BV is None else p_BV.mul_(slope_BV))
    return logp_B, entropy_B


def add_entropy(
    chunk: ChunkSteps,
    block: slice,
    prob_BV: Tensor,
    slope_BV: Tensor | None,
    g_R: Tensor,
    e_R: Tensor,
) -> None:
    """unit := g unit + e p (log p + entropy) slope in a block of rows; the target's log p is known to more digits."""
    at_B, taken_B = chunk.target_R[block, None], (chunk.logp_R + chunk.entropy_R)[block, None]
    taken_B = taken_B * prob_BV.gather(-1, at_B)
    rise_BV = torch.xlogy(prob_BV, prob_BV).addcmul_(prob_BV, chunk.entropy_R[block, None])
    rise_BV.scatter_(-1, at_B, taken_B).mul_(e_R[block, None])
    if slope_BV is not None:
        rise_BV.mul_(slope_BV)
    unit_BV = chunk.unit_RV[block]
    unit_BV.copy_(rise_BV.addcmul_(unit_BV.to(rise_BV.dtype), g_R[block, None]))


# ---- the three products -----------------------------------------------------------------------------------------


def product(hidden_RD: Tensor, head: Head, buffer_RV: Tensor) -> Tensor:
    """h W' at `buffer_RV`'s dtype, in its first rows."""
    number = len(hidden_RD)
    if number < MIN_ROWS:
        hidden_RD = torch.cat(
            [hidden_RD, hidden_RD.new_zeros(MIN_ROWS - number, hidden_RD.shape[1])]
        )
    out_RV, weight_VD = buffer_RV[: len(hidden_RD)], head.weight_VD
    if by_onednn(weight_VD) and buffer_RV.dtype == torch.float32:
        for a, b in slices(weight_VD):  # oneDNN copies what it reads
            out_RV[:, a:b] = onednn(hidden_RD.float(), weight_VD[a:b])
    elif weight_VD.dtype == buffer_RV.dtype:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out=out_RV)
    elif weight_VD.dtype == torch.bfloat16:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out_dtype=buffer_RV.dtype, out=out_RV)
    else:
        for a, b in slices(weight_VD):
            out_RV[:, a:b] = hidden_RD.to(buffer_RV.dtype) @ weight_VD[a:b].to(buffer_RV.dtype).T
    return out_RV[:number]


def by_onednn(weight_VD: Tensor) -> bool:
    """Whether oneDNN takes the products (`grpo.kernels.linear`): float32 on a CPU where MKL's are slow."""
    return weight_VD.device.type == "cpu" and weight_VD.dtype == torch.float32 and available()


def times_weight(unit_RV: Tensor, head: Head) -> Tensor:
    """unit W in the statistics' dtype."""
    weight_VD = head.weight_VD
    if weight_VD.dtype == torch.float16:
        total_RD = torch.zeros(
            len(unit_RV), weight_VD.shape[1], dtype=unit_RV.dtype, device=unit_RV.device
        )
        for a, b in slices(weight_VD):
            total_RD.addmm_(unit_RV[:, a:b], weight_VD[a:b].to(unit_RV.dtype))
        return total_RD
    if by_onednn(weight_VD) and unit_RV.dtype == torch.float32:
        return sum(onednn(unit_RV[:, a:b], weight_VD[a:b].T) for a, b in slices(weight_VD))
    return (unit_RV.to(weight_VD.dtype) @ weight_VD).to(statistics_dtype(weight_VD.dtype))


def add_outer(
    unit_RV: Tensor, hidden_RD: Tensor, row_R: Tensor, head: Head, gradients: Gradients
) -> None:
    """gradients += unit' (row h), summed over chunks in float32."""
    dtype = torch.float32 if head.weight_VD.dtype == torch.float16 else head.weight_VD.dtype
    scaled_RD = (hidden_RD.to(row_R.dtype) * row_R[:, None]).to(dtype)
    if by_onednn(head.weight_VD) and gradients.weight_VD.dtype == unit_RV.dtype == torch.float32:
        for a, b in slices(head.weight_VD):
            gradients.weight_VD[a:b] += onednn(unit_RV[:, a:b].T, scaled_RD.T)
    elif dtype == gradients.weight_VD.dtype:
        gradients.weight_VD.addmm_(unit_RV.T.to(dtype), scaled_RD)
    elif unit_RV.device.type == "cuda":
        torch.addmm(
            gradients.weight_VD,
            unit_RV.to(dtype).T,
            scaled_RD,
            out_dtype=torch.float32,
            out=gradients.weight_VD,
        )
    else:
        for a, b in slices(head.weight_VD):
            gradients.weight_VD[a:b] += unit_RV[:, a:b].to(dtype).T @ scaled_RD
    if gradients.bias_V is not None:
        gradients.bias_V.addmv_(
            unit_RV.to(gradients.bias_V.dtype).T, row_R.to(gradients.bias_V.dtype)
        )


def slices(weight_VD: Tensor) -> list[tuple[int, int]]:
    """Parts (from, to) of the vocabulary whose weights or gradients are cast, or put in another order, at once."""
    size, width = weight_VD.shape
    step = max(64, SLICE_BYTES // (4 * width) // 64 * 64)
    return [(a, min(a + step, size)) for a in range(0, size, step)]
