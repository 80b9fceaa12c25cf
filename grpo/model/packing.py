"""Rows laid end to end, without padding, the prompt of a group once: what one forward reads.

Also the rectangles of rows of similar length in which attention is computed, and the division into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from grpo.model.shared_prefix import SharedPlan, plan
from grpo.types import Row

BUCKET = 16
MIN_ROWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class AttentionBucket:
    """Attention rows of similar length, computed as one rectangle.

    ``gather_RL`` [R, L] indexes packed tokens; places past a row's end repeat its first token, come after
    every query that is read back, and are never read back themselves. ``take`` lists the flat places of the
    rectangle whose outputs are kept.
    """

    gather_RL: Tensor
    take: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows laid end to end without padding; the prompt of a group stands once before its completions.

    ``token_P`` and ``position_P`` are the packed tokens and their positions. Each attention row reads a
    prompt and one completion causally, through ``buckets``; ``place_P`` names, for each packed token, its
    output among those the buckets keep, end to end. ``source_T`` is, for each completion token, the packed
    position whose hidden state predicts it, ``target_T`` the token itself. ``shared`` is the same attention
    without copies of the prompts, where the device has it.
    """

    token_P: Tensor
    position_P: Tensor
    buckets: tuple[AttentionBucket, ...]
    place_P: Tensor
    source_T: Tensor
    target_T: Tensor
    rows: tuple[Row, ...]
    shared: SharedPlan | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.token_P.numel())


def stack_logps(rows: Sequence[Row], device: torch.device | str = "cpu") -> Tensor:
    """The sampler's log-probs of `rows` end to end: ``sampled_logp_T``, fp32."""
    return (
        torch.cat([row.sampled_logps for row in rows]).to(device)
        if rows
        else torch.zeros(0, device=device)
    )


def micro_batches(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """`rows` in lists of at most `budget` packed tokens (one row alone may exceed it), groups kept together."""
    result: list[list[Row]] = []
    used, group = 0, None
    for row in sorted(rows, key=lambda row: (row.group, row.index)):
        cost = row.num_tokens + (len(row.prompt_ids) if row.group != group else 0)
        if not result or used + cost > budget:
            result.append([])
            used, cost = 0, row.num_tokens + len(row.prompt_ids)
        result[-1].append(row)
        used, group = used + cost, row.group
    return result


def pack(rows: Sequence[Row], device: torch.device | str = "cpu") -> PackedRows:
    """`rows` laid end to end, each group's prompt once before its completions, ready for one forward.

    The packed length is at least 8: products of fewer rows may round differently.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[tuple[list[int], int]] = []
    source: list[Tensor] = []
    prompt_at: dict[int, int] = {}
    stretches: list[tuple[int, int]] = []
    across: list[tuple[int, int, int, int]] = []
    for row in rows:
        shared = row.group in prompt_at
        if not shared:
            prompt_at[row.group] = len(tokens)
            stretches.append((len(tokens), len(tokens) + len(row.prompt_ids)))
            tokens += row.prompt_ids
            positions += range(len(row.prompt_ids))
        prompt, length = prompt_at[row.group], len(row.prompt_ids)
        start = len(tokens)
        stretches.append((start, start + row.num_tokens))
        across.append((start, start + row.num_tokens, prompt, prompt + length))
        tokens += row.token_ids
        positions += range(length, length + row.num_tokens)
        spans.append(
            (
                [*range(prompt, prompt + length), *range(start, start + row.num_tokens)],
                length if shared else 0,
            )
        )
        source.append(
            torch.tensor([prompt + length - 1, *range(start, start + row.num_tokens - 1)])
        )
    for filler in range(len(tokens), MIN_ROWS):
        tokens.append(0)
        positions.append(0)
        spans.append(([filler], 0))
        stretches.append((filler, filler + 1))
    longest = max((len(index) for index, _ in spans), default=0)
    shared = plan(stretches, across, longest) if torch.device(device).type == "cpu" else None
    buckets, place_P = bucket_rows(spans, len(tokens), device)
    target = [token for row in rows for token in row.token_ids]
    source_T = torch.cat(source) if source else torch.zeros(0, dtype=torch.long)
    parts = (upload(part, device) for part in (source_T, torch.tensor(target, dtype=torch.long)))
    return PackedRows(
        upload(torch.tensor(tokens), device),
        upload(torch.tensor(positions), device),
        buckets,
        place_P,
        *parts,
        tuple(rows),
        shared,
    )


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`, without the host waiting for the copy."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def bucket_rows(
    spans: Sequence[tuple[list[int], int]], num_tokens: int, device: torch.device | str
) -> tuple[tuple[AttentionBucket, ...], Tensor]:
    """Attention rows of packed indices in rectangles whose width depends on a row's own length alone.

    A span is (the packed tokens a row attends over, how many of its first outputs another row provides).
    """
    by_width: dict[int, list[tuple[list[int], int]]] = {}
    for span in spans:
        by_width.setdefault(-(-len(span[0]) // BUCKET) * BUCKET, []).append(span)
    buckets, put = [], []
    for width, members in sorted(by_width.items()):
        gather = torch.tensor([index + index[:1] * (width - len(index)) for index, _ in members])
        lengths = torch.tensor([len(index) for index, _ in members])[:, None]
        skips = torch.tensor([skip for _, skip in members])[:, None]
        column = torch.arange(width)[None, :]
        take = ((column >= skips) & (column < lengths)).reshape(-1).nonzero()[:, 0]
        put.append(gather.reshape(-1)[take])
        buckets.append(AttentionBucket(upload(gather, device), upload(take, device)))
    order = torch.cat(put) if put else torch.zeros(0, dtype=torch.long)
    place_P = torch.empty(num_tokens, dtype=torch.long)
    place_P[order] = torch.arange(num_tokens)
    return tuple(buckets), upload(place_P, device)
