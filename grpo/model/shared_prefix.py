"""Causal attention of packed rows in which each completion also sees its group's prompt, computed without copies of it.

A completion's query meets two sets of keys: those before it in its own completion, and all of its prompt. Each part is
a plain flash attention with its log-sum-exp; the parts are merged exactly by these. The backward of each part is given
the merged output and log-sum-exp, with which its probabilities are those over all keys, so gradients are exact too (as
in ring attention, arXiv 2310.01889). Prompts only meet themselves, once.

For CPUs, whose flash kernel gives and takes the log-sum-exp; no window, no soft-cap.

Shape letters: P packed tokens, H heads, d head width, K heads of keys, R rectangle rows, L their length, Q queries of
one prompt span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor

WIDTH = 16
"""Self-attention is computed in rectangles whose width is a multiple of this."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class PromptSpan(NamedTuple):
    """Packed queries of completions, and the keys of their prompt: half-open ranges of packed tokens."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int

    @property
    def queries(self) -> slice:
        return slice(self.start, self.end)

    @property
    def keys(self) -> slice:
        return slice(self.prompt_start, self.prompt_end)

    @property
    def num_queries(self) -> int:
        return self.end - self.start

    @property
    def is_empty(self) -> bool:
        return self.end <= self.start or self.prompt_end <= self.prompt_start


@dataclass(frozen=True, slots=True, eq=False)
class SelfSpan:
    """Stretches of packed tokens of similar length, each attending to itself: a rectangle [R, L].

    ``gather_RL`` indexes packed tokens, past a stretch's end its first token; ``take`` are the flat positions of real
    tokens in the rectangle, ``position`` the packed tokens they are, ``padding`` the other flat positions.
    """

    gather_RL: Tensor
    take: Tensor
    position: Tensor
    padding: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SharedPlan:
    """``self_spans`` cover all packed tokens, ``prompt_spans`` the completions and their prompts.

    ``longest`` is the number of tokens of the longest row, prompt and completion together.
    """

    self_spans: tuple[SelfSpan, ...]
    prompt_spans: tuple[PromptSpan, ...]
    longest: int


def plan(
    stretches: Sequence[tuple[int, int]],
    prompt_spans: Sequence[tuple[int, int, int, int]],
    longest: int,
) -> SharedPlan:
    """The plan of packed `stretches` (start, end); neighbouring spans of the same prompt are joined."""
    by_width: dict[int, list[tuple[int, int]]] = {}
    for start, end in stretches:
        if end > start:
            width = -(-(end - start) // WIDTH) * WIDTH
            by_width.setdefault(width, []).append((start, end))
    spans = [_self_span(members, width) for width, members in sorted(by_width.items())]
    joined = _join([PromptSpan(*span) for span in prompt_spans])
    return SharedPlan(
        self_spans=tuple(spans),
        prompt_spans=tuple(span for span in joined if not span.is_empty),
        longest=longest,
    )


def _join(spans: Sequence[PromptSpan]) -> list[PromptSpan]:
    joined: list[PromptSpan] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None and last.end == span.start and last.keys == span.keys:
            joined[-1] = last._replace(end=span.end)
        else:
            joined.append(span)
    return joined


def _self_span(stretches: Sequence[tuple[int, int]], width: int) -> SelfSpan:
    column_L = torch.arange(width)
    start_R1 = torch.tensor([start for start, _ in stretches])[:, None]
    end_R1 = torch.tensor([end for _, end in stretches])[:, None]
    is_real_RL = column_L < end_R1 - start_R1
    gather_RL = torch.where(is_real_RL, start_R1 + column_L, start_R1)
    is_real = is_real_RL.reshape(-1)
    take = is_real.nonzero()[:, 0]
    return SelfSpan(
        gather_RL=gather_RL,
        take=take,
        position=gather_RL.reshape(-1)[take],
        padding=(~is_real).nonzero()[:, 0],
    )


def shared_attention(
    query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor, shared_plan: SharedPlan, scaling: float
) -> Tensor:
    """[P, heads, width] of packed queries; there may be fewer heads of keys and values."""
    output_PHd: Tensor = _SharedAttention.apply(  # density: autograd functions take no keywords
        query_PHd, key_PKd, value_PKd, shared_plan, scaling
    )
    return output_PHd


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_PHd: Tensor,
        key_PKd: Tensor,
        value_PKd: Tensor,
        shared_plan: SharedPlan,
        scaling: float,
    ) -> Tensor:
        inputs = (query_PHd, key_PKd, value_PKd)
        out_PHd = torch.empty_like(query_PHd, memory_format=torch.contiguous_format)
        lse_PH = query_PHd.new_empty(
            query_PHd.shape[:2], dtype=torch.promote_types(query_PHd.dtype, torch.float32)
        )
        for span in shared_plan.self_spans:
            query, key, value = _rectangle(span, *inputs)
            out, lse = _forward(
                query, key, value, dropout_p=0.0, is_causal=True, attn_mask=None, scale=scaling
            )
            lse_flat = lse.transpose(1, 2).reshape(-1, lse.shape[1])
            out_PHd.index_copy_(0, span.position, _flat(out).index_select(0, span.take))
            lse_PH.index_copy_(0, span.position, lse_flat.index_select(0, span.take))
        for part in shared_plan.prompt_spans:
            query, key, value = _stacked(part, *inputs)
            out, lse = _forward(
                query, key, value, dropout_p=0.0, is_causal=False, attn_mask=None, scale=scaling
            )
            _merge(
                out_PHd[part.queries],
                lse_PH[part.queries],
                _unstack(out, part.num_queries),
                _unstack(lse[..., None], part.num_queries)[..., 0],
            )
        ctx.save_for_backward(  # density: takes no keywords
            query_PHd, key_PKd, value_PKd, out_PHd, lse_PH
        )
        ctx.shared_plan = shared_plan
        ctx.scaling = scaling
        return out_PHd

    @staticmethod
    def backward(ctx: Any, grad_PHd: Tensor) -> tuple[Any, ...]:
        query_PHd, key_PKd, value_PKd, out_PHd, lse_PH = ctx.saved_tensors
        saved = _Saved(
            query_PHd=query_PHd,
            key_PKd=key_PKd,
            value_PKd=value_PKd,
            out_PHd=out_PHd,
            lse_PH=lse_PH,
            grad_PHd=grad_PHd,
            scaling=ctx.scaling,
        )
        grads = [part.new_zeros(part.shape) for part in (query_PHd, key_PKd, value_PKd)]
        for span in ctx.shared_plan.self_spans:
            _add_self_gradient(grads, saved, span)
        for part in ctx.shared_plan.prompt_spans:
            _add_prompt_gradient(grads, saved, part)
        return *grads, None, None


class _Saved(NamedTuple):
    """What the backward of every part reads: the inputs, the merged output and log-sum-exp, and its gradient."""

    query_PHd: Tensor
    key_PKd: Tensor
    value_PKd: Tensor
    out_PHd: Tensor
    lse_PH: Tensor
    grad_PHd: Tensor
    scaling: float


def _add_self_gradient(grads: Sequence[Tensor], saved: _Saved, span: SelfSpan) -> None:
    """Write the gradients of a span's tokens; later heads of queries that share keys are summed."""
    query, key, value = _rectangle(span, saved.query_PHd, saved.key_PKd, saved.value_PKd)
    lse = saved.lse_PH.index_select(0, span.gather_RL.reshape(-1))
    lse.index_fill_(0, span.padding, float("inf"))  # probability 0 for queries that are padding
    parts = _backward(
        _gathered(span, saved.grad_PHd).transpose(1, 2),
        query,
        key,
        value,
        out=_gathered(span, saved.out_PHd).transpose(1, 2),
        logsumexp=lse.view(*span.gather_RL.shape, -1).transpose(1, 2).contiguous(),
        dropout_p=0.0,
        is_causal=True,
        attn_mask=None,
        scale=saved.scaling,
    )
    for total, part in zip(grads, parts):
        part = _flat(part).index_select(0, span.take)
        if part.shape[1] > total.shape[1]:
            part = part.view(len(part), total.shape[1], -1, part.shape[-1]).sum(2)
        total.index_copy_(0, span.position, part)


