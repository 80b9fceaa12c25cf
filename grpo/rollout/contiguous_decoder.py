"""The sequences in flight: admission, prefill, one token a step, and what happens when memory runs out.

Each prompt is prefilled once for its group, packed with others. Drafts wait in a queue, take a slot, and
leave it when they finish; every step computes what is alive, in a multiple of 8 rows or 4, and no more, so a
completion's bits do not depend on how many others are decoded beside it. A sequence that loses its slot for want
of memory is fed its own tokens again and goes on with the same bits.
"""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Collection, Iterator, Mapping, Sequence

import psutil
import torch
from torch import Tensor

from grpo.kernels import linear
from grpo.kernels.sampling.spec import Sampling
from grpo.kernels.sampling.torch_sampler import sample
from grpo.model.attention import PackedLayout
from grpo.model.packing import MIN_ROWS, PackedRows, bucket_rows
from grpo.model.policy import Policy
from grpo.rollout.contiguous_cache import (
    BLOCK,
    SHARED,
    ContiguousCache,
    KeyValue,
    PrefixCache,
    prompt_width,
    width_for,
)
from grpo.rollout.sequence import RolloutSequence, Stops, tensor_of

PREFILL_TOKENS = 8192
PACK_AFTER = 16  # steps; a call of fewer would not earn back what packing the weights costs
GIB = 2**30
OOM_MESSAGES = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory",
    "could not execute a primitive",
    "could not create a primitive",  # by torch's and oneDNN's allocators where memory runs out
    "CUDA error: out of memory",
    "[CUDA]: out of memory",
    "STATUS_ALLOC_FAILED",
)  # by CUDA, Triton, cuBLAS


