"""Causal attention of packed rows in which each completion also sees its group's prompt, computed without copies of it.

A query of a completion meets two sets of keys: those before it in its own completion, and all of its prompt. Each
part is a plain flash attention with its log-sum-exp; the parts are merged by these, exactly. The backward of each part
is given the merged output and log-sum-exp, with which its probabilities are those over all keys, so gradients
are exact too (as in ring attention, arXiv 2310.01889). Prompts meet only themselves, once.

For CPU, whose flash kernel gives and takes the log-sum-exp; no window, no soft-cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import torch
from torch import Tensor

WIDTH = 16  # own parts are computed as rectangles whose width is a multiple of this

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True, eq=False)
class SelfSpan:
    """Stretches of packed tokens of similar length, each attending to itself: a rectangle [R, L].

    ``gather_RL`` indexes packed tokens, past a stretch's end its first token; ``take`` are the flat places of
    real tokens, ``place`` the packed tokens they are, ``filled`` the flat places of the others.
    """

    gather_RL: Tensor
    take: Tensor
    place: Tensor
    filled: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SharedPlan:
    """``own`` covers all packed tokens; ``across`` are (queries from, to, keys from, to) of completions and prompts.

    ``longest`` is the longest row, prompt and completion together.
    """

    own: tuple[SelfSpan, ...]
    across: tuple[tuple[int, int, int, int], ...]
    longest: int


def plan(
    stretches: Sequence[tuple[int, int]], across: Sequence[tuple[int, int, int, int]], longest: int
) -> SharedPlan:
    """The plan of packed `stretches` (start, end); neighbours in `across` that share their keys are joined."""
    by_width: dict[int, list[tuple[int, int]]] = {}
    for start, end in stretches:
        if end > start:
            by_width.setdefault(-(-(end - start) // WIDTH) * WIDTH, []).append((start, end))
    joined: list[tuple[int, int, int, int]] = []
    for part in across:
        if joined and joined[-1][1] == part[0] and joined[-1][2:] == part[2:]:
            part = (joined.pop()[0], *part[1:])
        joined.append(part)
    own = tuple(_own(members, width) for width, members in sorted(by_width.items()))
    return SharedPlan(
        own, tuple(part for part in joined if part[1] > part[0] and part[3] > part[2]), longest
    )


def _own(members: Sequence[tuple[int, int]], width: int) -> SelfSpan:
    column = torch.arange(width)
    start, end = (torch.tensor(part)[:, None] for part in zip(*members))
    real_RL = column < end - start
    gather_RL = torch.where(real_RL, start + column, start)
    flat = real_RL.reshape(-1)
    take = flat.nonzero()[:, 0]
    return SelfSpan(gather_RL, take, gather_RL.reshape(-1)[take], (~flat).nonzero()[:, 0])


def shared_attention(
    query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor, made: SharedPlan, scaling: float
) -> Tensor:
    """[P, heads, width] of packed queries; there may be fewer heads of keys and values."""
    return _Shared.apply(query_PHd, key_PKd, value_PKd, made, scaling)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_PHd: Tensor,
        key_PKd: Tensor,
        value_PKd: Tensor,
        made: SharedPlan,
        scaling: float,
    ) -> Tensor:
        out_PHd = torch.empty_like(query_PHd, memory_format=torch.contiguous_format)
        lse_PH = query_PHd.new_empty(
            query_PHd.shape[:2], dtype=torch.promote_types(query_PHd.dtype, torch.float32)
        )
        for own in made.own:
            q, k, v = _rectangle(own, query_PHd, key_PKd, value_PKd)
            out, lse = _forward(q, k, v, 0.0, True, attn_mask=None, scale=scaling)
            out_PHd.index_copy_(0, own.place, _flat(out).index_select(0, own.take))
            lse_PH.index_copy_(
                0,
                own.place,
                lse.transpose(1, 2).reshape(-1, lse.shape[1]).index_select(0, own.take),
            )
        for part in made.across:
            q, k, v = _stacked(part, query_PHd, key_PKd, value_PKd)
            out, lse = _forward(q, k, v, 0.0, False, attn_mask=None, scale=scaling)
            rows, number = slice(part[0], part[1]), part[1] - part[0]
            _merge(
                out_PHd[rows],
                lse_PH[rows],
                _unstack(out, number),
                _unstack(lse[..., None], number)[..., 0],
            )
        ctx.save_for_backward(query_PHd, key_PKd, value_PKd, out_PHd, lse_PH)
        ctx.made, ctx.scaling = made, scaling
        return out_PHd

    @staticmethod
    def backward(ctx: Any, grad_PHd: Tensor) -> tuple[Any, ...]:
        query_PHd, key_PKd, value_PKd, out_PHd, lse_PH = ctx.saved_tensors
        grads = [part.new_zeros(part.shape) for part in (query_PHd, key_PKd, value_PKd)]
        heads = key_PKd.shape[1]
        for own in ctx.made.own:
            q, k, v = _rectangle(own, query_PHd, key_PKd, value_PKd)
            grad, out = (_gathered(own, part).transpose(1, 2) for part in (grad_PHd, out_PHd))
            lse = lse_PH.index_select(0, own.gather_RL.reshape(-1))
            lse.index_fill_(0, own.filled, float("inf"))  # probability 0 for queries that are none
            lse = lse.view(*own.gather_RL.shape, -1).transpose(1, 2).contiguous()
            found = _backward(grad, q, k, v, out, lse, 0.0, True, attn_mask=None, scale=ctx.scaling)
            for total, part in zip(grads, found):
                part = _flat(part).index_select(0, own.take)
                total.index_copy_(
                    0,
                    own.place,
                    part.view(len(part), total.shape[1], -1, part.shape[-1]).sum(2)
                    if part.shape[1] > total.shape[1]
                    else part,
                )
        for part in ctx.made.across:
            q, k, v = _stacked(part, query_PHd, key_PKd, value_PKd)
            rows, keys = slice(part[0], part[1]), slice(part[2], part[3])
            grad, out = (_stack(tensor[rows], heads) for tensor in (grad_PHd, out_PHd))
            lse = _stack(lse_PH[rows, :, None], heads)[..., 0].contiguous()
            dq, dk, dv = _backward(
                grad, q, k, v, out, lse, 0.0, False, attn_mask=None, scale=ctx.scaling
            )
            grads[0][rows] += _unstack(dq, part[1] - part[0])
            grads[1][keys] += dk[0].transpose(0, 1)
            grads[2][keys] += dv[0].transpose(0, 1)
        return *grads, None, None


def _gathered(own: SelfSpan, part_PHd: Tensor) -> Tensor:
    """[R, L, heads, width] of a rectangle."""
    return part_PHd.index_select(0, own.gather_RL.reshape(-1)).view(
        *own.gather_RL.shape, *part_PHd.shape[1:]
    )


def _rectangle(
    own: SelfSpan, query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [R, heads, L, width] of a rectangle, as many heads of each."""
    repeats = query_PHd.shape[1] // key_PKd.shape[1]
    key, value = (
        _gathered(own, part).repeat_interleave(repeats, 2) if repeats > 1 else _gathered(own, part)
        for part in (key_PKd, value_PKd)
    )
    return _gathered(own, query_PHd).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _flat(out_RHLd: Tensor) -> Tensor:
    return out_RHLd.transpose(1, 2).reshape(-1, out_RHLd.shape[1], out_RHLd.shape[3])