def _add_prompt_gradient(grads: Sequence[Tensor], saved: _Saved, span: PromptSpan) -> None:
    """Add the gradients of a prompt's keys and of the queries of its completions."""
    num_heads = saved.key_PKd.shape[1]
    query, key, value = _stacked(span, saved.query_PHd, saved.key_PKd, saved.value_PKd)
    d_query, d_key, d_value = _backward(
        _stack(saved.grad_PHd[span.queries], num_heads),
        query,
        key,
        value,
        out=_stack(saved.out_PHd[span.queries], num_heads),
        logsumexp=_stack(saved.lse_PH[span.queries, :, None], num_heads)[..., 0].contiguous(),
        dropout_p=0.0,
        is_causal=False,
        attn_mask=None,
        scale=saved.scaling,
    )
    grads[0][span.queries] += _unstack(d_query, span.num_queries)
    grads[1][span.keys] += d_key[0].transpose(0, 1)
    grads[2][span.keys] += d_value[0].transpose(0, 1)


# ---- layouts ----------------------------------------------------------------------------------------------------


def _gathered(span: SelfSpan, part_PHd: Tensor) -> Tensor:
    """[R, L, heads, width] of a rectangle."""
    flat = part_PHd.index_select(0, span.gather_RL.reshape(-1))
    return flat.view(*span.gather_RL.shape, *part_PHd.shape[1:])


