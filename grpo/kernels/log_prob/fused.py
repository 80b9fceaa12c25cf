"""The head on CUDA with Triton: the products are cuBLAS's (or the first one ours), with one kernel in between.

Two forms of the same chunk. ``rows``: a float32 product by cuBLAS, then `row_gradient_kernel` in the product's memory;
works for any shape. ``tiles``: the first product with its epilogue (`exp_tiles_kernel`), which needs bfloat16 and a
width that is a multiple of 8. Weights of float64 are left to ``chunked``. Which form is faster on which shape has not
been measured yet; `FORM` decides, ``rows`` by default.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Sequence

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from grpo.kernels.log_prob import chunked, triton_kernels
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    aligned_rows,
    statistics_dtype,
)

FORM = "rows"
BLOCK = 4096
TILE = {"BM": 128, "BN": 128, "BK": 64}  # 128 x 256 spills: its epilogue holds two tiles of float32
WARPS = 8
STAGES = 4
MERGE_ROWS = 64  # of a program of `merge_tiles_kernel`
GRADIENT_ROWS = 32  # of a program of `tile_gradient_kernel`


def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    spans: Sequence[tuple[int, int]] = (),
) -> LogProbResult:
    """See `grpo.kernels.log_prob.fused_log_prob`."""
    return chunked.fused_log_prob(
        hidden_TD,
        head,
        target_T,
        coefficients=coefficients,
        gradients=gradients,
        spans=spans,
        steps=_steps_for(head),
    )


def _steps_for(head: Head) -> type[chunked.ChunkSteps]:
    if head.weight_VD.dtype == torch.float64:
        return chunked.Chunk
    return TileChunk if FORM == "tiles" and _fits_tiles(head) else RowChunk


def _fits_tiles(head: Head) -> bool:
    return head.weight_VD.dtype == torch.bfloat16 and head.weight_VD.shape[1] % 8 == 0


class RowChunk(chunked.ChunkSteps):
    """Products in float32, then one pass of `row_gradient_kernel`."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        return _aligned_buffer(head, rows, statistics_dtype(head.weight_VD.dtype))

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD = hidden_RD
        self.target_R = target_R
        self.head = head
        self.logit_grad_RV = chunked.product(hidden_RD, head, buffer_RV)

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the products become U in the weight's dtype."""
        head = self.head
        z_RV = self.logit_grad_RV
        rows, size = z_RV.shape
        grad_RV = _in_the_same_memory(z_RV, head.weight_VD.dtype)
        self.logp_R = torch.empty(rows, device=z_RV.device)
        self.entropy_R = torch.empty(rows, device=z_RV.device)
        grid = (rows,)
        triton_kernels.row_gradient_kernel[grid](
            z_ptr=z_RV,
            bias_ptr=z_RV if head.bias_V is None else head.bias_V,
            grad_ptr=grad_RV,
            target_ptr=self.target_R,
            logp_ptr=self.logp_R,
            entropy_ptr=self.entropy_R,
            size=size,
            stride_z=z_RV.stride(0),
            stride_grad=grad_RV.stride(0),
            GRADIENT=with_gradient,
            BLOCK=BLOCK,
            num_warps=8,
            **_head_arguments(head),
        )
        self.logit_grad_RV = grad_RV
        return self.logp_R, self.entropy_R

    def add_entropy_gradient(self, g_R: Tensor, e_R: Tensor) -> None:
        _add_entropy_gradient(self, g_R, e_R)


