"""What a head is: the map from a hidden state to the logits of the next token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Sequence

import torch
from torch import Tensor

Coefficients = Callable[[int, int, Tensor, Tensor], "tuple[Tensor, Tensor | None]"]
"""(start, end, logp_R, entropy_R) of some tokens -> (dL/dlogp_R, dL/dentropy_R or None)."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """logits = cap(scale (h W' + b)) / temperature, cap(z) = softcap tanh(z / softcap).

    ``weight_VD`` [vocabulary, width] holds only tokens that can be sampled; ``softcap`` 0 means none.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    temperature: float = 1.0

    @property
    def factor(self) -> float:
        """The derivative of a logit by its product, but for the soft-cap."""
        return self.scale / self.temperature

    def without_gradient(self) -> Head:
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return replace(self, weight_VD=self.weight_VD.detach(), bias_V=bias_V)


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Where the gradients of a trainable head are added: ``weight_VD`` and ``bias_V`` in float32 (or finer)."""

    weight_VD: Tensor
    bias_V: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LogProbResult:
    """Of each token: its log-prob, the entropy, and dL/dh where coefficients were given (else None)."""

    logp_T: Tensor
    entropy_T: Tensor
    hidden_TD: Tensor | None = None


CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 2400 * 2**20}
MIN_CHUNK, MAX_CHUNK = 128, {"cpu": 512, "cuda": 8192}


def chunk_rows(head: Head, device: str | None = None) -> int:
    """Tokens whose logits are held at once, for all back-ends, on the head's device or another."""
    device = device or head.weight_VD.device.type
    itemsize = buffer_dtype(head, device).itemsize
    rows = CHUNK_BYTES[device] // (len(head.weight_VD) * itemsize)
    return max(MIN_CHUNK, min(MAX_CHUNK[device], rows // 64 * 64))


def chunk_spans(
    head: Head, lengths: Sequence[int], rows: int | None = None
) -> list[tuple[int, int]]:
    """Chunks (start, end) of at most `rows` tokens made of whole completions of these lengths; [] if one is longer."""
    rows, spans, at = rows or chunk_rows(head), [(0, 0)], 0
    if not lengths or max(lengths) > rows:
        return []
    for length in lengths:
        if at + length - spans[-1][0] > rows:
            spans.append((at, at))
        at += length
        spans[-1] = (spans[-1][0], at)
    return spans


def even_spans(number: int, rows: int) -> list[tuple[int, int]]:
    """Chunks (start, end) of `rows` tokens, the last one shorter."""
    return [(start, min(start + rows, number)) for start in range(0, number, rows)]


def buffer_dtype(head: Head, device: str | None = None) -> torch.dtype:
    """The dtype of a chunk's logits: float32 (or finer), but the weight's own for bfloat16 on a CPU."""
    keeps = (
        head.weight_VD.dtype == torch.bfloat16 and (device or head.weight_VD.device.type) == "cpu"
    )
    return head.weight_VD.dtype if keeps else statistics_dtype(head.weight_VD.dtype)


def aligned_rows(rows: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, size] whose rows begin at multiples of 16 elements, as Triton's and cuBLAS's wide accesses need.

    A tokenizer's size is seldom such a multiple.
    """
    return torch.empty(rows, -(-size // 16) * 16, dtype=dtype, device=device)[:, :size]


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def logits_of(product_RV: Tensor, head: Head) -> Tensor:
    """The logits from the bare products h W', in the statistics' dtype; may work in place on float32."""
    z_RV = product_RV.to(statistics_dtype(product_RV.dtype))
    if head.bias_V is not None:
        z_RV = z_RV.add_(head.bias_V)
    if head.softcap:
        z_RV = z_RV.mul_(head.scale / head.softcap).tanh_().mul_(head.softcap / head.temperature)
    elif head.factor != 1:
        z_RV = z_RV.mul_(head.factor)
    return z_RV