def _rectangle(
    span: SelfSpan, query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [R, heads, L, width] of a rectangle, with equally many heads of each."""
    repeats = query_PHd.shape[1] // key_PKd.shape[1]
    query = _gathered(span, query_PHd)
    key = _gathered(span, key_PKd)
    value = _gathered(span, value_PKd)
    if repeats > 1:
        key = key.repeat_interleave(repeats, 2)
        value = value.repeat_interleave(repeats, 2)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _flat(out_RHLd: Tensor) -> Tensor:
    """[R L, heads, width] of a rectangle's outputs."""
    return out_RHLd.transpose(1, 2).reshape(-1, out_RHLd.shape[1], out_RHLd.shape[3])


def _stack(part_QHd: Tensor, num_heads: int) -> Tensor:
    """[1, heads, repeats Q, width]: the queries that share a head of keys, one head after the other."""
    num_queries, all_heads, width = part_QHd.shape
    grouped = part_QHd.reshape(num_queries, num_heads, all_heads // num_heads, width)
    return grouped.permute(1, 2, 0, 3).reshape(1, num_heads, -1, width)


def _unstack(part_1KNd: Tensor, num_queries: int) -> Tensor:
    """[Q, heads, width]: the inverse of `_stack`."""
    _, num_heads, _, width = part_1KNd.shape
    grouped = part_1KNd.view(num_heads, -1, num_queries, width)
    return grouped.permute(2, 0, 1, 3).reshape(num_queries, -1, width)


def _stacked(
    span: PromptSpan, query_PHd: Tensor, key_PKd: Tensor, value_PKd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The queries of some completions and the keys and values of their prompt, as one sequence per head of keys."""
    query = _stack(query_PHd[span.queries], key_PKd.shape[1])
    key = key_PKd[span.keys].transpose(0, 1)[None]
    value = value_PKd[span.keys].transpose(0, 1)[None]
    return query, key, value


def _merge(out_QHd: Tensor, lse_QH: Tensor, further_QHd: Tensor, further_QH: Tensor) -> None:
    """Merge the attention over further keys, and its log-sum-exp, into `out_QHd` and `lse_QH`, in place."""
    both_QH = torch.logaddexp(lse_QH, further_QH)
    share = (lse_QH - both_QH).exp().to(out_QHd.dtype)[..., None]
    further_share = (further_QH - both_QH).exp().to(out_QHd.dtype)[..., None]
    out_QHd.mul_(share).addcmul_(further_QHd, further_share)
    lse_QH.copy_(both_QH)