class TileChunk(chunked.ChunkSteps):
    """The first product with its epilogue: scaled exponentials are stored, never a logit."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        return _aligned_buffer(head, rows, head.weight_VD.dtype)

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD = hidden_RD
        self.target_R = target_R
        self.head = head
        self.logit_grad_RV = buffer_RV[: len(hidden_RD)]

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the buffer holds U."""
        rows, size = self.logit_grad_RV.shape
        tiles = -(-size // TILE["BN"])
        empty = partial(self.logit_grad_RV.new_empty, dtype=torch.float32)
        peak, total, moment = empty((3, tiles, rows))
        taken_R, self.logp_R, self.entropy_R = empty((3, rows))
        peak_R, total_R, rest_R = empty((3, rows))
        parts = {"peak_ptr": peak, "sum_ptr": total, "moment_ptr": moment, "taken_ptr": taken_R}
        merged = {"peak_row_ptr": peak_R, "total_ptr": total_R, "rest_ptr": rest_R}
        self._exponentials(parts, store=with_gradient)
        self._merge(parts, merged)
        if with_gradient:
            self._gradient(peak, merged)
        return self.logp_R, self.entropy_R

    def _exponentials(self, parts: dict[str, Tensor], *, store: bool) -> None:
        """The first product, and of each tile its statistics."""
        head = self.head
        rows, size = self.logit_grad_RV.shape
        hidden_RD = self.hidden_RD.to(head.weight_VD.dtype).contiguous()
        grid = (-(-rows // TILE["BM"]) * -(-size // TILE["BN"]),)
        triton_kernels.exp_tiles_kernel[grid](
            x_desc=_tiled(hidden_RD, rows=TILE["BM"]),
            w_desc=_tiled(head.weight_VD, rows=TILE["BN"]),
            e_ptr=self.logit_grad_RV,
            bias_ptr=self.logit_grad_RV if head.bias_V is None else head.bias_V,
            target_ptr=self.target_R,
            num_rows=rows,
            size=size,
            width=head.weight_VD.shape[1],
            stride_e=self.logit_grad_RV.stride(0),
            STORE=store,
            PRECISION="ieee",
            num_warps=WARPS,
            num_stages=STAGES,
            **parts,
            **TILE,
            **_head_arguments(head),
        )

    def _merge(self, parts: dict[str, Tensor], merged: dict[str, Tensor]) -> None:
        """The statistics of each row from those of its tiles."""
        tiles, rows = parts["peak_ptr"].shape
        grid = (-(-rows // MERGE_ROWS),)
        triton_kernels.merge_tiles_kernel[grid](
            logp_ptr=self.logp_R,
            entropy_ptr=self.entropy_R,
            num_rows=rows,
            num_tiles=tiles,
            BM=MERGE_ROWS,
            num_warps=2,
            **parts,
            **merged,
        )

    def _gradient(self, peak: Tensor, merged: dict[str, Tensor]) -> None:
        """The exponentials become U."""
        rows, size = self.logit_grad_RV.shape
        grid = (-(-rows // GRADIENT_ROWS) * len(peak),)
        triton_kernels.tile_gradient_kernel[grid](
            e_ptr=self.logit_grad_RV,
            target_ptr=self.target_R,
            peak_ptr=peak,
            num_rows=rows,
            size=size,
            stride_e=self.logit_grad_RV.stride(0),
            softcap=self.head.softcap,
            temperature=self.head.temperature,
            CAP=bool(self.head.softcap),
            BM=GRADIENT_ROWS,
            BN=TILE["BN"],
            num_warps=4,
            **merged,
        )

    def add_entropy_gradient(self, g_R: Tensor, e_R: Tensor) -> None:
        _add_entropy_gradient(self, g_R, e_R)


def _add_entropy_gradient(chunk: RowChunk | TileChunk, g_R: Tensor, e_R: Tensor) -> None:
    """U := g U + e p (log p + entropy); under a soft-cap p comes from recomputed products."""
    if chunk.head.softcap:
        chunked.add_entropy_gradient_from_logits(chunk, g_R, e_R)
        return
    grad_RV = chunk.logit_grad_RV
    rows, size = grad_RV.shape
    grid = (rows,)
    triton_kernels.entropy_gradient_kernel[grid](
        grad_ptr=grad_RV,
        target_ptr=chunk.target_R,
        g_ptr=g_R,
        e_ptr=e_R,
        logp_ptr=chunk.logp_R,
        entropy_ptr=chunk.entropy_R,
        size=size,
        stride_grad=grad_RV.stride(0),
        BLOCK=BLOCK,
        num_warps=8,
    )


def _tiled(matrix: Tensor, *, rows: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, TILE["BK"]])


def _aligned_buffer(head: Head, rows: int, dtype: torch.dtype) -> Tensor:
    """[rows, V] whose rows are aligned."""
    return aligned_rows(rows, len(head.weight_VD), dtype, head.weight_VD.device)


def _in_the_same_memory(z_RV: Tensor, dtype: torch.dtype) -> Tensor:
    """The first bytes of each row as `dtype`; for float16 still float32, whose range small entries need."""
    if dtype in (z_RV.dtype, torch.float16):
        return z_RV
    rows, size = z_RV.shape
    stride = z_RV.stride(0)
    return z_RV.as_strided((rows, stride), (stride, 1)).view(dtype)[:, :size]


def _head_arguments(head: Head) -> dict[str, Any]:
    """The head's numbers as the kernels take them."""
    return {
        "factor": head.scale / head.softcap if head.softcap else head.factor,
        "softcap": head.softcap,
        "temperature": head.temperature,
        "BIAS": head.bias_V is not None,
        "CAP": bool(head.softcap),
    }
