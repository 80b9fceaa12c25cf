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

from typing import Sequence

import torch
from torch import Tensor

from grpo.kernels.head.spec import Coefficients, Gradients, Head, Swept, buffer_dtype, logits_of, statistics_dtype

BLOCK_BYTES = 2 * 2**20
SLICE = 4096  # vocabulary entries whose gradient or upcast weight is held at once
MIN_ROWS = 8  # products of fewer rows may round differently


@torch.no_grad()
def sweep(hidden_TD: Tensor, head: Head, target_T: Tensor, coefficients: Coefficients | None = None,
          gradients: Gradients | None = None, spans: Sequence[tuple[int, int]] = ()) -> Swept:
    """See `grpo.kernels.head.sweep`."""
    number, dtype = len(target_T), statistics_dtype(hidden_TD.dtype)
    logp_T, entropy_T = (torch.empty(number, dtype=dtype, device=hidden_TD.device) for _ in range(2))
    grad_TD = None if coefficients is None else torch.zeros_like(hidden_TD)
    longest = max((end - start for start, end in spans), default=0)
    buffer_RV = torch.empty(max(MIN_ROWS, longest), len(head.weight_VD), dtype=buffer_dtype(head),
                            device=hidden_TD.device)
    for start, end in spans:
        part = slice(start, end)
        hidden_RD, target_R = hidden_TD[part], target_T[part]
        chunk = Chunk(hidden_RD, target_R, head, buffer_RV)
        logp_T[part], entropy_T[part] = chunk.statistics(coefficients is not None)
        if grad_TD is not None:
            g_R, e_R = coefficients(start, end, logp_T[part], entropy_T[part])
            grad_TD[part] = chunk.backward(g_R, e_R, gradients)
    return Swept(logp_T, entropy_T, grad_TD)


