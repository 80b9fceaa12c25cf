"""The head in plain torch, a chunk of tokens at a time: three products with gradient, two with a frozen head, else one.

A chunk's logits are computed once. Blocks of a few of its rows, small enough for the cache, become in place the
gradient of -logp with respect to the logits, U = p - onehot(target); its entry at the target is minus the mass of
all others, so that a confident token keeps its digits. With g = dL/dlogp of each row, dL/dh = -factor g U W and
dL/dW = -factor U' (g h): the coefficient multiplies [R, D], never [R, V].

Products are those of the weight's dtype. In bfloat16 on a CPU that rounds the logits themselves (torch has no
product of bfloat16 with a float32 result there); on CUDA they are float32. float16 is upcast to float32,
whose range the small entries of U need.
"""

from __future__ import annotations

from typing import Protocol, Sequence

import torch
from torch import Tensor

from grpo.kernels.linear import available, min_weight_size, onednn
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    buffer_dtype,
    logits_of,
    statistics_dtype,
)

BLOCK_BYTES = (
    8 * 2**20
)  # with smaller blocks, synchronizing threads costs more than the cache saves
SLICE_BYTES = (
    8 * 2**20
)  # of the weight, in float32, that is cast or copied at once; of its gradient too
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
    """See `grpo.kernels.log_prob.fused_log_prob`; `steps` does the work between the products."""
    steps = steps or Chunk
    dtype = statistics_dtype(hidden_TD.dtype)
    logp_T = torch.empty(len(target_T), dtype=dtype, device=hidden_TD.device)
    entropy_T = torch.empty_like(logp_T)
    grad_TD = None if coefficients is None else torch.zeros_like(hidden_TD)
    longest = max((end - start for start, end in spans), default=0)
    buffer_RV = steps.buffer(head, max(MIN_ROWS, longest))
    for start, end in spans:
        part = slice(start, end)
        chunk = steps(hidden_TD[part], target_T[part], head, buffer_RV)
        logp_T[part], entropy_T[part] = chunk.statistics(coefficients is not None)
        if coefficients is not None and grad_TD is not None:
            g_R, e_R = coefficients(start, end, logp_T[part], entropy_T[part])
            grad_TD[part] = backward(chunk, g_R, e_R, gradients)
    return LogProbResult(logp_T, entropy_T, grad_TD)


class LogitGradient(Protocol):
    """Some tokens with U = d(-logp)/d(logits) in ``logit_grad_RV``, up to the head's factor."""

    hidden_RD: Tensor
    head: Head
    logit_grad_RV: Tensor

    def add_entropy_gradient(self, g_R: Tensor, e_R: Tensor) -> None:
        """U := g U + e dEntropy, up to the sign and factor that `backward` applies."""
        ...


class ChunkSteps(LogitGradient, Protocol):
    """A chunk of tokens: first logits, then statistics, and with gradient U in the logits' memory."""

    target_R: Tensor
    logp_R: Tensor
    entropy_R: Tensor

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        """Memory for the logits of `rows` tokens."""
        ...

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor): ...

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the logits are replaced by U."""
        ...


class Chunk(ChunkSteps):
    """The steps in torch: blocks of a few rows at a time, which on a CPU stay in its cache."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        device = head.weight_VD.device
        return torch.empty(rows, len(head.weight_VD), dtype=buffer_dtype(head), device=device)

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD = hidden_RD
        self.target_R = target_R
        self.head = head
        self.logit_grad_RV = product(hidden_RD, head, buffer_RV)

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        product_RV = self.logit_grad_RV
        blocks = _blocks(product_RV)
        dtype = statistics_dtype(product_RV.dtype)
        scratch_2BV = product_RV.new_empty(2, blocks[0][1], product_RV.shape[1], dtype=dtype)
        logps = []
        entropies = []
        for start, end in blocks:
            logp_B, entropy_B = block_statistics(
                product_RV[start:end],
                self.target_R[start:end],
                self.head,
                with_gradient=with_gradient,
                scratch_2BV=scratch_2BV[:, : end - start],
            )
            logps.append(logp_B)
            entropies.append(entropy_B)
        self.logp_R = torch.cat(logps)
        self.entropy_R = torch.cat(entropies)
        return self.logp_R, self.entropy_R

    def add_entropy_gradient(self, g_R: Tensor, e_R: Tensor) -> None:
        if self.head.softcap:
            add_entropy_gradient_from_logits(self, g_R, e_R)
            return
        for start, end in _blocks(self.logit_grad_RV):
            prob_BV = self.logit_grad_RV[start:end].to(g_R.dtype, copy=True)
            one_B1 = prob_BV.new_ones(end - start, 1)
            prob_BV.scatter_add_(-1, self.target_R[start:end, None], one_B1)
            block = slice(start, end)
            add_entropy_block(self, block, prob_BV, slope_BV=None, g_R=g_R, e_R=e_R)


