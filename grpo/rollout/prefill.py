"""Prompts in one packed forward: the keys and values that decoding starts from.

A prompt is computed once for all completions of its group. What a resumed sequence has already written is
packed behind its prompt. Where the keys and values are stored is the decoders' business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from grpo.model.attention import PackedLayout
from grpo.model.packing import MIN_ROWS, PackedRows, bucket_rows
from grpo.model.policy import Policy
from grpo.model.routing import replayed
from grpo.rollout.memory import EngineStats
from grpo.rollout.sequence import RolloutSequence

PREFILL_TOKENS = 8192
KeyValue = tuple[Tensor, Tensor]
Prefix = Mapping[int, KeyValue]
"""Layer: (keys, values), each [kv heads, tokens, width]."""

PromptIds = tuple[int, ...]
Span = tuple[int, int]
Spans = dict[PromptIds | RolloutSequence, Span]
"""Where in the packed forward the tokens of a prompt, or of a sequence's own completion, are."""


class PrefixCache(Cache):
    """Collects the keys and values of a packed forward, which attends without them."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.stored: dict[int, KeyValue] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        self.stored[layer_idx] = (key_states[0], value_states[0])
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def prefix(self, start: int, end: int) -> dict[int, KeyValue]:
        """Keys and values of the packed tokens ``start..end``."""
        return cut(self.stored, start, end)

    def joined(self, first: Span, second: Span) -> dict[int, KeyValue]:
        """Keys and values of two spans of packed tokens, one after the other."""
        return concatenate(self.prefix(*first), self.prefix(*second))


def cut(prefix: Prefix, start: int, end: int | None = None) -> dict[int, KeyValue]:
    """The positions ``start..end`` of a prefix, as views."""
    return {layer: (k[:, start:end], v[:, start:end]) for layer, (k, v) in prefix.items()}


def concatenate(first: Prefix, second: Prefix) -> dict[int, KeyValue]:
    """`second` behind `first`, for the layers of `second`."""
    joined: dict[int, KeyValue] = {}
    for layer, (key, value) in second.items():
        first_key, first_value = first[layer]
        joined[layer] = (
            torch.cat([first_key, key], dim=1),
            torch.cat([first_value, value], dim=1),
        )
    return joined


def by_prompt(sequences: Iterable[RolloutSequence]) -> dict[PromptIds, list[RolloutSequence]]:
    """Sequences of equal prompts together, in order of appearance."""
    members: dict[PromptIds, list[RolloutSequence]] = {}
    for sequence in sequences:
        members.setdefault(sequence.prompt.token_ids, []).append(sequence)
    return members


@dataclass(slots=True)
class _PackedTokens:
    """Tokens end to end, and what each attention row reads, as `bucket_rows` takes it."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[tuple[list[int], int]] = field(default_factory=list)
    records: list[tuple[int, Tensor | None]] = field(default_factory=list)

    def append(self, tokens: Sequence[int], first_position: int) -> Span:
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(first_position, first_position + len(tokens))
        return start, len(self.tokens)


def prefill(
    policy: Policy, prompts: Mapping[PromptIds, list[RolloutSequence]], stats: EngineStats
) -> tuple[PrefixCache, Spans]:
    """Keys and values of all prompt tokens but the last, and where they are.

    A sequence that resumes with tokens of its own also gets the last prompt token and all of its own but the last.
    """
    packed = _PackedTokens()
    spans: Spans = {}
    for ids, members in prompts.items():
        length = len(ids) - 1
        spans[ids] = packed.append(ids[:-1], 0)
        prompt = list(range(*spans[ids]))
        if prompt:
            packed.rows.append((prompt, 0))
        for sequence in members:
            if sequence.num_prefilled:
                inputs = [ids[-1], *sequence.tokens[: sequence.num_prefilled - 1]]
                spans[sequence] = packed.append(inputs, length)
                packed.rows.append(([*prompt, *range(*spans[sequence])], length))
                num_routed = sequence.num_prefilled - 1
                if sequence.given:
                    num_routed = min(num_routed, sequence.num_routed)
                record = sequence.routing_record(policy.routing, num_routed)
                packed.records.append((spans[sequence][0] + 1, record))
    stats.prefill_tokens += len(packed.tokens)
    forward = packed_forward(
        policy, packed.tokens, packed.positions, packed.rows, records=packed.records
    )
    for members in prompts.values():
        for sequence in members:
            if sequence.given and sequence.num_prefilled:
                _record_observation(policy, sequence, spans[sequence][0])
    return forward, spans


def _record_observation(policy: Policy, sequence: RolloutSequence, start: int) -> None:
    """Record the experts of tokens, at packed positions from `start` on, that no earlier call had read."""
    routing = policy.routing
    if routing is None or not routing.is_replayed or sequence.num_routed >= sequence.num_prefilled:
        return
    chosen_PLK = routing.chosen(routing.last).cpu().numpy()
    for token_index in range(sequence.num_routed, sequence.num_prefilled - 1):
        sequence.route(token_index, chosen_PLK[start + 1 + token_index].tobytes())


def packed_forward(
    policy: Policy,
    tokens: Sequence[int],
    positions: Sequence[int],
    rows: Sequence[tuple[list[int], int]],
    *,
    records: Sequence[tuple[int, Tensor | None]] = (),
) -> PrefixCache:
    """The keys and values of packed `tokens`; `rows` says what each attends over, as in `bucket_rows`.

    ``records`` are the experts of tokens that were read before, from a packed position on, and go to the same again.
    Filled up to a multiple of MIN_ROWS: the rounding of fewer would depend on their number.
    """
    cache = PrefixCache()
    device = policy.device
    if not tokens:
        return cache
    fillers = range(len(tokens), -(-len(tokens) // MIN_ROWS) * MIN_ROWS)
    zeros = [0] * len(fillers)
    token_P = torch.tensor([*tokens, *zeros], device=device)
    position_P = torch.tensor([*positions, *zeros], device=device)
    all_rows = [*rows, *(([filler], 0) for filler in fillers)]
    buckets, place_P = bucket_rows(all_rows, len(token_P), device)
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    packed = PackedRows(
        token_P=token_P,
        position_P=position_P,
        buckets=buckets,
        output_index_P=place_P,
        source_T=nothing,
        target_T=nothing,
        rows=(),
        routing_PLK=replayed(records, len(token_P), device),
    )
    keep = nothing.new_zeros(1)
    policy.logits(token_P, position_P, PackedLayout(packed), keep=keep, cache=cache)
    return cache


@torch.no_grad()
def token_bytes(policy: Policy) -> int:
    """Bytes of one token's keys and values in all layers."""
    total = 0
    for pair in packed_forward(policy, [0], [0], [([0], 0)]).stored.values():
        total += sum(x[:, 0].numel() * x.element_size() for x in pair)
    return total


def chunks(sequences: Sequence[RolloutSequence]) -> Iterator[list[RolloutSequence]]:
    """`sequences` in order, cut so that each chunk prefills about PREFILL_TOKENS tokens."""
    chunk: list[RolloutSequence] = []
    prompts: set[PromptIds] = set()
    size = 0
    for sequence in sequences:
        ids = sequence.prompt.token_ids
        cost = sequence.num_prefilled + (0 if ids in prompts else len(ids))
        if chunk and size + cost > PREFILL_TOKENS:
            yield chunk
            chunk = []
            prompts = set()
            size = 0
            cost = sequence.num_prefilled + len(ids)
        chunk.append(sequence)
        prompts.add(ids)
        size += cost
    if chunk:
        yield chunk
