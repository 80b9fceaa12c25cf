"""The specification of decode attention, in plain torch at the tensors' own precision or fp32, whichever is finer."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.kernels.decode_attention.spec import PAGE, PageTables


def attend(
    query_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: PageTables,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See `grpo.kernels.decode_attention.dispatch.attend`."""
    rows, heads, width = query_RHW.shape
    key, value, seen_RL = gather(keys, values, tables, window)
    dtype = torch.promote_types(query_RHW.dtype, torch.float32)
    query = query_RHW.to(dtype).view(rows, key.shape[1], -1, width)
    scores = query @ key.to(dtype).transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen_RL[:, None, None], float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    output = weights @ value.to(dtype) / weights.sum(-1, keepdim=True)
    is_idle_R = tables.seen_R <= 0
    output_RHW = output.reshape(rows, heads, width).masked_fill(is_idle_R[:, None, None], 0.0)
    return output_RHW.to(query_RHW.dtype)


def gather(
    keys: Tensor, values: Tensor, tables: PageTables, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(keys, values) [rows, kv heads, L, width] of prompt and own tokens, 0 where not seen; and seen [rows, L]."""
    prompt_R = tables.prompt_R.long().clamp_min(0)
    prefix_R = tables.prefix_length_P[prompt_R] * (tables.prompt_R >= 0)
    page_RM = torch.cat([tables.prefix_PN[prompt_R], tables.page_RN], 1).long().clamp_min(0)
    prefix_slots = tables.prefix_PN.shape[1] * PAGE
    slot_1L = torch.arange(page_RM.shape[1] * PAGE, device=keys.device)[None]
    is_own_1L = slot_1L >= prefix_slots
    own_position_RL = slot_1L - prefix_slots + prefix_R[:, None]
    position_RL = torch.where(is_own_1L, own_position_RL, slot_1L)
    last_R = prefix_R + tables.seen_R - 1
    in_prefix_RL = slot_1L < prefix_R[:, None]
    seen_RL = torch.where(is_own_1L, position_RL <= last_R[:, None], in_prefix_RL)
    if window is not None:
        seen_RL = seen_RL & (position_RL > last_R[:, None] - window)
    hidden = ~seen_RL[:, None, :, None]
    key = keys[page_RM].transpose(1, 2).flatten(2, 3).masked_fill(hidden, 0)
    value = values[page_RM].transpose(1, 2).flatten(2, 3).masked_fill(hidden, 0)
    return key, value, seen_RL


def write(
    key_RHW: Tensor,
    value_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    page_RN: Tensor,
    seen_R: Tensor,
) -> None:
    """See `grpo.kernels.decode_attention.dispatch.write`."""
    row_R = (seen_R > 0).nonzero()[:, 0]
    position_R = seen_R[row_R].long() - 1
    page_R = page_RN[row_R, position_R // PAGE].long()
    keys[page_R, :, position_R % PAGE] = key_RHW[row_R]
    values[page_R, :, position_R % PAGE] = value_RHW[row_R]