@dataclass(slots=True)
class EngineStats:
    """What one call of `Engine.sample` did.

    ``tokens`` are those of all completions, cancelled ones too, that this call sampled; ``rows_computed`` and
    ``rows_alive`` are row-steps; ``replayed`` tokens were fed again after a sequence lost its slot; ``kv_bytes`` is
    the most that keys and values took.
    """

    tokens: int = 0
    rows_computed: int = 0
    rows_alive: int = 0
    prefill_tokens: int = 0
    replayed: int = 0
    kv_bytes: int = 0
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class ContiguousDecoder:
    """Writes sequences with the policy's own modules, its `next_logits` or those given; `run` yields each as it ends."""

    def __init__(
        self,
        policy: Policy,
        stats: EngineStats,
        *,
        max_rows: int,
        budget: float,
        token_bytes: int,
        next_logits: Callable[..., Tensor] | None = None,
    ):
        self.next_logits = next_logits or policy.next_logits
        self.policy, self.stats, self.max_rows, self.budget = policy, stats, max_rows, budget
        self.slots = ContiguousCache(
            policy.device,
            shared=None if _is_read_natively(policy) else SHARED,
            token_bytes=token_bytes,
        )
        self.queue: deque[RolloutSequence] = deque()
        self.live: dict[RolloutSequence, None] = {}
        self.packed: list[torch.nn.Linear] = []
        self.prefixes: dict[
            tuple[int, ...], dict[int, KeyValue]
        ] = {}  # of short prompts that are waited for

    @torch.no_grad()
    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Callable[[], Collection[int] | None],
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when it has ended, or cancelled when its place is `unwanted` (None: all are)."""
        self.queue.extend(sequences)
        try:
            yield from self._written(sampling, stops, unwanted)
        finally:
            linear.unpack(self.packed)

    def _written(
        self, sampling: Sampling, stops: Stops, unwanted: Callable[[], Collection[int] | None]
    ) -> Iterator[RolloutSequence]:
        while self.queue or self.live:
            gone = unwanted()
            for sequence in [*self.live, *self.queue] if gone is None or gone else ():
                if gone is None or sequence.place in gone:
                    self._leave(sequence)
                    sequence.finish = "cancelled"
                    yield sequence
            self._admit()
            if self.live:
                yield from self._spare_memory(lambda: self._step(sampling, stops)) or ()
            if self.stats.steps == PACK_AFTER and not self.packed:
                self._pack()

    def _pack(self) -> None:
        """Copy the weights into the order that products of few rows read fastest, where there is memory to spare."""
        if 4 * linear.packed_bytes(self.policy.model) > psutil.virtual_memory().available:
            return
        try:
            self.packed = linear.pack(self.policy.model)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise

    def describe(self) -> list[str]:
        """Who is in flight, and who waits."""
        return [f"{len(self.live)} completions alive", f"{len(self.queue)} in the queue"]

    def _leave(self, sequence: RolloutSequence) -> None:
        if sequence in self.live:
            del self.live[sequence]
            self.slots.drop(sequence)
        else:
            self.queue.remove(sequence)

    # -- admission ----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give slots to waiting sequences while rows and memory allow; prompts are prefilled together."""
        taken: list[RolloutSequence] = []
        free = self.budget - self.slots.used_bytes
        known = {sequence.prompt.token_ids for sequence in self.live}
        while len(taken) < len(self.queue) and len(self.live) + len(taken) < self.max_rows:
            sequence = self.queue[len(taken)]
            free -= self._cost(sequence, sequence.prompt.token_ids in known)
            if free < 0 and (self.live or taken):
                break
            known.add(sequence.prompt.token_ids)
            taken.append(sequence)
        for chunk in chunks(taken):
            self._spare_memory(partial(self._start, chunk), len(chunk))
            if chunk[0] not in self.slots.home:
                break
            for sequence in chunk:
                self.queue.popleft()
                self.live[sequence] = None
        if taken:
            waiting = {sequence.prompt.token_ids for sequence in self.queue}
            self.prefixes = {ids: prefix for ids, prefix in self.prefixes.items() if ids in waiting}
        self.stats.kv_bytes = max(self.stats.kv_bytes, self.slots.used_bytes)

    def _cost(self, sequence: RolloutSequence, prompt_is_stored: bool) -> float:
        """Bytes that a sequence's keys and values will take for its next tokens, and its prompt's once a group."""
        prompt, own = len(sequence.prompt.token_ids), sequence.given + BLOCK
        if prompt <= self.slots.shared:
            return self.slots.token_bytes * width_for(prompt + own)
        return self.slots.token_bytes * (
            width_for(own) + (0 if prompt_is_stored else prompt_width(prompt))
        )

    def _start(self, sequences: Sequence[RolloutSequence]) -> None:
        """Prefill the prompts of `sequences` and what is given of their completions, and give them their slots."""
        prompts: dict[tuple[int, ...], list[RolloutSequence]] = {}
        for sequence in sequences:
            prompts.setdefault(sequence.prompt.token_ids, []).append(sequence)
        fresh = {
            ids: members
            for ids, members in prompts.items()
            if any(sequence.given for sequence in members)
            or not (ids in self.slots.readers or ids in self.prefixes)
        }
        found, spans = prefill(self.policy, fresh, self.stats)
        self.slots.expect((ids, len(ids) - 1, len(members)) for ids, members in prompts.items())
        for ids, members in prompts.items():
            prefix = found.prefix(*spans[ids]) if ids in spans else self.prefixes.get(ids, {})
            self.slots.add(members, ids, prefix, len(ids) - 1)
            if len(ids) <= self.slots.shared:
                self.prefixes[ids] = {
                    layer: (k.clone(), v.clone()) for layer, (k, v) in prefix.items()
                }
            for sequence in members:
                sequence.fed = sequence.given
                if sequence.given:
                    self.slots.extend(sequence, found.prefix(*spans[sequence]), sequence.given)

    # -- one step -----------------------------------------------------------------------------------------

    def _step(self, sampling: Sampling, stops: Stops) -> list[RolloutSequence]:
        """One token for every row; returns the sequences that ended with it."""
        sequences, slots, device = self._fitting(), self.slots, self.policy.device
        step = row_step(self.policy.base.dtype)
        rows = -(-len(sequences) // step) * step
        token_R = tensor_of([sequence.next_input for sequence in sequences], rows, device)
        position_R = tensor_of(slots.positions, rows, device)
        logits = self.next_logits(token_R[:, None], position_R[:, None], slots)[: len(sequences)]
        seed_R = tensor_of([sequence.seed for sequence in sequences], len(sequences), device)
        drawn_R = tensor_of([sequence.fed for sequence in sequences], len(sequences), device)
        token_R, logp_R, log_kept_R = sample(logits, seed_R, drawn_R, sampling)
        slots.advance()
        kept = [None] * len(sequences) if log_kept_R is None else log_kept_R.tolist()
        for sequence, token, logp, log_kept in zip(
            sequences, token_R.tolist(), logp_R.tolist(), kept
        ):
            self.stats.replayed += sequence.fed < len(sequence.tokens)
            sequence.take(token, logp, log_kept, stops)
        self.stats.steps += 1
        self.stats.rows_computed += rows
        self.stats.rows_alive += len(sequences)
        ended = [sequence for sequence in sequences if sequence.finish]
        for sequence in ended:
            self._leave(sequence)
        return ended

    def _fitting(self) -> list[RolloutSequence]:
        """The sequences of this step, in the order of their rows; where their memory outgrew the budget, fewer."""
        sequences = self.slots.begin()
        self.stats.kv_bytes = max(self.stats.kv_bytes, self.slots.used_bytes)
        if self.slots.used_bytes <= self.budget or len(sequences) == 1:
            return sequences
        youngest = sorted(
            self.live, key=lambda sequence: (len(sequence.tokens), -sequence.place, -sequence.index)
        )
        while self.slots.used_bytes > self.budget and len(self.live) > 1:
            self._put_back(youngest.pop(0))
        return self.slots.begin()

    def _put_back(self, sequence: RolloutSequence) -> None:
        """Take a sequence's slot away; it waits first in the queue and will be fed its own tokens again."""
        self._leave(sequence)
        sequence.fed = 0
        self.queue.appendleft(sequence)

    def _spare_memory(
        self, work: Callable[[], list[RolloutSequence] | None], starting: int = 0
    ) -> list[RolloutSequence] | None:
        """Do `work`; where memory runs out, go on with half as many rows, which lose nothing but time."""
        wanted = len(self.live) + starting
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or wanted <= MIN_ROWS:
                raise
        self.max_rows = max(MIN_ROWS, wanted // 2)
        for row in [row for row in self.slots.home if row not in self.live]:
            self.slots.drop(row)
        for sequence in [sequence for sequence in self.live if sequence not in self.slots.home]:
            self._put_back(sequence)
        youngest = sorted(
            self.live, key=lambda sequence: (len(sequence.tokens), -sequence.place, -sequence.index)
        )
        for sequence in youngest[: max(0, len(self.live) - self.max_rows)]:
            self._put_back(sequence)
        spare_cached_memory(self.policy.device)
        self.stats.notes.append(
            f"sample: memory ran out; going on with {self.max_rows} completions at a time (nothing "
            "is lost; lower sample.max_rows or sample.kv_memory_gib to avoid the stop)"
        )
        return None


def row_step(dtype: torch.dtype) -> int:
    """Rows of a decoding step are a multiple of this; the rounding of fewer than these would depend on their number.

    In fp32 on AMD's processors, where large products are oneDNN's (any number but 1) and MKL's come in fours, 4.
    """
    return MIN_ROWS // 2 if dtype == torch.float32 and linear.available() else MIN_ROWS


def _is_read_natively(policy: Policy) -> bool:
    """Whether this model's keys are such as the native kernel takes; what does not look like it is served by torch."""
    config = policy.base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        policy.base.dtype == torch.float32
        and width % 16 == 0
        and getattr(config, "attn_logit_softcapping", None) is None
    )


def prefill(
    policy: Policy, prompts: Mapping[tuple[int, ...], list[RolloutSequence]], stats: EngineStats
) -> tuple[PrefixCache, dict]:
    """Keys and values of all prompt tokens but the last, and of that and all but the last given token."""
    tokens: list[int] = []
    positions: list[int] = []
    rows: list[tuple[list[int], int]] = []
    spans: dict[object, tuple[int, int]] = {}
    for ids, members in prompts.items():
        first, length = len(tokens), len(ids) - 1
        prompt = [*range(first, first + length)]
        tokens += ids[:-1]
        positions += range(length)
        spans[ids] = (first, first + length)
        if prompt:
            rows.append((prompt, 0))
        for sequence in members:
            if sequence.given:
                start = len(tokens)
                tokens += [ids[-1], *sequence.tokens[: sequence.given - 1]]
                positions += range(length, length + sequence.given)
                spans[sequence] = (start, len(tokens))
                rows.append(([*prompt, *range(start, len(tokens))], length))
    stats.prefill_tokens += len(tokens)
    return packed_forward(policy, tokens, positions, rows), spans


def packed_forward(
    policy: Policy, tokens: list[int], positions: list[int], rows: list[tuple[list[int], int]]
) -> PrefixCache:
    """The keys and values of packed `tokens`; `rows` says what each attends over, as in `bucket_rows`."""
    cache, device = PrefixCache(), policy.device
    if not tokens:
        return cache
    for filler in range(len(tokens), -(-len(tokens) // MIN_ROWS) * MIN_ROWS):
        tokens, positions, rows = [*tokens, 0], [*positions, 0], [*rows, ([filler], 0)]
    token_P, position_P = (
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
    )
    buckets, place_P = bucket_rows(rows, len(tokens), device)
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    packed = PackedRows(token_P, position_P, buckets, place_P, nothing, nothing, ())
    policy.logits(token_P, position_P, PackedLayout(packed), nothing.new_zeros(1), cache)
    return cache


@torch.no_grad()
def token_bytes(policy: Policy) -> int:
    """What the keys and values of one token take in all layers, in bytes."""
    stored = packed_forward(policy, [0], [0], [([0], 0)]).stored.values()
    return sum(x[:, 0].numel() * x.element_size() for pair in stored for x in pair)


def chunks(sequences: Sequence[RolloutSequence]) -> Iterator[list[RolloutSequence]]:
    """`sequences` in order, so many at a time that about PREFILL_TOKENS are prefilled."""
    chunk: list[RolloutSequence] = []
    prompts: set[tuple[int, ...]] = set()
    size = 0
    for sequence in sequences:
        ids = sequence.prompt.token_ids
        cost = sequence.given + (0 if ids in prompts else len(ids))
        if chunk and size + cost > PREFILL_TOKENS:
            yield chunk
            chunk, prompts, size, cost = [], set(), 0, sequence.given + len(ids)
        chunk.append(sequence)
        prompts.add(ids)
        size += cost
    if chunk:
        yield chunk


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in OOM_MESSAGES
    )


def spare_cached_memory(device: torch.device) -> None:
    """Give back what only waits to be used again."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
