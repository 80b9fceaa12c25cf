"""The output head, the map from a hidden state to the logits of the next token, and how its work is cut into chunks."""

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
        """The derivative of a logit with respect to its product h W', without the soft-cap's slope."""
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
    """Per token: its log-prob, the entropy, and dL/dh if there were coefficients (else None)."""

    logp_T: Tensor
    entropy_T: Tensor
    hidden_TD: Tensor | None = None


CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 2400 * 2**20}
MIN_CHUNK = 128
MAX_CHUNK = {"cpu": 512, "cuda": 8192}


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
    rows = rows or chunk_rows(head)
    if not lengths or max(lengths) > rows:
        return []
    spans = []
    start = 0
    end = 0
    for length in lengths:
        if end + length - start > rows:
            spans.append((start, end))
            start = end
        end += length
    spans.append((start, end))
    return spans


def even_spans(number: int, rows: int) -> list[tuple[int, int]]:
    """Chunks (start, end) of `rows` tokens, the last one shorter."""
    return [(start, min(start + rows, number)) for start in range(0, number, rows)]


def buffer_dtype(head: Head, device: str | None = None) -> torch.dtype:
    """The dtype of a chunk's logits: float32 (or finer), except bfloat16 on a CPU, which stays bfloat16."""
    dtype = head.weight_VD.dtype
    device = device or head.weight_VD.device.type
    return dtype if dtype == torch.bfloat16 and device == "cpu" else statistics_dtype(dtype)


def aligned_rows(rows: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, size] whose rows start at multiples of 16 elements, as Triton's and cuBLAS's wide accesses need.

    A vocabulary's size is seldom such a multiple.
    """
    aligned_size = -(-size // 16) * 16
    return torch.empty(rows, aligned_size, dtype=dtype, device=device)[:, :size]


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def logits_of(product_RV: Tensor, head: Head) -> Tensor:
    """The logits from the products h W', in the statistics' dtype; in place where the dtype is that already."""
    z_RV = product_RV.to(statistics_dtype(product_RV.dtype))
    if head.bias_V is not None:
        z_RV = z_RV.add_(head.bias_V)
    if head.softcap:
        z_RV = z_RV.mul_(head.scale / head.softcap).tanh_().mul_(head.softcap / head.temperature)
    elif head.factor != 1:
        z_RV = z_RV.mul_(head.factor)
    return z_RV
