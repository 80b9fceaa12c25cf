"""Scored groups become a batch: rows with their advantages and outcomes, updates with their denominators.

Which rows may teach and where they are counted is decided here, once; the learner only forwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Mapping, Sequence

import torch
from torch import Tensor

from grpo.types import OUTCOMES, Batch, Completion, Denominators, Row, ScoredGroup, Update


def make_batch(
    groups: Sequence[ScoredGroup],
    advantages: Sequence[Sequence[float | Tensor]],
    *,
    num_updates: int,
    epochs: int,
    max_tokens: int,
    mask_truncated: bool,
    forward_flat: bool,
    left_out: Mapping[int, str] | None = None,
    version: int | None = None,
    by_score: bool = True,
) -> Batch:
    """The step's rows, cut into ``num_updates`` disjoint mini-batches of whole groups, ``epochs`` times over.

    ``forward_flat``: something in the loss acts on flat groups too (KL), so they are forwarded. ``left_out`` names
    groups that were sampled but are in no update and no denominator, with the outcome of their completions. Every
    completion gets a row and is counted once. ``version`` is that of the policy's weights; tokens sampled by others
    are not fresh (None: all are). Not ``by_score``, every completion that was sampled to its end trains, whatever its
    score is and whether it has one: something else than scores teaches (a teacher).
    """
    left_out = left_out or {}
    rows: list[Row] = []
    for group_index, (group, values) in enumerate(zip(groups, advantages)):
        rows += _rows_of(
            group,
            values,
            group_index=group_index,
            first_index=len(rows),
            mask_truncated=mask_truncated,
            forward_flat=forward_flat,
            left_out=left_out.get(group_index),
            version=version,
            by_score=by_score,
        )
    trained = [index for index in range(len(groups)) if index not in left_out]
    updates = []
    for part in _parts(trained, num_updates):
        updates.append(_update([row for row in rows if row.group in part], max_tokens))
    return Batch(rows=tuple(rows), updates=tuple(updates) * epochs, ledger=_ledger(rows))


def _parts(groups: Sequence[int], number: int) -> list[set[int]]:
    """`groups` in `number` parts of nearly equal size, in order."""
    bounds = [round(i * len(groups) / number) for i in range(number + 1)]
    return [set(groups[low:high]) for low, high in zip(bounds, bounds[1:])]


def _rows_of(
    group: ScoredGroup,
    advantages: Sequence[float | Tensor],
    *,
    group_index: int,
    first_index: int,
    mask_truncated: bool,
    forward_flat: bool,
    left_out: str | None,
    version: int | None,
    by_score: bool,
) -> list[Row]:
    teaches = any(bool(torch.as_tensor(advantage).any()) for advantage in advantages)
    flat = by_score and not teaches
    rows = []
    for i, completion in enumerate(group.completions):
        has_score = group.scores[i].value is not None
        is_usable = has_score if by_score else completion.finish != "error"
        outcome = _outcome(completion, is_usable, mask_truncated, left_out)
        if outcome is None:
            outcome = "flat" if flat else "trained"
        mask = outcome in ("flat", "trained") and left_out is None
        reached = mask and (forward_flat or not flat)
        row = Row(
            index=first_index + i,
            group=group_index,
            prompt_ids=group.prompt.token_ids,
            token_ids=completion.token_ids,
            sampled_logps=_unfiltered_logps(completion),
            advantage=advantages[i] if mask else 0.0,
            mask=mask,
            forwarded=completion.num_tokens > 0 and reached,
            outcome=outcome,
            fresh_from=_num_stale(completion, version),
            given=completion.given,
            routing=completion.routing,
        )
        rows.append(row)
    return rows


def _outcome(
    completion: Completion, is_usable: bool, mask_truncated: bool, left_out: str | None
) -> str | None:
    """Why a completion is not learnt from; None where it may be."""
    if completion.finish == "cancelled" or left_out == "cancelled":
        return "cancelled"
    if not is_usable:
        return "faulted"
    if mask_truncated and completion.truncated:
        return "truncated_masked"
    return left_out


def _unfiltered_logps(completion: Completion) -> Tensor:
    """The sampler's log-probs under temperature alone, as the trainer computes them."""
    if completion.log_kept is None:
        return completion.sampled_logps
    return completion.sampled_logps + completion.log_kept


def _num_stale(completion: Completion, version: int | None) -> int:
    """How many of a completion's first tokens, given ones among them, came under other weights than `version`."""
    if version is None:
        return 0
    return sum(end - first for by, first, end in completion.versions if by != version)


def with_final_outcomes(
    batch: Batch, trained_rows: Collection[int], faulted: Collection[int] = ()
) -> Batch:
    """`batch` after its updates: a row that was to be trained but is not in `trained_rows` gets another outcome.

    It is ``faulted`` for rows in `faulted`, which no update could use, and ``correction_masked`` for those none of
    whose tokens the correction let through.
    """
    rows = []
    for row in batch.rows:
        if row.outcome == "trained" and row.forwarded and row.index not in trained_rows:
            outcome = "faulted" if row.index in faulted else "correction_masked"
            row = replace(row, outcome=outcome)
        rows.append(row)
    return replace(batch, rows=tuple(rows), ledger=_ledger(rows))


def _ledger(rows: Sequence[Row]) -> dict[str, int]:
    """How many completions were sampled, and how many have each outcome."""
    ledger = {"sampled": len(rows)}
    for outcome in OUTCOMES:
        ledger[outcome] = sum(row.outcome == outcome for row in rows)
    return ledger


def without(update: Update, indices: Collection[int]) -> Update:
    """`update` without the rows of these indices, which leave its denominators too."""
    if not indices:
        return update
    rows = []
    for row in update.rows:
        rows.append(replace(row, mask=False, forwarded=False) if row.index in indices else row)
    return _update(rows, update.denominators.max_tokens)


def _update(rows: Sequence[Row], max_tokens: int) -> Update:
    counted = [row for row in rows if row.mask]
    group_tokens: dict[int, int] = {}
    for row in counted:
        group_tokens[row.group] = group_tokens.get(row.group, 0) + row.num_tokens
    denominators = Denominators(
        num_completions=len(counted),
        num_tokens=sum(group_tokens.values()),
        max_tokens=max_tokens,
        group_tokens={group: number for group, number in group_tokens.items() if number},
    )
    return Update(rows=tuple(rows), denominators=denominators)
