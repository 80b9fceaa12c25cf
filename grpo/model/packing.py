"""Completions laid end to end without padding, each group's prompt once: what one forward reads.

Also the rectangles of rows of similar length in which attention is computed, and the division into micro-batches.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Sequence

import torch
from torch import Tensor

from grpo.model.routing import replayed
from grpo.model.shared_prefix import PromptSpan, SharedPlan, plan
from grpo.types import Row

BUCKET = 16
"""Widths of attention rectangles are multiples of this."""
MIN_ROWS = 8
"""The least packed length: products of fewer rows may round differently."""

AttentionRow = tuple[list[int], int]
"""(the packed tokens that a row attends over, how many of its first outputs another row provides)."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionBucket:
    """Attention rows of similar length, computed as one rectangle.

    ``gather_RL`` [R, L] indexes packed tokens; positions past a row's end repeat its first token, come after every
    query that is read back, and are never read back themselves. ``take`` are the flat positions of the rectangle whose
    outputs are used.
    """

    gather_RL: Tensor
    take: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows laid end to end without padding; the prompt of a group occurs once, before its completions.

    ``token_P`` and ``position_P`` are the packed tokens and their positions. Each attention row reads a prompt and one
    completion causally, through ``buckets``; ``output_index_P`` is, for each packed token, the index of its output
    among those that the buckets take, end to end. ``source_T`` is, for each completion token that is learnt from, the
    packed position whose hidden state predicts it, ``target_T`` the token itself. ``shared`` is the same attention
    without copies of the prompts, on devices that support it. ``routing_PLK`` are the experts that tokens of a mixture
    of experts are to go to, as `grpo.model.routing.replayed` has them; None where none are recorded.
    """

    token_P: Tensor
    position_P: Tensor
    buckets: tuple[AttentionBucket, ...]
    output_index_P: Tensor
    source_T: Tensor
    target_T: Tensor
    rows: tuple[Row, ...]
    shared: SharedPlan | None = None
    routing_PLK: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.token_P.numel())


def stack_logps(rows: Sequence[Row], device: torch.device | str = "cpu") -> Tensor:
    """The sampler's log-probs of `rows` end to end: ``sampled_logp_T``, fp32."""
    if not rows:
        return torch.zeros(0, device=device)
    return torch.cat([row.sampled_logps for row in rows]).to(device)


