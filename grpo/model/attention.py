"""Attention over groups: a prompt's keys are computed once and shared by its completions.

One function, registered with transformers under `NAME`, serves every model that takes its attention from
there. How queries meet keys is decided by the ``layout`` passed through the model's forward: packed rows
(training and prefill, here) or decode slots (``grpo.rollout.contiguous_cache``). No mask is ever built for the batch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from grpo.model.packing import PackedRows
from grpo.model.shared_prefix import shared_attention

NAME = "grpo"
WINDOW_CHUNK = 1024


class Layout(Protocol):
    """Where a model's queries find their keys."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        layer: int,
    ) -> Tensor:
        """The attention output, [batch, length, heads, head width], of queries [batch, heads, length, width]."""
        ...


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    layout: Layout | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention hook: hands the projected heads to the layout of this forward."""
    assert layout is not None, "a model prepared for grpo is called through its Policy or Engine"
    if s_aux is not None:
        raise ValueError("model: attention sinks are not supported; choose a model without them")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(module, "layer_idx", 0)
    return layout.attend(query, key, value, scaling, sliding_window, softcap, layer), None


AttentionInterface.register(NAME, attention)


class PackedLayout:
    """Causal attention of packed rows: rectangles of similar length are gathered, attended and scattered."""

    def __init__(self, packed: PackedRows):
        self.packed = packed

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        layer: int,
    ) -> Tensor:
        query_P, key_P, value_P = (x[0].transpose(0, 1) for x in (query, key, value))
        shared = self.packed.shared
        if shared is not None and softcap is None and (window is None or window >= shared.longest):
            return shared_attention(query_P, key_P, value_P, shared, scaling).unsqueeze(0)
        kept = []
        for bucket in self.packed.buckets:
            flat, shape = bucket.gather_RL.reshape(-1), bucket.gather_RL.shape
            q, k, v = (
                x.index_select(0, flat).view(*shape, *x.shape[1:]).transpose(1, 2)
                for x in (query_P, key_P, value_P)
            )
            out = causal(q, k, v, scaling, window, softcap).transpose(1, 2)
            kept.append(out.reshape(flat.numel(), *out.shape[2:]).index_select(0, bucket.take))
        return torch.cat(kept).index_select(0, self.packed.place_P).unsqueeze(0)


def causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of rectangles [R, heads, L, width]; a window counts the query itself."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    length = query.shape[2]
    if softcap is None and (window is None or window >= length):
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return torch.cat(
        [
            _window_chunk(
                query,
                key,
                value,
                start,
                min(start + WINDOW_CHUNK, length),
                scaling,
                window,
                softcap,
            )
            for start in range(0, length, WINDOW_CHUNK)
        ],
        dim=2,
    )


def _window_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: int,
    end: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Queries ``start..end`` against the keys that they can see; memory is linear in the length."""
    first = 0 if window is None else max(0, start - window + 1)
    at_query = torch.arange(start, end, device=query.device)[:, None]
    at_key = torch.arange(first, end, device=query.device)[None, :]
    seen = at_key <= at_query
    if window is not None:
        seen &= at_key > at_query - window
    q, k, v = query[:, :, start:end], key[:, :, first:end], value[:, :, first:end]
    if softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling)
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scaling / softcap)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.to(dtype).masked_fill(~seen, float("-inf")).softmax(-1)
    return weights.to(v.dtype) @ v