class Chunk:
    """Some tokens with their logits, which become their unit gradients."""

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD, self.target_R, self.head = hidden_RD, target_R, head
        self.unit_RV = product(hidden_RD, head, buffer_RV)
        self.entropy_R: Tensor | None = None

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the logits are replaced by the unit gradients."""
        found = [unit_block(self.unit_RV[a:b], self.target_R[a:b], self.head, with_gradient)
                 for a, b in self._blocks()]
        logp_R, self.entropy_R = (torch.cat(parts) for parts in zip(*found))
        return logp_R, self.entropy_R

    def _blocks(self) -> list[tuple[int, int]]:
        size = len(self.target_R)
        if self.unit_RV.device.type == "cpu":
            size = max(2, BLOCK_BYTES // (self.unit_RV.shape[1] * 4))
        return [(a, min(a + size, len(self.target_R))) for a in range(0, len(self.target_R), size)]

    def _products_again(self) -> Tensor:
        size = (max(MIN_ROWS, len(self.target_R)), self.unit_RV.shape[1])
        return product(self.hidden_RD, self.head, self.unit_RV.new_empty(size))

    def backward(self, g_R: Tensor, e_R: Tensor | None, gradients: Gradients | None) -> Tensor:
        """dL/dh of the chunk; adds dL/dW and dL/db to `gradients`."""
        row_R, unit_RV, hidden_RD = -self.head.factor * g_R, self.unit_RV, self.hidden_RD
        if e_R is not None:
            again_RV = self._products_again() if self.head.softcap else unit_RV
            for a, b in self._blocks():
                prob_BV, slope_BV = probabilities(again_RV[a:b], self.target_R[a:b], self.head)
                add_entropy(unit_RV[a:b], prob_BV, slope_BV, g_R[a:b], e_R[a:b], self.entropy_R[a:b])
            row_R = torch.full_like(g_R, -self.head.factor)
        kept = _kept(row_R) if e_R is None else None
        if kept is not None:
            unit_RV, row_R, hidden_RD = unit_RV[kept], row_R[kept], hidden_RD[kept]
        grad_RD = times_weight(unit_RV, self.head).mul_(row_R[:, None])
        if gradients is not None:
            add_outer(unit_RV, hidden_RD, row_R, self.head, gradients)
        if kept is None:
            return grad_RD
        return torch.zeros_like(self.hidden_RD, dtype=grad_RD.dtype).index_copy_(0, kept, grad_RD)


def _kept(row_R: Tensor) -> Tensor | None:
    """The rows whose coefficient is not 0 where leaving the others out saves more than it costs; CPU only.

    Elsewhere to know their number the host would have to wait for the device.
    """
    if row_R.device.type != "cpu":
        return None
    kept = row_R.nonzero()[:, 0]
    return kept if len(kept) <= 0.9 * len(row_R) else None


def unit_block(product_BV: Tensor, target_B: Tensor, head: Head, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """(logp_B, entropy_B) of some rows of products; with gradient these become d(-logp)/d(product) over factor.

    Everything is relative to the largest logit of a row, so logits far from 0 lose no digits.
    """
    z_BV = logits_of(product_BV, head)
    slope_BV = 1 - (z_BV * (head.temperature / head.softcap)).square_() if head.softcap and with_gradient else None
    z_BV.sub_(z_BV.amax(-1, keepdim=True))
    p_BV = torch.softmax(z_BV, -1)
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


def probabilities(kept_BV: Tensor, target_B: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """(p_BV, slope of the soft-cap or None) from unit gradients, or with a soft-cap from products."""
    if head.softcap:
        z_BV = logits_of(kept_BV, head)
        return z_BV.softmax(-1), 1 - (z_BV * (head.temperature / head.softcap)).square_()
    one_B1 = torch.ones(len(target_B), 1, dtype=statistics_dtype(kept_BV.dtype), device=kept_BV.device)
    return kept_BV.to(one_B1.dtype, copy=True).scatter_add_(-1, target_B[:, None], one_B1), None


def add_entropy(unit_BV: Tensor, prob_BV: Tensor, slope_BV: Tensor | None, g_B: Tensor, e_B: Tensor,
                entropy_B: Tensor) -> None:
    """unit := g unit + e p (log p + entropy) slope, whose product with -factor is the gradient of the products."""
    rise_BV = torch.xlogy(prob_BV, prob_BV).addcmul_(prob_BV, entropy_B[:, None]).mul_(e_B[:, None])
    if slope_BV is not None:
        rise_BV.mul_(slope_BV)
    unit_BV.copy_(rise_BV.addcmul_(unit_BV.to(rise_BV.dtype), g_B[:, None]))


# ---- the three products -----------------------------------------------------------------------------------------


def product(hidden_RD: Tensor, head: Head, buffer_RV: Tensor) -> Tensor:
    """h W' in `buffer_RV`'s first rows, at its dtype."""
    number = len(hidden_RD)
    if number < MIN_ROWS:
        hidden_RD = torch.cat([hidden_RD, hidden_RD.new_zeros(MIN_ROWS - number, hidden_RD.shape[1])])
    out_RV = buffer_RV[:len(hidden_RD)]
    weight_VD = head.weight_VD
    if weight_VD.dtype == buffer_RV.dtype:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out=out_RV)
    elif weight_VD.dtype == torch.bfloat16:
        torch.mm(hidden_RD.to(weight_VD.dtype), weight_VD.T, out_dtype=buffer_RV.dtype, out=out_RV)
    else:
        for a, b in _slices(weight_VD):
            out_RV[:, a:b] = hidden_RD.to(buffer_RV.dtype) @ weight_VD[a:b].to(buffer_RV.dtype).T
    return out_RV[:number]


def times_weight(unit_RV: Tensor, head: Head) -> Tensor:
    """unit W in the statistics' dtype."""
    weight_VD = head.weight_VD
    if weight_VD.dtype == torch.float16:
        total_RD = torch.zeros(len(unit_RV), weight_VD.shape[1], dtype=unit_RV.dtype, device=unit_RV.device)
        for a, b in _slices(weight_VD):
            total_RD.addmm_(unit_RV[:, a:b], weight_VD[a:b].to(unit_RV.dtype))
        return total_RD
    return (unit_RV.to(weight_VD.dtype) @ weight_VD).to(statistics_dtype(weight_VD.dtype))


def add_outer(unit_RV: Tensor, hidden_RD: Tensor, row_R: Tensor, head: Head, gradients: Gradients) -> None:
    """gradients += unit' (row h), summed over chunks in float32."""
    dtype = torch.float32 if head.weight_VD.dtype == torch.float16 else head.weight_VD.dtype
    scaled_RD = (hidden_RD.to(row_R.dtype) * row_R[:, None]).to(dtype)
    if dtype == gradients.weight_VD.dtype:
        gradients.weight_VD.addmm_(unit_RV.T, scaled_RD)
    else:
        for a, b in _slices(head.weight_VD):
            gradients.weight_VD[a:b] += unit_RV[:, a:b].to(dtype).T @ scaled_RD
    if gradients.bias_V is not None:
        gradients.bias_V.addmv_(unit_RV.to(gradients.bias_V.dtype).T, row_R.to(gradients.bias_V.dtype))


def _slices(weight_VD: Tensor) -> list[tuple[int, int]]:
    return [(a, min(a + SLICE, len(weight_VD))) for a in range(0, len(weight_VD), SLICE)]
