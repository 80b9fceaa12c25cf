"""Examples of supervised training become a batch of one update, and its loss one of the objective's.

The mean of -log p over the learnt tokens is the policy loss ``reinforce`` with an advantage of 1 for every token and no
correction, so examples are packed, split, normalised and trained as completions are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Collection, Sequence

import torch

from grpo.data.examples import Example
from grpo.recipe import LossSection
from grpo.types import Batch, Denominators, Row, Update

DRAWN = "drawn"
OUTCOMES = ("skipped", "faulted", "trained")
"""What becomes of a row that a step has drawn: its update was not made, its numbers could not be right, it trained."""
_UNKNOWN = torch.tensor(float("nan"))
"""Stands for the sampler's log-probs: none of our samplers wrote these tokens."""


def supervised_loss(aggregation: str) -> LossSection:
    """-log p of the learnt tokens: their mean (``token_mean``), or the mean of the rows' means (``sequence_mean``)."""
    return LossSection(policy="reinforce", aggregation=aggregation, correction="none")


def supervised_batch(examples: Sequence[Example]) -> Batch:
    """The rows of one update, with its denominators: counts of learnt tokens and rows over all ranks."""
    rows = tuple(row_of(example, index) for index, example in enumerate(examples))
    tokens_of = {row.group: row.num_tokens for row in rows}
    denominators = Denominators(
        num_completions=len(rows),
        num_tokens=sum(tokens_of.values()),
        max_tokens=max(tokens_of.values()),
        group_tokens=tokens_of,
    )
    update = Update(rows=rows, denominators=denominators)
    return Batch(rows=rows, updates=(update,), ledger=_ledger(rows))


def row_of(example: Example, index: int) -> Row:
    """An example as the update sees it: up to the first learnt token it is the prompt."""
    token_ids = example.prompt.token_ids
    first = example.learnt[0][0]
    gaps = zip(example.learnt, example.learnt[1:])
    return Row(
        index=index,
        group=index,
        prompt_ids=token_ids[:first],
        token_ids=token_ids[first:],
        sampled_logps=_UNKNOWN.expand(example.num_learnt),
        advantage=1.0,
        mask=True,
        forwarded=True,
        outcome="trained",
        given=tuple((end - first, start - first) for (_, end), (start, _) in gaps),
    )


def after_update(batch: Batch, trained: Collection[int], masked: Collection[int]) -> Batch:
    """`batch` with the outcomes of its update: `trained` rows changed the weights, `masked` ones were left out."""
    rows = []
    for row in batch.rows:
        outcome = "trained" if row.index in trained else "skipped"
        rows.append(replace(row, outcome="faulted" if row.index in masked else outcome))
    return replace(batch, rows=tuple(rows), ledger=_ledger(rows))


def _ledger(rows: Sequence[Row]) -> dict[str, int]:
    counted = Counter(row.outcome for row in rows)
    return {DRAWN: len(rows), **{outcome: counted[outcome] for outcome in OUTCOMES}}
