"""The decoder for CPUs: admission, prefill, one token a step for every row, and what happens when memory runs out.

Sequences wait in a queue, take a row of the cache, and leave it when they finish. Every step computes what is alive,
in a multiple of 8 rows or 4, and no more, so a completion's bits do not depend on how many others are decoded with
it. A sequence that loses its row for lack of memory replays its own tokens later and continues with the same bits.

One that waits for an environment has no row. Its keys are kept beside the buckets, within the budget; where they are
in the way they are dropped, and made anew by the same steps. An observation of at least `READ_AT_ONCE` tokens is read
in a forward of its own (``observation``), a shorter one a token a step in the row that it has anyway. Which of the two
depends on its length alone, so that a completion has the same bits whether its keys were kept or not. Measured on 30
million parameters in fp32: a forward of up to 8 tokens took 38 to 44 ms of CPU, of 32 tokens 64, of 128 tokens 162; a
step of 8 rows took 39, one of 64 rows 114. In a full batch a token a step costs 1.3 ms; where few rows are alive, 39.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Callable, Collection, Iterator, Sequence

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
from grpo.rollout.observation import observation_chunks, read_observations
from grpo.rollout.prefill import KeyValue, Prefix, PromptIds, by_prompt, chunks, prefill
from grpo.rollout.sequence import RolloutSequence, Stops, experts_read, tensor_of
from grpo.rollout.waiting import Waiting, shortest_first, spare_keys
from grpo.rollout.width_bucket import BLOCK, prompt_width, width_for
from rewards.spelling import many

PACK_AFTER = 16  # steps; a call of fewer would not earn back what packing the weights costs
READ_AT_ONCE = 4  # tokens


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
        # Of sequences that wait, for an answer or, answered, in the queue.
        self.kept: dict[RolloutSequence, tuple[Prefix, int]] = {}
        self.waiting = Waiting()
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
        waiting: Waiting,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when it has ended, or as cancelled when its group is `unwanted`."""
        self.waiting = waiting
        self.queue.extend(sequence for sequence in sequences if not sequence.is_paused)
        try:
            yield from self._decode(sampling, stops, unwanted)
        finally:
            self.release()

    def describe(self) -> list[str]:
        """How many are in flight, and how many wait."""
        lines = [f"{many(len(self.live), 'completion')} alive", f"{len(self.queue)} in the queue"]
        paused = len(self.waiting.paused)
        return [*lines, f"{paused} waiting for an environment"] if paused else lines

    def release(self) -> None:
        """Free the packed copies of the weights."""
        linear.unpack(self.packed)
        self.packed = []

    def _decode(
        self, sampling: Sampling, stops: Stops, unwanted: Unwanted
    ) -> Iterator[RolloutSequence]:
        while self.queue or self.live or self.waiting.paused:
            everyone = [*self.live, *self.queue, *self.waiting.paused]
            for sequence in in_unwanted_groups(everyone, unwanted()):
                self._remove(sequence)
                sequence.finish = "cancelled"
                yield sequence
            yield from self._take_ready()
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
        elif sequence in self.waiting.paused:
            self.waiting.cancel(sequence)
        else:
            self.queue.remove(sequence)
        self._forget(sequence)

    # -- between turns ------------------------------------------------------------------------------------

    def _take_ready(self) -> Iterator[RolloutSequence]:
        """Queue those whose answers have come, in front; yields those that have ended by them."""
        ready = self.waiting.take_ready(is_idle=not self.queue and not self.live)
        for sequence in ready:
            if sequence.finish:
                self._forget(sequence)
                yield sequence
        self.queue.extendleft(sequence for sequence in reversed(ready) if not sequence.finish)

    def _pause(self, sequence: RolloutSequence) -> None:
        """Take a sequence out of its row; its keys are kept if there is memory for a copy."""
        del self.live[sequence]
        try:
            self.kept[sequence] = self.cache.pause(sequence)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.cache.drop(sequence)

    def _forget(self, sequence: RolloutSequence) -> None:
        """Drop the keys of a sequence, wherever they are."""
        self.kept.pop(sequence, None)
        self.cache.drop(sequence)

    @property
    def _used_bytes(self) -> int:
        """Size of all keys and values, those of paused sequences included."""
        num_kept = sum(length for _, length in self.kept.values())
        return self.cache.used_bytes + self.cache.token_bytes * num_kept

    def _read_observations(self) -> None:
        """Compute the longer observations that rows have come to, and store their keys."""
        reading = [row for row in self.live if _read_at_once(row)]
        for chunk in observation_chunks(reading):
            held = [self.cache.held(sequence) for sequence in chunk]
            read, spans = read_observations(self.policy, chunk, held, self.stats)
            for sequence, span in zip(chunk, spans):
                number = span[1] - span[0]
                self.cache.extend(sequence, read.prefix(*span), number)
                self.stats.replayed += sequence.has_read(number)

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
        self.stats.kv_bytes = max(self.stats.kv_bytes, self._used_bytes)

    def _admissible(self) -> list[RolloutSequence]:
        """The front of the queue, as far as rows and the budget go; one sequence may always run.

        Kept keys give way while more sequences wait with theirs than decode.
        """
        if not self.queue:
            return []
        while True:
            admitted = self._that_fit()
            spare = spare_keys(self.kept, self.queue, len(self.live), admitted)
            if spare is None or len(self.live) + len(admitted) >= self.max_rows:
                break
            self._forget(spare)
        is_idle = self.queue and not self.live
        return admitted or ([self.queue[0]] if is_idle else [])

    def _that_fit(self) -> list[RolloutSequence]:
        admitted: list[RolloutSequence] = []
        free_bytes = self.budget - self._used_bytes
        stored = {sequence.prompt.token_ids for sequence in (*self.live, *self.kept)}
        while len(admitted) < len(self.queue) and len(self.live) + len(admitted) < self.max_rows:
            sequence = self.queue[len(admitted)]
            free_bytes -= self._cost(sequence, sequence.prompt.token_ids in stored)
            if free_bytes < 0:
                break
            stored.add(sequence.prompt.token_ids)
            admitted.append(sequence)
        return admitted

    def _cost(self, sequence: RolloutSequence, prompt_is_stored: bool) -> float:
        """Bytes of a sequence's keys and values up to its next block, with its prompt's unless they are stored."""
        if sequence in self.kept:
            length = self.kept[sequence][1]
            wanted = width_for(length + sequence.num_ahead + BLOCK)
            return self.cache.token_bytes * (wanted - length)
        prompt_length = len(sequence.prompt.token_ids)
        own_length = sequence.num_prefilled + BLOCK
        if prompt_length <= self.cache.shared_from:
            return self.cache.token_bytes * width_for(prompt_length + own_length)
        shared = 0 if prompt_is_stored else prompt_width(prompt_length)
        return self.cache.token_bytes * (width_for(own_length) + shared)

    def _start(self, sequences: Sequence[RolloutSequence]) -> None:
        """Prefill what is not stored yet, and give `sequences` their rows."""
        self._put_back_kept(sequences)
        prompts = by_prompt(row for row in sequences if row not in self.cache.row_width)
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

    def _put_back_kept(self, sequences: Sequence[RolloutSequence]) -> None:
        """Give those whose keys were kept their rows again, with room for what they observed."""
        back = [sequence for sequence in sequences if sequence in self.kept]
        self.cache.expect_back(self.kept[one][1] + _read_at_once(one) for one in back)
        for sequence in back:
            self.cache.put_back(sequence, *self.kept[sequence], ahead=_read_at_once(sequence))
            del self.kept[sequence]

    # -- one step -----------------------------------------------------------------------------------------

    def _step(self, sampling: Sampling, stops: Stops) -> list[RolloutSequence]:
        """One token for every row; returns the sequences that ended with it."""
        self._read_observations()
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
            self.stats.replayed += sequence.num_computed < sequence.num_read
            sequence.append(token, logp, log_kept, stops)
        self.stats.steps += 1
        self.stats.rows_computed += rows
        self.stats.rows_alive += len(sequences)
        self.waiting.count(steps=1)
        return self._leave([sequence for sequence in sequences if sequence.finish])

    def _leave(self, sequences: Collection[RolloutSequence]) -> list[RolloutSequence]:
        """Free the rows of sequences that have ended a turn; returns those that have ended altogether."""
        ended = []
        paused = []
        for sequence in sequences:
            if self.waiting.after_turn(sequence):
                paused.append(sequence)
            else:
                self._remove(sequence)
                ended.append(sequence)
        for sequence in reversed(paused):  # the last of a bucket leaves no gap
            self._pause(sequence)
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
        self.stats.kv_bytes = max(self.stats.kv_bytes, self._used_bytes)
        kept = shortest_first(self.kept)
        while kept and self._used_bytes > self.budget:
            self._forget(kept.pop(0))
        if self.cache.used_bytes <= self.budget or len(sequences) == 1:
            return sequences
        rows = shortest_first(self.live)
        while self.cache.used_bytes > self.budget and len(self.live) > 1:
            self._put_back(rows.pop(0))
        return self.cache.begin()

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
        for sequence in list(self.kept):
            self._forget(sequence)
        for row in [row for row in self.cache.row_width if row not in self.live]:
            self.cache.drop(row)
        for sequence in [row for row in self.live if row not in self.cache.row_width]:
            self._put_back(sequence)
        num_kept = 0 if starts_over else self.max_rows
        for sequence in shortest_first(self.live)[: max(0, len(self.live) - num_kept)]:
            self._put_back(sequence)
        if starts_over:
            self.prefixes = {}
        self.cache.remove_empty_buckets()
        spare_cached_memory(self.policy.device)
        self.stats.notes.append(out_of_memory_note(self.max_rows))


def _read_at_once(sequence: RolloutSequence) -> int:
    """Tokens of the observation that a sequence has come to, if they are read in a forward of their own; else 0."""
    number = sequence.num_ahead if sequence.given else 0
    return number if number >= READ_AT_ONCE else 0


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