def micro_batches(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """`rows` in lists of at most `budget` packed tokens (one row alone may exceed it), groups kept together."""
    batches: list[list[Row]] = []
    used = 0
    group: int | None = None
    for row in sorted(rows, key=lambda row: (row.group, row.index)):
        length = len(row.token_ids)
        with_prompt = length + len(row.prompt_ids)
        cost = length if row.group == group else with_prompt
        if not batches or used + cost > budget:
            batches.append([])
            used = 0
            cost = with_prompt
        batches[-1].append(row)
        used += cost
        group = row.group
    return batches


# ---- packing ----------------------------------------------------------------------------------------------------


def pack(rows: Sequence[Row], device: torch.device | str = "cpu") -> PackedRows:
    """`rows` laid end to end, each group's prompt once before its completions, ready for one forward.

    The packed length is at least `MIN_ROWS`; filler tokens attend to themselves and are never read.
    """
    packing = _Packing()
    sizes = Counter(row.group for row in rows)
    for row in rows:
        packing.add(row, alone=sizes[row.group] == 1)
    packing.fill(MIN_ROWS)
    buckets, output_index_P = bucket_rows(packing.attention_rows, len(packing.tokens), device)
    target = [token for row in rows for token in _learnt(row.token_ids, row)]
    return PackedRows(
        token_P=upload(torch.tensor(packing.tokens), device),
        position_P=upload(torch.tensor(packing.positions), device),
        buckets=buckets,
        output_index_P=output_index_P,
        source_T=upload(torch.tensor(packing.sources, dtype=torch.long), device),
        target_T=upload(torch.tensor(target, dtype=torch.long), device),
        rows=tuple(rows),
        shared=packing.shared_plan() if torch.device(device).type == "cpu" else None,
        routing_PLK=packing.routing(rows, device),
    )


@dataclass(slots=True)
class _Packing:
    """Rows laid end to end so far, as plain lists."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    attention_rows: list[AttentionRow] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    stretches: list[tuple[int, int]] = field(default_factory=list)
    prompt_spans: list[PromptSpan] = field(default_factory=list)
    prompt_starts: dict[int, int] = field(default_factory=dict)
    completion_starts: list[int] = field(default_factory=list)

    def add(self, row: Row, alone: bool = False) -> None:
        """Append a completion, after its prompt if its group is new; in one stretch with it if it is `alone`."""
        if alone:
            self._add_whole(row)
            return
        has_prompt = row.group in self.prompt_starts
        if not has_prompt:
            self.prompt_starts[row.group] = len(self.tokens)
            self._append(row.prompt_ids, first_position=0)
        prompt_length = len(row.prompt_ids)
        prompt_start = self.prompt_starts[row.group]
        prompt_end = prompt_start + prompt_length
        start = len(self.tokens)
        self.completion_starts.append(start)
        self._append(row.token_ids, first_position=prompt_length)
        end = len(self.tokens)
        self.prompt_spans.append(PromptSpan(start, end, prompt_start, prompt_end))
        attended = [*range(prompt_start, prompt_end), *range(start, end)]
        self.attention_rows.append((attended, prompt_length if has_prompt else 0))
        self.sources += _learnt([prompt_end - 1, *range(start, end - 1)], row)

    def _add_whole(self, row: Row) -> None:
        """A row whose prompt no other row shares attends to itself, in one piece."""
        start = len(self.tokens)
        self.completion_starts.append(start + len(row.prompt_ids))
        self._append((*row.prompt_ids, *row.token_ids), first_position=0)
        end = len(self.tokens)
        self.attention_rows.append(([*range(start, end)], 0))
        first_source = start + len(row.prompt_ids) - 1
        self.sources += _learnt(range(first_source, end - 1), row)

    def _append(self, token_ids: Sequence[int], first_position: int) -> None:
        start = len(self.tokens)
        self.stretches.append((start, start + len(token_ids)))
        self.tokens += token_ids
        self.positions += range(first_position, first_position + len(token_ids))

    def fill(self, length: int) -> None:
        """Append filler tokens up to `length`."""
        for index in range(len(self.tokens), length):
            self._append([0], first_position=0)
            self.attention_rows.append(([index], 0))

    def routing(self, rows: Sequence[Row], device: torch.device | str) -> Tensor | None:
        """The experts that the packed `rows` have recorded; None if they have none."""
        records = zip(self.completion_starts, [row.routing for row in rows])
        return replayed(records, len(self.tokens), device)

    def shared_plan(self) -> SharedPlan:
        longest = max((len(attended) for attended, _ in self.attention_rows), default=0)
        return plan(self.stretches, self.prompt_spans, longest)


def _learnt(values: Sequence[int], row: Row) -> Sequence[int]:
    """Of `values`, one for each token of a row's completion, those of the tokens that are learnt from."""
    return [values[index] for index in row.written] if row.given else values


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`, without the host waiting for the copy."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# ---- rectangles -------------------------------------------------------------------------------------------------


def bucket_rows(
    rows: Sequence[AttentionRow], num_tokens: int, device: torch.device | str
) -> tuple[tuple[AttentionBucket, ...], Tensor]:
    """(attention rows in rectangles, ``output_index_P``); a row's rectangle depends on its own length alone."""
    by_width: dict[int, list[AttentionRow]] = {}
    for row in rows:
        width = -(-len(row[0]) // BUCKET) * BUCKET
        by_width.setdefault(width, []).append(row)
    buckets = []
    outputs = [torch.zeros(0, dtype=torch.long)]
    for width, members in sorted(by_width.items()):
        gather_RL, take = _rectangle(members, width)
        outputs.append(gather_RL.reshape(-1)[take])
        buckets.append(AttentionBucket(upload(gather_RL, device), upload(take, device)))
    output_index_P = torch.empty(num_tokens, dtype=torch.long)
    output_index_P[torch.cat(outputs)] = torch.arange(num_tokens)
    return tuple(buckets), upload(output_index_P, device)


def _rectangle(rows: Sequence[AttentionRow], width: int) -> tuple[Tensor, Tensor]:
    """(the packed tokens [R, L] of rows padded to `width`, the flat positions whose outputs are used)."""
    padded = [indices + indices[:1] * (width - len(indices)) for indices, _ in rows]
    length_R1 = torch.tensor([len(indices) for indices, _ in rows])[:, None]
    skip_R1 = torch.tensor([skip for _, skip in rows])[:, None]
    column_1L = torch.arange(width)[None, :]
    used_RL = (column_1L >= skip_R1) & (column_1L < length_R1)
    return torch.tensor(padded), used_RL.reshape(-1).nonzero()[:, 0]
