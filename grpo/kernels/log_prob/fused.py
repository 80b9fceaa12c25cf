"""The head on CUDA with Triton: the products are cuBLAS's (or its first one ours), what lies between them one kernel.

Two forms of the same chunk. ``rows``: a float32 product by cuBLAS, then `unit_rows` in its own bytes; works for any
shape. ``tiles``: the first product with its epilogue (`exp_tiles`), which needs bfloat16 and a width that is a
multiple of 8. Weights of float64 are left to ``chunked``. Which form is faster on which shape has not been measured
yet; `FORM` decides, ``rows`` by default.
"""

from __future__ import annotations

from typing import Sequence

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
WARPS, STAGES = 8, 4


def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    spans: Sequence[tuple[int, int]] = (),
) -> LogProbResult:
    """See `grpo.kernels.log_prob.fused_log_prob`."""
    if head.weight_VD.dtype == torch.float64:
        return chunked.fused_log_prob(hidden_TD, head, target_T, coefficients, gradients, spans)
    kind = TileChunk if FORM == "tiles" and _fits_tiles(head) else RowChunk
    return chunked.fused_log_prob(hidden_TD, head, target_T, coefficients, gradients, spans, kind)


def _fits_tiles(head: Head) -> bool:
    return head.weight_VD.dtype == torch.bfloat16 and head.weight_VD.shape[1] % 8 == 0


class RowChunk(chunked.ChunkSteps):
    """Products in float32, then one pass of `unit_rows`."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        return _padded(head, rows, statistics_dtype(head.weight_VD.dtype))

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD, self.target_R, self.head = hidden_RD, target_R, head
        self.unit_RV = chunked.product(hidden_RD, head, buffer_RV)
        self.logp_R = self.entropy_R = None

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the products become unit gradients in the weight's dtype."""
        head, z_RV = self.head, self.unit_RV
        unit_RV = _same_bytes(z_RV, head.weight_VD.dtype)
        self.logp_R, self.entropy_R = (torch.empty(len(z_RV), device=z_RV.device) for _ in range(2))
        bias_V = z_RV if head.bias_V is None else head.bias_V
        triton_kernels.unit_rows[(len(z_RV),)](
            z_RV,
            bias_V,
            unit_RV,
            self.target_R,
            self.logp_R,
            self.entropy_R,
            z_RV.shape[1],
            z_RV.stride(0),
            unit_RV.stride(0),
            *_numbers(head),
            BIAS=head.bias_V is not None,
            CAP=bool(head.softcap),
            GRADIENT=with_gradient,
            BLOCK=BLOCK,
            num_warps=8,
        )
        self.unit_RV = unit_RV
        return self.logp_R, self.entropy_R

    def mix(self, g_R: Tensor, e_R: Tensor) -> None:
        """Take the entropy's part into the unit gradients, which are then multiplied by `g_R`."""
        mixed(self, g_R, e_R)


class TileChunk(chunked.ChunkSteps):
    """The first product with its epilogue: scaled exponentials are stored, never a logit."""

    @staticmethod
    def buffer(head: Head, rows: int) -> Tensor:
        return _padded(head, rows, head.weight_VD.dtype)

    def __init__(self, hidden_RD: Tensor, target_R: Tensor, head: Head, buffer_RV: Tensor):
        self.hidden_RD, self.target_R, self.head = hidden_RD, target_R, head
        self.unit_RV = buffer_RV[: len(hidden_RD)]
        self.logp_R = self.entropy_R = None

    def statistics(self, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """(logp_R, entropy_R); with gradient the buffer holds unit gradients."""
        head, (rows, size) = self.head, self.unit_RV.shape
        tiles = -(-size // TILE["BN"])
        kw = {"dtype": torch.float32, "device": self.unit_RV.device}
        peak, total, moment = torch.empty(3, tiles, rows, **kw)
        taken_R, self.logp_R, self.entropy_R, peak_R, total_R, rest_R = torch.empty(6, rows, **kw)
        hidden_RD = self.hidden_RD.to(head.weight_VD.dtype).contiguous()
        x, w = (
            TensorDescriptor.from_tensor(part, [TILE[side], TILE["BK"]])
            for part, side in ((hidden_RD, "BM"), (head.weight_VD, "BN"))
        )
        grid = (-(-rows // TILE["BM"]) * tiles,)
        flags = {"BIAS": head.bias_V is not None, "CAP": bool(head.softcap)}
        bias_V = self.unit_RV if head.bias_V is None else head.bias_V
        triton_kernels.exp_tiles[grid](
            x,
            w,
            self.unit_RV,
            bias_V,
            self.target_R,
            peak,
            total,
            moment,
            taken_R,
            rows,
            size,
            head.weight_VD.shape[1],
            self.unit_RV.stride(0),
            *_numbers(head),
            **flags,
            STORE=with_gradient,
            **TILE,
            PRECISION="ieee",
            num_warps=WARPS,
            num_stages=STAGES,
        )
        triton_kernels.merge_tiles[(-(-rows // 64),)](
            peak,
            total,
            moment,
            taken_R,
            self.logp_R,
            self.entropy_R,
            peak_R,
            total_R,
            rest_R,
            rows,
            tiles,
            BM=64,
            num_warps=2,
        )
        if with_gradient:
            small = 32
            triton_kernels.unit_tiles[(-(-rows // small) * tiles,)](
                self.unit_RV,
                self.target_R,
                peak,
                peak_R,
                total_R,
                rest_R,
                rows,
                size,
                self.unit_RV.stride(0),
                head.softcap,
                head.temperature,
                CAP=flags["CAP"],
                BM=small,
                BN=TILE["BN"],
                num_warps=4,
            )
        return self.logp_R, self.entropy_R

    def mix(self, g_R: Tensor, e_R: Tensor) -> None:
        """Take the entropy's part into the unit gradients, which are then multiplied by `g_R`."""
        mixed(self, g_R, e_R)


def mixed(chunk: RowChunk | TileChunk, g_R: Tensor, e_R: Tensor) -> None:
    """unit := g unit + e p (log p + entropy); under a soft-cap p is taken from products made again."""
    unit_RV = chunk.unit_RV
    if chunk.head.softcap:
        chunked.mix_again(chunk, g_R, e_R)
        return
    triton_kernels.mix_entropy[(len(unit_RV),)](
        unit_RV,
        chunk.target_R,
        g_R,
        e_R,
        chunk.logp_R,
        chunk.entropy_R,
        unit_RV.shape[1],
        unit_RV.stride(0),
        BLOCK=BLOCK,
        num_warps=8,
    )


def _padded(head: Head, rows: int, dtype: torch.dtype) -> Tensor:
    """[rows, V] whose rows are aligned."""
    return aligned_rows(rows, len(head.weight_VD), dtype, head.weight_VD.device)


def _same_bytes(z_RV: Tensor, dtype: torch.dtype) -> Tensor:
    """The beginning of each row's bytes as `dtype`; float16 keeps float32, whose range small entries need."""
    if dtype in (z_RV.dtype, torch.float16):
        return z_RV
    rows, size = z_RV.shape
    flat = z_RV.as_strided((rows, z_RV.stride(0)), (z_RV.stride(0), 1)).view(dtype)
    return flat[:, :size]


def _numbers(head: Head) -> tuple[float, float, float]:
    """(factor, softcap, temperature) as the kernels take them."""
    return (
        (head.scale / head.softcap if head.softcap else head.factor),
        head.softcap,
        head.temperature,
    )
