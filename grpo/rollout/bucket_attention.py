"""One decoding step's attention over a bucket of equal width, with the log-sum-exp that lets outputs be merged.

Every function gives a row the same bits whatever rows are computed with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo.model.packing import MIN_ROWS
from grpo.rollout.width_bucket import WidthBucket

VECTOR = 64  # a multiple of the numbers that any vector instruction takes


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What a layer asks for besides its queries."""

    layer: int
    scaling: float
    window: int | None
    softcap: float | None


def attend_to_bucket(
    query: Tensor,
    bucket: WidthBucket,
    mask: Tensor,
    call: AttentionCall,
    *,
    may_read_nothing: bool = False,
) -> tuple[Tensor, Tensor]:
    """(output, log-sum-exp of the scores) of queries [entries, kv heads, n, width] over a bucket's entries.

    A query that may read nothing gets zeros and a log-sum-exp of -inf.
    """
    num_entries = len(bucket.names)
    key = bucket.keys[call.layer][:num_entries].transpose(1, 2)
    value = bucket.values[call.layer][:num_entries].transpose(1, 2)
    if query.device.type != "cpu" or call.softcap is not None or key.shape[-1] != value.shape[-1]:
        return plain_attention(query, key, value, mask, scaling=call.scaling, softcap=call.softcap)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal=False, attn_mask=mask, scale=call.scaling
    )
    if may_read_nothing:
        lse = lse.masked_fill((mask == float("-inf")).all(-1), float("-inf"))
    return out, lse


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """The same by its definition, with a soft-cap, in fp32 or finer: used where no fused kernel applies.

    The products have a multiple of MIN_ROWS rows: the rounding of fewer depends on how many entries there are.
    """
    num_queries = query.shape[2]
    missing = -num_queries % MIN_ROWS
    if missing:
        query = pad(query, (0, 0, 0, missing))
        mask = pad(mask, (0, 0, 0, missing)) if mask.shape[2] > 1 else mask
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query @ key.transpose(-1, -2)).to(dtype) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + mask
    top = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(dtype).min)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    out = (weights.to(value.dtype) @ value).to(dtype) / total.clamp_min(torch.finfo(dtype).tiny)
    lse = (batch_invariant(torch.log, total) + top)[..., 0]
    return out.to(query.dtype)[:, :, :num_queries], lse[:, :, :num_queries]


def batch_invariant(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of each element, with bits that do not depend on how many there are.

    torch computes what is left over after whole vectors by another routine, which rounds differently.
    """
    flat = pad(x.reshape(-1), (0, -x.numel() % VECTOR))
    return function(flat)[: x.numel()].view(x.shape)


def additive_mask(readable: Tensor) -> Tensor:
    """0 where `readable`, -inf elsewhere, fp32."""
    return torch.zeros(readable.shape, device=readable.device).masked_fill_(
        ~readable, float("-inf")
    )
