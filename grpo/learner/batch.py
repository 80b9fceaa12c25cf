"""Scored groups become a batch: rows with their advantages and outcomes, updates with their denominators.

What a row may teach and where it is counted are decided here, once; the learner only forwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from grpo.types import OUTCOMES, Batch, Denominators, Row, ScoredGroup, Update


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
    outcome their completions go to. Every completion gets a row and is counted once. ``version`` is that of the
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
        **{outcome: sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES},
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
            outcome = "cancelled"
        elif score.value is None:
            outcome = "faulted"
        elif mask_truncated and completion.truncated:
            outcome = "truncated_masked"
        else:
            outcome = left_out or ("flat" if flat else "trained")
        mask = outcome in ("flat", "trained") and left_out is None
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
            outcome=outcome,
            fresh_from=sum(
                end - first for by, first, end in completion.versions if version not in (None, by)
            ),
        )


def with_final_outcomes(batch: Batch, reached: set[int], faulted: Collection[int] = ()) -> Batch:
    """`batch` with the trained completions none of whose tokens the correction let through counted as such.

    Rows in `faulted`, which no update could use, are counted as faults.
    """
    rows = tuple(
        replace(row, outcome="faulted" if row.index in faulted else "correction_masked")
        if row.outcome == "trained" and row.forwarded and row.index not in reached
        else row
        for row in batch.rows
    )
    ledger = {
        "sampled": len(rows),
        **{outcome: sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES},
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