def add_entropy_gradient_from_logits(chunk: ChunkSteps, g_R: Tensor, e_R: Tensor) -> None:
    """`ChunkSteps.add_entropy_gradient` under a soft-cap, whose slope hides the probabilities: recompute the logits."""
    head = chunk.head
    buffer_RV = Chunk.buffer(head, max(MIN_ROWS, len(chunk.target_R)))
    product_RV = product(chunk.hidden_RD, head, buffer_RV)
    for start, end in _blocks(product_RV):
        z_BV = logits_of(product_RV[start:end], head)
        slope_BV = _softcap_slope(z_BV, head)
        block = slice(start, end)
        add_entropy_block(chunk, block, z_BV.softmax(-1), slope_BV=slope_BV, g_R=g_R, e_R=e_R)


def _softcap_slope(z_BV: Tensor, head: Head) -> Tensor:
    """The soft-cap's derivative, from the capped logits."""
    return 1 - (z_BV * (head.temperature / head.softcap)).square_()


def _blocks(rows_RV: Tensor) -> list[tuple[int, int]]:
    number, size = rows_RV.shape
    step = max(2, BLOCK_BYTES // (size * 4)) if rows_RV.device.type == "cpu" else number
    return [(start, min(start + step, number)) for start in range(0, number, step)]


def backward(
    chunk: LogitGradient, g_R: Tensor, e_R: Tensor | None, gradients: Gradients | None
) -> Tensor:
    """dL/dh of the chunk; adds dL/dW and dL/db to `gradients`."""
    if e_R is None:
        row_R = -chunk.head.factor * g_R
        index_K = _rows_worth_picking(row_R)
    else:
        chunk.add_entropy_gradient(g_R, e_R)
        row_R = torch.full_like(g_R, -chunk.head.factor)
        index_K = None
    logit_grad_RV = chunk.logit_grad_RV
    hidden_RD = chunk.hidden_RD
    if index_K is None:
        return _products(logit_grad_RV, hidden_RD, row_R, chunk.head, gradients=gradients)
    if not len(index_K):
        return torch.zeros_like(hidden_RD, dtype=statistics_dtype(logit_grad_RV.dtype))
    grad_KD = _products(
        logit_grad_RV[index_K],
        hidden_RD[index_K],
        row_R[index_K],
        chunk.head,
        gradients=gradients,
    )
    return torch.zeros_like(hidden_RD, dtype=grad_KD.dtype).index_copy_(0, index_K, grad_KD)


def _products(
    logit_grad_RV: Tensor,
    hidden_RD: Tensor,
    row_R: Tensor,
    head: Head,
    *,
    gradients: Gradients | None,
) -> Tensor:
    grad_RD = times_weight(logit_grad_RV, head).mul_(row_R[:, None])
    if gradients is not None:
        add_weight_gradient(logit_grad_RV, hidden_RD, row_R, head, gradients=gradients)
    return grad_RD


def _rows_worth_picking(row_R: Tensor) -> Tensor | None:
    """The rows with a coefficient other than 0, if leaving out the others saves more than it costs; CPU only.

    Elsewhere the host would have to wait for the device to learn their number.
    """
    if row_R.device.type != "cpu":
        return None
    index_K = row_R.nonzero()[:, 0]
    return index_K if len(index_K) <= 0.9 * len(row_R) else None


def block_statistics(
    product_BV: Tensor,
    target_B: Tensor,
    head: Head,
    *,
    with_gradient: bool,
    scratch_2BV: Tensor,
) -> tuple[Tensor, Tensor]:
    """(logp_B, entropy_B) of some rows of products; with gradient these become U.

    Everything is relative to the largest logit of a row, so logits far from 0 lose no digits. The scratch memory is
    reused for each block: fresh pages would cost more than the arithmetic.
    """
    z_BV, p_BV = scratch_2BV
    if product_BV.dtype == z_BV.dtype:
        z_BV = logits_of(product_BV, head)
    else:
        z_BV = logits_of(z_BV.copy_(product_BV), head)
    slope_BV = _softcap_slope(z_BV, head) if head.softcap and with_gradient else None
    z_BV.sub_(z_BV.amax(-1, keepdim=True))
    torch.softmax(z_BV, -1, out=p_BV)
    target_B1 = target_B[:, None]
    largest_logp_B = p_BV.amax(-1).log_()
    entropy_B = -(torch.linalg.vecdot(p_BV, z_BV) + largest_logp_B)
    logp_B = z_BV.gather(-1, target_B1)[:, 0] + largest_logp_B
    p_BV.scatter_(-1, target_B1, 0.0)
    other_B = p_BV.sum(-1)
    logp_B = torch.where(other_B < 0.5, torch.log1p(-other_B.clamp(max=0.5)), logp_B)
    if with_gradient:
        p_BV.scatter_(-1, target_B1, -other_B[:, None])
        product_BV.copy_(p_BV if slope_BV is None else p_BV.mul_(slope_BV))
    return logp_B, entropy_B


def add_entropy_block(
    chunk: ChunkSteps,
    block: slice,
    prob_BV: Tensor,
    *,
    slope_BV: Tensor | None,
    g_R: Tensor,
    e_R: Tensor,
) -> None:
    """U := g U + e p (log p + entropy) slope in a block of rows; the target's log p is known to more digits."""
    target_B1 = chunk.target_R[block, None]
    entropy_B1 = chunk.entropy_R[block, None]
    taken_B1 = (chunk.logp_R + chunk.entropy_R)[block, None]
    taken_B1 = taken_B1 * prob_BV.gather(-1, target_B1)
    rise_BV = torch.xlogy(prob_BV, prob_BV).addcmul_(prob_BV, entropy_B1)
    rise_BV.scatter_(-1, target_B1, taken_B1).mul_(e_R[block, None])
    if slope_BV is not None:
        rise_BV.mul_(slope_BV)
    grad_BV = chunk.logit_grad_RV[block]
    grad_BV.copy_(rise_BV.addcmul_(grad_BV.to(rise_BV.dtype), g_R[block, None]))


# ---- the three products -----------------------------------------------------------------------------------------


def product(hidden_RD: Tensor, head: Head, buffer_RV: Tensor) -> Tensor:
    """The product h W' at `buffer_RV`'s dtype, in its first rows."""
    number, width = hidden_RD.shape
    if number < MIN_ROWS:
        padding = hidden_RD.new_zeros(MIN_ROWS - number, width)
        hidden_RD = torch.cat([hidden_RD, padding])
    out_RV = buffer_RV[: len(hidden_RD)]
    weight_VD = head.weight_VD
    if by_onednn(weight_VD) and buffer_RV.dtype == torch.float32:
        for start, end in slices(weight_VD):  # oneDNN copies what it reads
            out_RV[:, start:end] = onednn(hidden_RD.float(), weight_VD[start:end])
    elif weight_VD.dtype == buffer_RV.dtype:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out=out_RV)
    elif weight_VD.dtype == torch.bfloat16:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out_dtype=buffer_RV.dtype, out=out_RV)
    else:
        hidden_RD = hidden_RD.to(buffer_RV.dtype)
        for start, end in slices(weight_VD):
            out_RV[:, start:end] = hidden_RD @ weight_VD[start:end].to(buffer_RV.dtype).T
    return out_RV[:number]


