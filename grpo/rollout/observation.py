"""Observations in one packed forward: what an environment gave is read behind the keys that a sequence has already.

Nothing before an observation is computed again, so that the cost of a completion is linear in its tokens however many
turns they make. An observation is computed as a whole and attends on its own: its keys have the same bits whatever is
read with it, when, and whether the keys before it were kept or made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import torch
from torch import Tensor

from grpo.model.attention import causal
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.rollout.memory import EngineStats
from grpo.rollout.prefill import PREFILL_TOKENS, Prefix, PrefixCache, Span
from grpo.rollout.sequence import RolloutSequence


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """Packed tokens ``start..end``, and the keys and values that they stand behind, ``parts`` end to end."""

    start: int
    end: int
    parts: Sequence[Prefix] = ()

    def before(self, layer: int, number: int) -> list[Tensor]:
        """The stored keys (0) or values (1) of a layer, each [kv heads, tokens, width]."""
        return [part[layer][number] for part in self.parts if layer in part]


class _BehindKeys:
    """Attention of stretches of packed tokens: each to the keys before it, and causally to itself."""

    def __init__(self, stretches: Sequence[_Stretch]):
        self.stretches = stretches

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        layer: int,
    ) -> Tensor:
        outs = []
        for stretch in self.stretches:
            span = slice(stretch.start, stretch.end)
            out = causal(
                query[:, :, span],
                torch.cat([*stretch.before(layer, 0), key[0, :, span]], dim=1)[None],
                torch.cat([*stretch.before(layer, 1), value[0, :, span]], dim=1)[None],
                scaling=scaling,
                window=window,
                softcap=softcap,
            )
            outs.append(out)
        return torch.cat(outs, dim=2).transpose(1, 2)


def read_observations(
    policy: Policy,
    sequences: Sequence[RolloutSequence],
    held: Sequence[Sequence[Prefix]],
    stats: EngineStats,
) -> tuple[PrefixCache, list[Span]]:
    """Keys and values of the observation that is next in each sequence, and where they are.

    They are those of the token that ended the turn and of all that is given but the last, which the next step reads.
    ``held`` are the keys and values before them. The experts that they go to are recorded.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    for sequence in sequences:
        inputs = sequence.inputs(sequence.num_ahead)
        first = len(sequence.prompt.token_ids) - 1 + sequence.num_computed
        spans.append((len(tokens), len(tokens) + len(inputs)))
        tokens += inputs
        positions += range(first, first + len(inputs))
    stats.prefill_tokens += len(tokens)
    stretches = [_Stretch(*span, parts) for span, parts in zip(spans, held)]
    cache = _forward(policy, tokens, positions, stretches)
    _record(policy, sequences, spans)
    return cache, spans


def _forward(
    policy: Policy,
    tokens: Sequence[int],
    positions: Sequence[int],
    stretches: Sequence[_Stretch],
) -> PrefixCache:
    """Filled up to a multiple of MIN_ROWS: the rounding of fewer would depend on their number."""
    number = -(-len(tokens) // MIN_ROWS) * MIN_ROWS
    zeros = [0] * (number - len(tokens))
    if zeros:
        stretches = [*stretches, _Stretch(len(tokens), number)]
    cache = PrefixCache()
    policy.logits(
        torch.tensor([*tokens, *zeros], device=policy.device),
        torch.tensor([*positions, *zeros], device=policy.device),
        _BehindKeys(stretches),
        keep=torch.zeros(1, dtype=torch.long, device=policy.device),
        cache=cache,
    )
    return cache


def _record(policy: Policy, sequences: Sequence[RolloutSequence], spans: Sequence[Span]) -> None:
    routing = policy.routing
    if routing is None or not routing.is_replayed:
        return
    chosen_PLK = routing.chosen(routing.last).cpu().numpy()
    for sequence, (start, end) in zip(sequences, spans):
        for index in range(start, end):
            token_index = sequence.num_computed - 1 + index - start
            sequence.route(token_index, chosen_PLK[index].tobytes())


def observation_chunks(sequences: Sequence[RolloutSequence]) -> Iterator[list[RolloutSequence]]:
    """`sequences` in order, cut so that the observations of each chunk are about PREFILL_TOKENS tokens."""
    chunk: list[RolloutSequence] = []
    size = 0
    for sequence in sequences:
        if chunk and size + sequence.num_ahead > PREFILL_TOKENS:
            yield chunk
            chunk = []
            size = 0
        chunk.append(sequence)
        size += sequence.num_ahead
    if chunk:
        yield chunk
