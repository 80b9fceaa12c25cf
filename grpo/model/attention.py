"""Attention over groups: a prompt's keys are computed once and shared by its completions.

One function, registered with transformers under `NAME`, serves every model that takes its attention from there. How
queries meet keys is decided by the ``layout`` that is passed through the model's forward: packed rows (training and
prefill, here) or a decoder's cache (``grpo.rollout``). No mask is ever built for the batch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from grpo.model.packing import AttentionBucket, PackedRows
from grpo.model.shared_prefix import shared_attention

NAME = "grpo"
WINDOW_CHUNK = 1024
"""Queries that are attended at once where a window or a soft-cap needs a mask."""


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
    """The attention hook of transformers: hands the projected heads to the layout of this forward."""
    assert layout is not None, "a model prepared for grpo is called through its Policy or Engine"
    if s_aux is not None:
        raise ValueError("model: attention sinks are not supported; choose a model without them")
    output = layout.attend(
        query,
        key,
        value,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        layer=getattr(module, "layer_idx", 0),
    )
    return output, None


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
        query_PHd = query[0].transpose(0, 1)
        key_PKd = key[0].transpose(0, 1)
        value_PKd = value[0].transpose(0, 1)
        shared = self.packed.shared
        if shared is not None and softcap is None and (window is None or window >= shared.longest):
            output_PHd = shared_attention(
                query_PHd, key_PKd, value_PKd, shared_plan=shared, scaling=scaling
            )
            return output_PHd.unsqueeze(0)
        outputs = []
        for bucket in self.packed.buckets:
            output = causal(
                _rectangle(bucket, query_PHd),
                _rectangle(bucket, key_PKd),
                _rectangle(bucket, value_PKd),
                scaling=scaling,
                window=window,
                softcap=softcap,
            )
            flat = output.transpose(1, 2).flatten(0, 1)
            outputs.append(flat.index_select(0, bucket.take))
        return torch.cat(outputs).index_select(0, self.packed.output_index_P).unsqueeze(0)


def _rectangle(bucket: AttentionBucket, part_PHd: Tensor) -> Tensor:
    """[R, heads, L, width] of a bucket."""
    flat = part_PHd.index_select(0, bucket.gather_RL.reshape(-1))
    return flat.view(*bucket.gather_RL.shape, *part_PHd.shape[1:]).transpose(1, 2)


def causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of rectangles [R, heads, L, width]; a window counts the query itself.

    Where there are more keys than queries, the queries are those of the last keys.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key = key.repeat_interleave(repeats, 1)
        value = value.repeat_interleave(repeats, 1)
    length = key.shape[2]
    before = length - query.shape[2]
    if softcap is None and not before and (window is None or window >= length):
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    chunks = []
    for start in range(before, length, WINDOW_CHUNK):
        end = min(start + WINDOW_CHUNK, length)
        first_key = 0 if window is None else max(0, start - window + 1)
        chunk = _masked(
            query[:, :, start - before : end - before],
            key[:, :, first_key:end],
            value[:, :, first_key:end],
            seen=_visible(start, end, first_key, window, device=query.device),
            scaling=scaling,
            softcap=softcap,
        )
        chunks.append(chunk)
    return torch.cat(chunks, dim=2)


def _visible(
    start: int, end: int, first_key: int, window: int | None, *, device: torch.device
) -> Tensor:
    """[end - start, end - first_key]: which keys from ``first_key`` on the queries ``start..end`` see."""
    at_query = torch.arange(start, end, device=device)[:, None]
    at_key = torch.arange(first_key, end, device=device)[None, :]
    seen = at_key <= at_query
    if window is not None:
        seen &= at_key > at_query - window
    return seen


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    seen: Tensor,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Attention of a chunk of queries to the keys that they can see; memory is linear in the whole length."""
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scaling / softcap)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.to(dtype).masked_fill(~seen, float("-inf")).softmax(-1)
    return weights.to(value.dtype) @ value