def by_onednn(weight_VD: Tensor) -> bool:
    """Whether oneDNN takes the products (`grpo.kernels.linear`): float32 on a CPU where MKL's are slow."""
    is_float32 = weight_VD.device.type == "cpu" and weight_VD.dtype == torch.float32
    return is_float32 and weight_VD.numel() >= min_weight_size() and available()


def times_weight(logit_grad_RV: Tensor, head: Head) -> Tensor:
    """U W in the statistics' dtype."""
    weight_VD = head.weight_VD
    dtype = logit_grad_RV.dtype
    is_half = weight_VD.dtype == torch.float16
    if not is_half and not (by_onednn(weight_VD) and dtype == torch.float32):
        grad_RD = logit_grad_RV.to(weight_VD.dtype) @ weight_VD
        return grad_RD.to(statistics_dtype(weight_VD.dtype))
    grad_RD = logit_grad_RV.new_zeros(len(logit_grad_RV), weight_VD.shape[1])
    for start, end in slices(weight_VD):
        part_RV = logit_grad_RV[:, start:end]
        if is_half:
            grad_RD.addmm_(part_RV, weight_VD[start:end].to(dtype))
        else:
            grad_RD += onednn(part_RV, weight_VD[start:end].T)
    return grad_RD


def add_weight_gradient(
    logit_grad_RV: Tensor, hidden_RD: Tensor, row_R: Tensor, head: Head, *, gradients: Gradients
) -> None:
    """Add U' (row h) to the head's gradients, which are summed over chunks in float32."""
    weight_VD = head.weight_VD
    total_VD = gradients.weight_VD
    dtype = torch.float32 if weight_VD.dtype == torch.float16 else weight_VD.dtype
    scaled_RD = (hidden_RD.to(row_R.dtype) * row_R[:, None]).to(dtype)
    if by_onednn(weight_VD) and total_VD.dtype == logit_grad_RV.dtype == torch.float32:
        for start, end in slices(weight_VD):
            total_VD[start:end] += onednn(logit_grad_RV[:, start:end].T, scaled_RD.T)
    elif dtype == total_VD.dtype:
        total_VD.addmm_(logit_grad_RV.T.to(dtype), scaled_RD)
    elif logit_grad_RV.device.type == "cuda":
        grad_VR = logit_grad_RV.to(dtype).T
        torch.addmm(total_VD, grad_VR, scaled_RD, out_dtype=torch.float32, out=total_VD)
    else:
        for start, end in slices(weight_VD):
            total_VD[start:end] += logit_grad_RV[:, start:end].to(dtype).T @ scaled_RD
    if gradients.bias_V is not None:
        dtype = gradients.bias_V.dtype
        gradients.bias_V.addmv_(logit_grad_RV.to(dtype).T, row_R.to(dtype))


def slices(weight_VD: Tensor) -> list[tuple[int, int]]:
    """Parts (from, to) of the vocabulary whose weights or gradients are cast or reordered at once."""
    size, width = weight_VD.shape
    step = max(64, SLICE_BYTES // (4 * width) // 64 * 64)
    return [(start, min(start + step, size)) for start in range(0, size, step)]