def _stack(part_QHd: Tensor, heads: int) -> Tensor:
    """[1, heads, repeats Q, width]: the queries that share a head of keys, one head after the other."""
    number, all_heads, width = part_QHd.shape
    return (
        part_QHd.reshape(number, heads, all_heads // heads, width)
        .permute(1, 2, 0, 3)
        .reshape(1, heads, -1, width)
    )


def _unstack(part_1KNd: Tensor, number: int) -> Tensor:
    """[Q, heads, width]: the inverse of `_stack`."""
    _, heads, _, width = part_1KNd.shape
    return part_1KNd.view(heads, -1, number, width).permute(2, 0, 1, 3).reshape(number, -1, width)


def _stacked(
    part: tuple[int, int, int, int], query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The queries of some completions and the keys and values of their prompt, as one sequence per head of keys."""
    keys = slice(part[2], part[3])
    key, value = (tensor[keys].transpose(0, 1)[None] for tensor in (key_PKd, value_PKd))
    return _stack(query_PHd[part[0] : part[1]], key_PKd.shape[1]), key, value


def _merge(out_QHd: Tensor, lse_QH: Tensor, other_QHd: Tensor, other_QH: Tensor) -> None:
    """Take the attention over further keys into `out_QHd` and `lse_QH`."""
    both_QH = torch.logaddexp(lse_QH, other_QH)
    own, other = (
        (part - both_QH).exp().to(out_QHd.dtype)[..., None] for part in (lse_QH, other_QH)
    )
    out_QHd.mul_(own).addcmul_(other_QHd, other)
    lse_QH.copy_(both_QH)
