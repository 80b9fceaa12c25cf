"""The decoder for CPUs: admission, prefill, one token a step for every row, and what happens when memory runs out.

Sequences wait in a queue, take a row of the cache, and leave it when they finish. Every step computes what is alive,
in a multiple of 8 rows or 4, and no more, so a completion's bits do not depend on how many others are decoded with
it. A sequence that loses its row for lack of memory replays its own tokens later and continues with the same bits.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Callable, Iterator, Sequence

import psutil
import torch
from torch import Tensor

from grpo.kernels import linear
from grpo.kernels.sampling.spec import Sampling
from grpo.kernels.sampling.torch_sampler import sample
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.rollout.contiguous_cache import SHARED_FROM, ContiguousCache
from grpo.rollout.decoder import NextLogits, Unwanted, in_unwanted_groups
from grpo.rollout.memory import (
    EngineStats,
    is_out_of_memory,
    out_of_memory_note,
    spare_cached_memory,
)
from grpo.rollout.prefill import KeyValue, PromptIds, by_prompt, chunks, prefill
from grpo.rollout.sequence import RolloutSequence, Stops, experts_read, tensor_of
from grpo.rollout.width_bucket import BLOCK, prompt_width, width_for
from rewards.spelling import many

PACK_AFTER = 16  # steps; a call of fewer would not earn back what packing the weights costs


class ContiguousDecoder:
    """Samples sequences with the policy's own modules, by its `next_logits` or those given."""

    def __init__(
        self,
        policy: Policy,
        stats: EngineStats,
        *,
        max_rows: int,
        budget: float,
        token_bytes: int,
        next_logits: NextLogits | None = None,
    ):
        self.policy = policy
        self.stats = stats
        self.max_rows = max_rows
        self.budget = budget
        self.next_logits = next_logits or policy.next_logits
        self.cache = ContiguousCache(
            policy.device,
            shared_from=None if _is_read_natively(policy) else SHARED_FROM,
            token_bytes=token_bytes,
        )
        self.queue: deque[RolloutSequence] = deque()
        self.live: dict[RolloutSequence, None] = {}  # in order of admission
        self.packed: list[torch.nn.Linear] = []
        self.may_pack = True
        # Prompts stored with each row are kept here while more of their completions wait.
        self.prefixes: dict[PromptIds, dict[int, KeyValue]] = {}

    @torch.no_grad()
    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Unwanted,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when it has ended, or as cancelled when its group is `unwanted`."""
        self.queue.extend(sequences)
        try:
            yield from self._decode(sampling, stops, unwanted)
        finally:
            self.release()

    def describe(self) -> list[str]:
        """How many are in flight, and how many wait."""
        return [f"{many(len(self.live), 'completion')} alive", f"{len(self.queue)} in the queue"]

    def release(self) -> None:
        """Free the packed copies of the weights."""
        linear.unpack(self.packed)
        self.packed = []

    def _decode(
        self, sampling: Sampling, stops: Stops, unwanted: Unwanted
    ) -> Iterator[RolloutSequence]:
        while self.queue or self.live:
            for sequence in in_unwanted_groups([*self.live, *self.queue], unwanted()):
                self._remove(sequence)
                sequence.finish = "cancelled"
                yield sequence
            self._admit()
            if self.live:
                yield from self._with_less_memory(lambda: self._step(sampling, stops)) or ()
            if self.stats.steps == PACK_AFTER and self.may_pack:
                self._pack()

    def _pack(self) -> None:
        """Copy the weights into the order that products of few rows read fastest, if there is memory to spare."""
        self.may_pack = False
        if 4 * linear.packed_bytes(self.policy.model) > psutil.virtual_memory().available:
            return
        try:
            self.packed = linear.pack(self.policy.model)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise

    def _remove(self, sequence: RolloutSequence) -> None:
        if sequence in self.live:
            del self.live[sequence]
            self.cache.drop(sequence)
        else:
            self.queue.remove(sequence)

    # -- admission ----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting sequences while rows and memory allow; their prompts are prefilled together."""
        admitted = self._admissible()
        for chunk in chunks(admitted):
            self._with_less_memory(partial(self._start, chunk), len(chunk))
            if chunk[0] not in self.cache.row_width:  # memory ran out
                break
            for sequence in chunk:
                self.queue.popleft()
                self.live[sequence] = None
        if admitted:
            waiting = {sequence.prompt.token_ids for sequence in self.queue}
            self.prefixes = {ids: prefix for ids, prefix in self.prefixes.items() if ids in waiting}
        self.stats.kv_bytes = max(self.stats.kv_bytes, self.cache.used_bytes)

    def _admissible(self) -> list[RolloutSequence]:
        """The front of the queue, as far as rows and the budget go; one sequence may always run."""
        admitted: list[RolloutSequence] = []
        free_bytes = self.budget - self.cache.used_bytes
        stored = {sequence.prompt.token_ids for sequence in self.live}
        while len(admitted) < len(self.queue) and len(self.live) + len(admitted) < self.max_rows:
            sequence = self.queue[len(admitted)]
            free_bytes -= self._cost(sequence, sequence.prompt.token_ids in stored)
            if free_bytes < 0 and (self.live or admitted):
                break
            stored.add(sequence.prompt.token_ids)
            admitted.append(sequence)
        return admitted

    def _cost(self, sequence: RolloutSequence, prompt_is_stored: bool) -> float:
        """Bytes of a sequence's keys and values up to its next block, with its prompt's unless they are stored."""
        prompt_length = len(sequence.prompt.token_ids)
        own_length = sequence.num_prefilled + BLOCK
        if prompt_length <= self.cache.shared_from:
            return self.cache.token_bytes * width_for(prompt_length + own_length)
        shared = 0 if prompt_is_stored else prompt_width(prompt_length)
        return self.cache.token_bytes * (width_for(own_length) + shared)

    def _start(self, sequences: Sequence[RolloutSequence]) -> None:
        """Prefill what is not stored yet, and give `sequences` their rows."""
        prompts = by_prompt(sequences)
        to_prefill: dict[PromptIds, list[RolloutSequence]] = {}
        for ids, members in prompts.items():
            is_stored = ids in self.cache.num_readers or ids in self.prefixes
            if not is_stored or any(sequence.num_prefilled for sequence in members):
                to_prefill[ids] = members
        prefilled, spans = prefill(self.policy, to_prefill, self.stats)
        self.cache.expect((ids, len(ids) - 1, len(members)) for ids, members in prompts.items())
        for ids, members in prompts.items():
            prefix = prefilled.prefix(*spans[ids]) if ids in spans else self.prefixes.get(ids, {})
            self.cache.add(members, ids, prefix, len(ids) - 1)
            if len(ids) <= self.cache.shared_from:
                self.prefixes[ids] = {
                    layer: (k.clone(), v.clone()) for layer, (k, v) in prefix.items()
                }
            for sequence in members:
                sequence.num_computed = sequence.num_prefilled
                if sequence.num_prefilled:
                    completion = prefilled.prefix(*spans[sequence])
                    self.cache.extend(sequence, completion, sequence.num_prefilled)

    # -- one step -----------------------------------------------------------------------------------------

    def _step(self, sampling: Sampling, stops: Stops) -> list[RolloutSequence]:
        """One token for every row; returns the sequences that ended with it."""
        sequences = self._fit_the_budget()
        multiple = row_multiple(self.policy.base.dtype)
        rows = -(-len(sequences) // multiple) * multiple
        logits_RV = self._logits(sequences, rows)
        for sequence, experts in zip(sequences, experts_read(self.policy.routing, len(sequences))):
            sequence.route(sequence.num_computed - 1, experts)
        seed_R = self._tensor([sequence.seed for sequence in sequences])
        num_computed_R = self._tensor([sequence.num_computed for sequence in sequences])
        token_R, logp_R, log_kept_R = sample(logits_RV, seed_R, num_computed_R, sampling)
        self.cache.advance()
        log_kepts = [None] * len(sequences) if log_kept_R is None else log_kept_R.tolist()
        drawn = zip(sequences, token_R.tolist(), logp_R.tolist(), log_kepts)
        for sequence, token, logp, log_kept in drawn:
            self.stats.replayed += sequence.num_computed < len(sequence.tokens)
            sequence.append(token, logp, log_kept, stops)
        self.stats.steps += 1
        self.stats.rows_computed += rows
        self.stats.rows_alive += len(sequences)
        ended = [sequence for sequence in sequences if sequence.finish]
        for sequence in ended:
            self._remove(sequence)
        return ended

    def _logits(self, sequences: Sequence[RolloutSequence], rows: int) -> Tensor:
        """Logits [R, V] of the next token of each sequence, computed in `rows` rows."""
        inputs = [sequence.next_input for sequence in sequences]
        token_R = self._tensor(inputs, rows)
        position_R = self._tensor(self.cache.positions, rows)
        logits = self.next_logits(token_R[:, None], position_R[:, None], self.cache)
        return logits[: len(sequences)]

    def _tensor(self, values: Sequence[int], rows: int | None = None) -> Tensor:
        return tensor_of(values, len(values) if rows is None else rows, self.policy.device)

    def _fit_the_budget(self) -> list[RolloutSequence]:
        """The sequences of this step in the order of their rows; fewer if they outgrew the budget."""
        sequences = self.cache.begin()
        self.stats.kv_bytes = max(self.stats.kv_bytes, self.cache.used_bytes)
        if self.cache.used_bytes <= self.budget or len(sequences) == 1:
            return sequences
        shortest_first = self._shortest_first()
        while self.cache.used_bytes > self.budget and len(self.live) > 1:
            self._put_back(shortest_first.pop(0))
        return self.cache.begin()

    def _shortest_first(self) -> list[RolloutSequence]:
        """Live sequences by how little is lost when they are put back; of equal ones the last in the call."""

        def key(sequence: RolloutSequence) -> tuple[int, int, int]:
            return len(sequence.tokens), -sequence.group_index, -sequence.sample_index

        return sorted(self.live, key=key)

    def _put_back(self, sequence: RolloutSequence) -> None:
        """Take a sequence's row away; it waits at the front of the queue and will replay its own tokens."""
        self._remove(sequence)
        sequence.num_computed = 0
        self.queue.appendleft(sequence)

    # -- where memory runs out ----------------------------------------------------------------------------

    def _with_less_memory(
        self, work: Callable[[], list[RolloutSequence] | None], starting: int = 0
    ) -> list[RolloutSequence] | None:
        """Do `work`; if memory runs out, continue with half as many rows, which lose nothing but time.

        `starting` rows are about to begin in `work`. Only when a single row does not fit is the error raised.
        """
        wanted = len(self.live) + starting
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or (wanted <= 1 and not self.packed):
                raise
        self._shrink(wanted)  # out here nothing holds the tensors of what failed
        return None

    def _shrink(self, wanted: int) -> None:
        """Give memory back, and rows too: half of those wanted.

        A handful is started over in tensors of its own size: shrinking those of many rows needs a copy.
        """
        starts_over = wanted <= MIN_ROWS
        self.max_rows = max(1, wanted // 2) if starts_over else max(MIN_ROWS, wanted // 2)
        self.may_pack = False
        self.release()
        for row in [row for row in self.cache.row_width if row not in self.live]:
            self.cache.drop(row)
        for sequence in [row for row in self.live if row not in self.cache.row_width]:
            self._put_back(sequence)
        num_kept = 0 if starts_over else self.max_rows
        for sequence in self._shortest_first()[: max(0, len(self.live) - num_kept)]:
            self._put_back(sequence)
        if starts_over:
            self.prefixes = {}
        self.cache.remove_empty_buckets()
        spare_cached_memory(self.policy.device)
        self.stats.notes.append(out_of_memory_note(self.max_rows))


def row_multiple(dtype: torch.dtype) -> int:
    """Rows of a decoding step are a multiple of this; the rounding of fewer would depend on their number.

    4 in fp32 on AMD processors, where large products are oneDNN's (any number but 1) and MKL's come in fours; else 8.
    """
    return MIN_ROWS // 2 if dtype == torch.float32 and linear.available() else MIN_ROWS


def _is_read_natively(policy: Policy) -> bool:
    """Whether the native kernel takes this model's keys; all others are torch's."""
    config = policy.base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        policy.base.dtype == torch.float32
        and width % 16 == 0
        and getattr(config, "attn_logit_softcapping", None) is None
    )
