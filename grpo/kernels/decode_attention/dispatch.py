"""One decoding step's attention: queries of R rows over the keys of a shared prompt and each row's own tokens.

Keys and values are in pages of 64 tokens, [pages, kv heads, 64, width], prompts and completions in one pool. CUDA
tensors go to ``triton_kernels``, which read a prompt's keys once for all its rows; all others to ``reference``.
"""

from __future__ import annotations

from torch import Tensor

from grpo.kernels.backend import runs_triton
from grpo.kernels.decode_attention import reference
from grpo.kernels.decode_attention.spec import PageTables


def attend(
    query_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: PageTables,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention output [rows, heads, width] of one query a row; a window counts the query's own position."""
    compute = reference.attend
    if runs_triton(query_RHW):
        from grpo.kernels.decode_attention import triton_kernels  # noqa: PLC0415  triton is optional

        compute = triton_kernels.attend
    return compute(query_RHW, keys, values, tables, scaling=scaling, window=window, softcap=softcap)


def write(
    key_RHW: Tensor,
    value_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    page_RN: Tensor,
    seen_R: Tensor,
) -> None:
    """Store the keys and values [rows, kv heads, width] of the tokens being decoded, at each row's last position."""
    store = reference.write
    if runs_triton(key_RHW):
        from grpo.kernels.decode_attention import triton_kernels  # noqa: PLC0415  triton is optional

        store = triton_kernels.write
    store(key_RHW, value_RHW, keys, values, page_RN=page_RN, seen_R=seen_R)
