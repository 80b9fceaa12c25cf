"""Scored groups become a batch: rows with their advantages, updates with their denominators, packed tokens.

Nothing is padded to a rectangle and the prompt of a group is forwarded once. What a row may teach and
where it is booked are decided here, once; the learner only forwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.shared_prefix import plan
from grpo.types import (
    BOOKS,
    AttentionBucket,
    Batch,
    Denominators,
    PackedRows,
    Row,
    ScoredGroup,
    Update,
)

BUCKET = 16
MIN_ROWS = 8


def make_batch(
    groups: Sequence[ScoredGroup],
    advantages: Sequence[Sequence[float | Tensor]],
    *,
    num_updates: int,
    epochs: int,
    max_tokens: int,
    mask_truncated: bool,
    flat_is_reached: bool,
    left_out: Mapping[int, str] | None = None,
    version: int | None = None,
) -> Batch:
    """The step's rows, cut into ``num_updates`` disjoint mini-batches of whole groups, ``epochs`` times over.

    ``flat_is_reached`` says that something in the loss acts on flat groups too (KL), so that they are
    forwarded. ``left_out`` names groups that were sampled but are in no update and no denominator, with the
    book their completions go to. Every completion gets a row and is booked once. ``version`` is that of the
    policy's weights; tokens which say that others sampled them are not fresh (None: all are).
    """
    left_out = left_out or {}
    rows = [
        row
        for g, (group, values) in enumerate(zip(groups, advantages))
        for row in _rows_of(
            group, values, g, mask_truncated, flat_is_reached, left_out.get(g), version
        )
    ]
    rows = [replace(row, index=i) for i, row in enumerate(rows)]
    kept = [g for g in range(len(groups)) if g not in left_out]
    bounds = [round(i * len(kept) / num_updates) for i in range(num_updates + 1)]
    parts = [set(kept[low:high]) for low, high in zip(bounds, bounds[1:])]
    updates = [_update([row for row in rows if row.group in part], max_tokens) for part in parts]
    ledger = {
        "sampled": len(rows),
        **{book: sum(row.book == book for row in rows) for book in BOOKS},
    }
    return Batch(tuple(rows), tuple(updates) * epochs, ledger)


def _rows_of(
    group: ScoredGroup,
    advantages: Sequence[float | Tensor],
    index: int,
    mask_truncated: bool,
    flat_is_reached: bool,
    left_out: str | None,
    version: int | None,
) -> Iterable[Row]:
    flat = not any(bool(torch.as_tensor(advantage).any()) for advantage in advantages)
    for completion, score, advantage in zip(group.completions, group.scores, advantages):
        if completion.finish == "cancelled" or left_out == "cancelled":
            book = "cancelled"
        elif score.value is None:
            book = "faulted"
        elif mask_truncated and completion.truncated:
            book = "truncated_masked"
        else:
            book = left_out or ("flat" if flat else "trained")
        mask = book in ("flat", "trained") and left_out is None
        logps = (
            completion.sampled_logps
            if completion.log_kept is None
            else completion.sampled_logps + completion.log_kept
        )
        yield Row(
            index=-1,
            group=index,
            prompt_ids=group.prompt.token_ids,
            token_ids=completion.token_ids,
            sampled_logps=logps,
            advantage=advantage if mask else 0.0,
            mask=mask,
            forwarded=bool(completion.token_ids) and mask and (flat_is_reached or not flat),
            book=book,
            fresh_from=sum(
                end - first for by, first, end in completion.versions if version not in (None, by)
            ),
        )


def rebooked(batch: Batch, reached: set[int], faulted: Collection[int] = ()) -> Batch:
    """`batch` with the trained completions none of whose tokens the correction let through booked as such.

    Rows in `faulted`, which no update could use, are booked as faults.
    """
    rows = tuple(
        replace(row, book="faulted" if row.index in faulted else "correction_masked")
        if row.book == "trained" and row.forwarded and row.index not in reached
        else row
        for row in batch.rows
    )
    ledger = {
        "sampled": len(rows),
        **{book: sum(row.book == book for row in rows) for book in BOOKS},
    }
    return replace(batch, rows=rows, ledger=ledger)


def without(update: Update, out: Collection[int]) -> Update:
    """`update` without the rows of these indices, which leave its denominators too."""
    if not out:
        return update
    rows = [
        replace(row, mask=False, forwarded=False) if row.index in out else row
        for row in update.rows
    ]
    return _update(rows, update.denominators.max_tokens)


def _update(rows: Sequence[Row], max_tokens: int) -> Update:
    counted = [row for row in rows if row.mask]
    group_tokens: dict[int, int] = {}
    for row in counted:
        group_tokens[row.group] = group_tokens.get(row.group, 0) + row.num_tokens
    return Update(
        tuple(rows),
        Denominators(
            len(counted),
            sum(group_tokens.values()),
            max_tokens,
            {g: n for g, n in group_tokens.items() if n},
        ),
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
