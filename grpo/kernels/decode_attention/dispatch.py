"""One decoding step's attention: queries of R rows over a prompt's shared keys and each row's own.

Keys and values lie in pages of 64 tokens, [pages, kv heads, 64, width], prompts and completions in one pool.
`reference` states the mathematics at the tensors' own precision; `attend` is the same on CUDA by the kernels
of ``grpo.kernels.decode_attention.triton_kernels``, which read a prompt's keys once for all its rows. This file allocates no
pages and knows no model; that is ``grpo.rollout.paged_cache``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.kernels.backend import runs_triton

PAGE = 64


@dataclass(frozen=True, slots=True, eq=False)
class PageTables:
    """Which pages each row reads; int32 tensors on the pool's device, whose shapes a CUDA graph can hold.

    ``page_RN`` [rows, pages a row] are the pages of a row's own tokens, -1 where there is none. ``seen_R`` counts
    the own tokens that its query reads, itself included; 0 marks a row without work, whose output is 0.
    ``prompt_R`` is the row's prompt, an index into ``prefix_PN`` [prompts, pages a prompt] and
    ``prefix_length_P``. ``block_BG`` [blocks, rows a block] lists rows of one prompt that are computed
    together, -1 where there is none; every row with ``seen_R > 0`` whose prompt has a prefix stands in one.
    ``num_blocks`` bounds the blocks in use.
    """

    page_RN: Tensor
    seen_R: Tensor
    prompt_R: Tensor
    prefix_PN: Tensor
    prefix_length_P: Tensor
    block_BG: Tensor
    num_blocks: int


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
    if not runs_triton(query_RHW):
        return reference(query_RHW, keys, values, tables, scaling, window, softcap)
    from grpo.kernels.decode_attention import triton_kernels

    return triton_kernels.attend(query_RHW, keys, values, tables, scaling, window, softcap)


def write(
    key_RHW: Tensor,
    value_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    page_RN: Tensor,
    seen_R: Tensor,
) -> None:
    """Store the keys and values [rows, kv heads, width] of the tokens being decoded, as each row's last seen."""
    if not runs_triton(key_RHW):
        return _write_reference(key_RHW, value_RHW, keys, values, page_RN, seen_R)
    from grpo.kernels.decode_attention import triton_kernels

    return triton_kernels.write(key_RHW, value_RHW, keys, values, page_RN, seen_R)


def reference(
    query_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: PageTables,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The definition, at the queries' precision or fp32, whichever is finer."""
    rows, heads, width = query_RHW.shape
    key, value, seen_RL = _gather(keys, values, tables, window)
    dtype = torch.promote_types(query_RHW.dtype, torch.float32)
    query = query_RHW.to(dtype).view(rows, key.shape[1], -1, width)
    scores = query @ key.to(dtype).transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen_RL[:, None, None], float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    output = weights @ value.to(dtype) / weights.sum(-1, keepdim=True)
    idle_R = tables.seen_R <= 0
    return (
        output.reshape(rows, heads, width)
        .masked_fill(idle_R[:, None, None], 0.0)
        .to(query_RHW.dtype)
    )


def _gather(
    keys: Tensor, values: Tensor, tables: PageTables, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(keys, values) [rows, kv heads, L, width] of prompt and own tokens, zero where not seen, and what is seen."""
    prompt_R = tables.prompt_R.long().clamp_min(0)
    prefix_R = tables.prefix_length_P[prompt_R] * (tables.prompt_R >= 0)
    page_RM = torch.cat([tables.prefix_PN[prompt_R], tables.page_RN], 1).long().clamp_min(0)
    room = tables.prefix_PN.shape[1] * PAGE
    at = torch.arange(page_RM.shape[1] * PAGE, device=keys.device)[None]
    own_RL = at >= room
    position_RL = torch.where(own_RL, at - room + prefix_R[:, None], at)
    last_R = prefix_R + tables.seen_R - 1
    seen_RL = torch.where(own_RL, position_RL <= last_R[:, None], at < prefix_R[:, None])
    if window is not None:
        seen_RL = seen_RL & (position_RL > last_R[:, None] - window)
    key, value = (x[page_RM].transpose(1, 2).flatten(2, 3) for x in (keys, values))
    hidden = ~seen_RL[:, None, :, None]
    return key.masked_fill(hidden, 0), value.masked_fill(hidden, 0), seen_RL


def _write_reference(
    key_RHW: Tensor,
    value_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    page_RN: Tensor,
    seen_R: Tensor,
) -> None:
    row_R = (seen_R > 0).nonzero()[:, 0]
    at_R = seen_R[row_R].long() - 1
    page_R = page_RN[row_R, at_R // PAGE].long()
    keys[page_R, :, at_R % PAGE] = key_RHW[row_R]
    values[page_R, :, at_R % PAGE] = value_RHW[row_R]
