"""The decoder for CUDA devices: pages of keys, k steps between two reads of the host, each step a CUDA graph.

The same sequences and semantics as ``contiguous_decoder``; what differs is where a step's state is. A sequence that
lost its pages, or is resumed, is prefilled with what it has written; so are all of them when the device's memory runs
out, in half as many rows and pages. One that waits for an environment keeps its pages without a row, as long as they
are not in the way; what it observes is read in a forward of its own (``observation``). The decoder also runs on a CPU,
eagerly, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo.kernels.sampling.spec import Sampling
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.rollout.cuda_graphs import BUCKETS, DecodeStep, GraphRunner, HostReadback, bucket
from grpo.rollout.decoder import NextLogits, Unwanted, in_unwanted_groups
from grpo.rollout.memory import EngineStats, is_out_of_memory, spare_cached_memory
from grpo.rollout.observation import observation_chunks, read_observations
from grpo.rollout.paged_cache import PAGE, PagedCache, PageRow, PoolExhausted, pages_for
from grpo.rollout.prefill import PrefixCache, PromptIds, Spans, by_prompt, chunks, prefill
from grpo.rollout.sequence import RolloutSequence, Stops
from grpo.rollout.waiting import Waiting, shortest_first, spare_keys
from rewards.spelling import many

READ_EVERY = 8


@dataclass(slots=True, eq=False)
class _Pool:
    """Pages and rows of one size, the step that reads them, and who is in them."""

    cache: PagedCache
    step: DecodeStep
    runner: GraphRunner
    rows: list[RolloutSequence | None]
    stored: dict[PromptIds, int]  # the cache's numbers of prompts
    sampling: Sampling
    stop_ids: frozenset[int]
    longest: int  # completion, in tokens
    longest_prefix: int
    fewest_pages: int  # of one sequence of the greatest lengths
    kept: dict[RolloutSequence, PageRow] = field(default_factory=dict)  # of those without a row

    @property
    def max_rows(self) -> int:
        return len(self.rows)

    def free(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.rows[row] = None
        self.cache.clear(rows)
        self.step.end(rows)

    def keep(self, row: int) -> None:
        """Free a row; the pages of its sequence are kept."""
        sequence = self.rows[row]
        assert sequence is not None, "a row that ends a turn has a sequence"
        num_own = sequence.num_computed - sequence.num_prefilled
        self.kept[sequence] = self.cache.detach(row, num_own)
        self.rows[row] = None
        self.step.end([row])

    def forget(self, sequence: RolloutSequence) -> None:
        """Free the pages that are kept for a sequence, if there are some."""
        if sequence in self.kept:
            self.cache.forget(self.kept.pop(sequence))

    def release_prompts(self, prompts: Iterable[PromptIds]) -> None:
        for ids in list(prompts):
            self.cache.release(self.stored.pop(ids))

    def live(self) -> dict[int, RolloutSequence]:
        return {row: sequence for row, sequence in enumerate(self.rows) if sequence is not None}


class PagedDecoder:
    """Samples sequences on the policy's device.

    With `deterministic` every step computes `max_rows` rows, so that a completion's bits do not depend on the number
    of others, at the cost of computing the empty rows. With `keep` pool and graphs outlive a run, until `release`; keys
    never do.
    """

    def __init__(
        self,
        policy: Policy,
        stats: EngineStats,
        *,
        max_rows: int,
        budget: float,
        token_bytes: int,
        deterministic: bool = False,
        keep: bool = False,
        read_every: int = READ_EVERY,
        capture: bool | None = None,
        next_logits: NextLogits | None = None,
    ):
        self.policy = policy
        self.stats = stats
        self.deterministic = deterministic
        self.keep = keep
        self.read_every = read_every
        self.capture = capture
        self.next_logits = next_logits or policy.next_logits
        self.page_bytes = token_bytes * PAGE
        self.most_rows = bucket(max(MIN_ROWS, max_rows))
        self.most_pages = max(1, int(budget // self.page_bytes))
        self.queue: deque[RolloutSequence] = deque()
        self.waiting = Waiting()
        self._pool: _Pool | None = None

    @property
    def pool(self) -> _Pool:
        assert self._pool is not None, "a pool is made when a run begins"
        return self._pool

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
        self.queue.clear()
        self.queue.extend(sequence for sequence in sequences if not sequence.is_paused)
        self._prepare_pool(sequences, sampling)
        try:
            while self.queue or self._is_busy() or waiting.paused:
                yield from self._cancel(unwanted())
                yield from self._take_ready()
                yield from self._with_less_memory(sampling, stops)
        finally:
            if not self.keep:
                self.release()

    def describe(self) -> list[str]:
        """How many are in flight, and how many wait."""
        num_live = 0 if self._pool is None else len(self._pool.live())
        lines = [f"{many(num_live, 'completion')} alive", f"{len(self.queue)} in the queue"]
        paused = len(self.waiting.paused)
        return [*lines, f"{paused} waiting for an environment"] if paused else lines

    def release(self) -> None:
        """Free the pool and the graphs; the next run makes new ones."""
        if self._pool is not None:
            self._pool.runner.release()
            self._pool = None

    # -- the pool -----------------------------------------------------------------------------------------

    def _prepare_pool(self, sequences: Collection[RolloutSequence], sampling: Sampling) -> None:
        """Pages for all that can be in flight, as far as the budget goes, and the step that reads them.

        The pool of an earlier run is used again if it is large enough, so that its graphs are still valid.
        """
        longest = max(map(self._longest, sequences))
        longest_prompt = max(len(sequence.prompt.token_ids) for sequence in sequences)
        longest_prefix = longest_prompt + longest
        rows = min(self.most_rows, bucket(max(MIN_ROWS, len(sequences))))
        pool = self._pool
        if (
            pool is not None
            and (pool.sampling, pool.stop_ids) == (sampling, self.policy.stop_ids)
            and rows <= pool.max_rows
            and longest <= pool.longest
            and longest_prefix <= pool.longest_prefix
        ):
            pool.free(pool.cache.live_rows)
            for sequence in list(pool.kept):
                pool.forget(sequence)
            pool.release_prompts(pool.stored)
            return
        self.release()
        self._pool = self._new_pool(rows, longest, longest_prefix, sampling)

    def _longest(self, sequence: RolloutSequence) -> int:
        """Most tokens that a sequence can come to have, given ones included."""
        longest = sequence.limit + self.waiting.turns.most_given
        return longest if sequence.room is None else min(longest, sequence.room)

    def _new_pool(self, rows: int, longest: int, longest_prefix: int, sampling: Sampling) -> _Pool:
        policy = self.policy
        pages_a_row = pages_for(longest) + pages_for(longest_prefix)
        num_pages = max(pages_a_row, min(self.most_pages, rows * pages_a_row))
        cache = PagedCache(
            rows, num_pages, policy.device, max_prefix=longest_prefix, max_tokens=longest
        )

        def forward(token_R1: Tensor, position_R1: Tensor) -> Tensor:
            return self.next_logits(token_R1, position_R1, cache)

        step = DecodeStep(
            forward,
            cache,
            sampling,
            max_rows=rows,
            ring=self.read_every,
            stop_ids=sorted(policy.stop_ids),
            vocab_size=policy.vocab_size,
            device=policy.device,
            routing=policy.routing if policy.routing and policy.routing.is_replayed else None,
        )
        runner = GraphRunner(
            step,
            lambda: [*policy.model.parameters(), *policy.model.buffers()],
            capture=self.capture,
        )
        return _Pool(
            cache=cache,
            step=step,
            runner=runner,
            rows=[None] * rows,
            stored={},
            sampling=sampling,
            stop_ids=policy.stop_ids,
            longest=longest,
            longest_prefix=longest_prefix,
            fewest_pages=pages_a_row,
        )

    # -- admission ----------------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        return self._pool is not None and any(self._pool.rows)

    def _cancel(self, group_indices: Collection[int] | None) -> Iterator[RolloutSequence]:
        live = [] if self._pool is None else self._pool.live().values()
        everyone = [*live, *self.queue, *self.waiting.paused]
        for sequence in in_unwanted_groups(everyone, group_indices):
            if sequence in self.waiting.paused:
                self.waiting.cancel(sequence)
            elif sequence in self.queue:
                self.queue.remove(sequence)
            else:
                self.pool.free([self.pool.rows.index(sequence)])
            self._forget(sequence)
            sequence.finish = "cancelled"
            yield sequence

    def _forget(self, sequence: RolloutSequence) -> None:
        if self._pool is not None:
            self._pool.forget(sequence)

    def _take_ready(self) -> Iterator[RolloutSequence]:
        """Queue those whose answers have come, in front; yields those that have ended by them."""
        is_idle = not self.queue and not self._is_busy()
        ready = self.waiting.take_ready(is_idle)
        for sequence in ready:
            if sequence.finish:
                self._forget(sequence)
                yield sequence
        self.queue.extendleft(sequence for sequence in reversed(ready) if not sequence.finish)

    def _admit(self) -> None:
        """Give free rows to waiting sequences while there is room for their prompts and their next tokens."""
        pool = self.pool
        self._make_room_for_the_first()
        admitted = self._admissible()
        free_rows = [row for row, sequence in enumerate(pool.rows) if sequence is None]
        for chunk in chunks(admitted):
            self._start(chunk, free_rows[: len(chunk)])
            free_rows = free_rows[len(chunk) :]
            for _ in chunk:
                self.queue.popleft()
        waiting = {sequence.prompt.token_ids for sequence in self.queue}
        pool.release_prompts([ids for ids in pool.stored if ids not in waiting])

    def _make_room_for_the_first(self) -> None:
        """With no row in flight, stored prompts whose completions only wait must not block who is next."""
        if not self.queue or self._is_busy():
            return
        cache = self.pool.cache
        if cache.free_pages <= pages_for(self.queue[0].length) or not cache.free_prompts:
            self.pool.release_prompts(self.pool.stored)

    def _admissible(self) -> list[RolloutSequence]:
        """The front of the queue, as far as rows, pages and prompts go; one sequence may always run.

        Kept pages give way while more sequences wait with theirs than decode.
        """
        free_rows = self.pool.rows.count(None)
        num_live = len(self.pool.live())
        while True:
            admitted = self._that_fit(free_rows)
            spare = spare_keys(self.pool.kept, self.queue, num_live, admitted)
            if spare is None or len(admitted) >= free_rows:
                break
            self._lose_keys(spare)
        is_idle = self.queue and not num_live
        return admitted or ([self.queue[0]] if is_idle else [])

    def _that_fit(self, free_rows: int) -> list[RolloutSequence]:
        """The front of the queue, counted ahead of prefill.

        Each sequence takes pages for what it observes and for its tokens until the next read, and the first of a prompt
        its prompt's. One that has tokens of its own to prefill shares no pages.
        """
        pool = self.pool
        free_pages = pool.cache.free_pages - pool.cache.pages_wanted(self.read_every)
        free_prompts = pool.cache.free_prompts
        stored = set(pool.stored)
        admitted: list[RolloutSequence] = []
        while len(admitted) < min(free_rows, len(self.queue)):
            sequence = self.queue[len(admitted)]
            is_kept = sequence in pool.kept
            shares = not sequence.num_prefilled and sequence.prompt.token_ids in stored
            free_pages -= pages_for(sequence.num_ahead + self.read_every)
            if not shares and not is_kept:
                free_pages -= pages_for(sequence.length)
                free_prompts -= 1
            if free_pages < 0 or free_prompts < 0:
                break
            if not sequence.num_prefilled:
                stored.add(sequence.prompt.token_ids)
            admitted.append(sequence)
        return admitted

    def _start(self, sequences: Sequence[RolloutSequence], rows: Sequence[int]) -> None:
        """Prefill what is not stored yet, and start `sequences` in `rows`."""
        pool = self.pool
        to_prefill: dict[PromptIds, list[RolloutSequence]] = {}
        without_keys = [sequence for sequence in sequences if sequence not in pool.kept]
        for ids, members in by_prompt(without_keys).items():
            if ids not in pool.stored or any(sequence.num_prefilled for sequence in members):
                to_prefill[ids] = members
        prefilled, spans = prefill(self.policy, to_prefill, self.stats)
        for ids, members in to_prefill.items():
            has_readers = not all(sequence.num_prefilled for sequence in members)
            if ids not in pool.stored and has_readers:
                prefix = prefilled.prefix(*spans[ids])
                pool.stored[ids] = pool.cache.store(prefix, len(ids) - 1)
        for row, sequence in zip(rows, sequences):
            pool.rows[row] = sequence
            if sequence in pool.kept:
                pool.cache.attach(row, pool.kept.pop(sequence))
            else:
                sequence.num_computed = sequence.num_prefilled
                self._give_keys(row, sequence, prefilled, spans)
        self._read_observations(dict(zip(sequences, rows)))
        pool.step.start(
            rows,
            tokens=[sequence.next_input for sequence in sequences],
            seeds=[sequence.seed for sequence in sequences],
            limits=[sequence.limit for sequence in sequences],
            drawn=[sequence.num_computed for sequence in sequences],
        )

    def _read_observations(self, row_of: Mapping[RolloutSequence, int]) -> None:
        """Compute the observations that rows begin with, and store their keys."""
        cache = self.pool.cache
        reading = [sequence for sequence in row_of if sequence.num_ahead]
        for chunk in observation_chunks(reading):
            held = [cache.held(row_of[sequence]) for sequence in chunk]
            read, spans = read_observations(self.policy, chunk, held, self.stats)
            for sequence, span in zip(chunk, spans):
                number = span[1] - span[0]
                cache.extend(row_of[sequence], read.prefix(*span), number)
                sequence.has_read(number)

    def _give_keys(
        self, row: int, sequence: RolloutSequence, prefilled: PrefixCache, spans: Spans
    ) -> None:
        """A row reads its stored prompt, or has pages of prompt and completion to itself when it is resumed."""
        ids = sequence.prompt.token_ids
        cache = self.pool.cache
        if sequence.num_prefilled:
            whole = prefilled.joined(spans[ids], spans[sequence])
            cache.put([row], whole, len(ids) - 1 + sequence.num_prefilled)
        else:
            cache.admit([row], self.pool.stored[ids])

    def _put_back(self, row: int, sequence: RolloutSequence) -> None:
        """Take a sequence's pages away."""
        self.pool.free([row])
        self._queue_again(sequence)

    def _queue_again(self, sequence: RolloutSequence) -> None:
        """It waits at the front of the queue, to be prefilled with what it has written."""
        self._read_again(sequence)
        self.queue.appendleft(sequence)

    def _read_again(self, sequence: RolloutSequence) -> None:
        """A sequence without keys is prefilled with the tokens that it had read."""
        self.stats.replayed += sequence.num_computed
        sequence.num_prefilled = sequence.num_computed

    def _lose_keys(self, sequence: RolloutSequence) -> None:
        """Free the pages that are kept for a sequence; they are made anew when it goes on."""
        self.pool.forget(sequence)
        self._read_again(sequence)

    # -- where memory runs out ----------------------------------------------------------------------------

    def _with_less_memory(self, sampling: Sampling, stops: Stops) -> list[RolloutSequence]:
        """Admit and step; if the device's memory runs out, continue with half as many rows and pages.

        What was decoded since the last read is decoded again, to the same tokens: sequences lose nothing but time.
        """
        try:
            self._admit()
            return self._run_steps(stops) if self._is_busy() else []
        except (MemoryError, RuntimeError) as error:
            if self._is_smallest() or not is_out_of_memory(error):
                raise
        return self._shrink(sampling)  # out here nothing holds the tensors of what failed

    def _is_smallest(self) -> bool:
        pool = self.pool
        return pool.max_rows <= BUCKETS[0] and pool.cache.num_pages <= pool.fewest_pages

    def _shrink(self, sampling: Sampling) -> list[RolloutSequence]:
        """Replace the pool by one of half its size, for all that is unfinished; returns what had ended."""
        without_row = {*self.queue, *self.waiting.paused}
        live = [one for one in self.pool.live().values() if one not in without_row]
        rows = self.pool.max_rows
        for sequence in [*self.queue, *self.waiting.paused]:
            if sequence.num_computed > sequence.num_prefilled:
                self._read_again(sequence)
        pages = self.pool.cache.num_pages
        self.release()
        ended = []
        for sequence in reversed(live):
            if not sequence.finish:
                self._queue_again(sequence)
            elif self.waiting.after_turn(sequence):
                self._read_again(sequence)
            else:
                ended.append(sequence)
        spare_cached_memory(self.policy.device)
        self.most_rows = bucket(rows // 2)
        self.most_pages = max(1, pages // 2)
        unfinished = [*self.queue, *self.waiting.paused]
        if unfinished:
            self._prepare_pool(unfinished, sampling)
        rounding = (
            f"; with deterministic, their rounding is no longer that of {many(rows, 'row')}"
            if self.deterministic
            else ""
        )
        self.stats.notes.append(
            f"sample: memory ran out; continuing with {many(self.most_rows, 'completion')} at a time and "
            "half of the keys' "
            f"memory (nothing is lost{rounding}; lower sample.max_rows or sample.kv_memory_gib to avoid the "
            "interruption)"
        )
        return ended[::-1]

    # -- steps --------------------------------------------------------------------------------------------

    def _run_steps(self, stops: Stops) -> list[RolloutSequence]:
        """Some tokens for every row; returns the sequences that ended with one of them."""
        self._compact()
        self._reserve()
        pool = self.pool
        used_pages = pool.cache.num_pages - pool.cache.free_pages
        self.stats.kv_bytes = max(self.stats.kv_bytes, self.page_bytes * used_pages)
        rows = pool.cache.num_rows
        readback = pool.runner.run(rows, self.read_every)
        self.stats.steps += self.read_every
        self.stats.rows_computed += rows * self.read_every
        self.waiting.count(self.read_every)
        return self._leave(self._record(readback, stops))

    def _leave(self, rows: Mapping[int, RolloutSequence]) -> list[RolloutSequence]:
        """Free the rows of sequences that have ended a turn; returns those that have ended altogether."""
        ended = {}
        for row, sequence in rows.items():
            if self.waiting.after_turn(sequence):
                self.pool.keep(row)
            else:
                ended[row] = sequence
        self.pool.free(list(ended))
        return list(ended.values())

    def _reserve(self) -> None:
        """Pages until the next read; while there are too few, the shortest sequences lose theirs, paused ones first."""
        while True:
            try:
                self.pool.cache.reserve(self.read_every)
                return
            except PoolExhausted:
                if self.pool.kept:
                    self._lose_keys(shortest_first(self.pool.kept)[0])
                    continue
                live = self.pool.live()
                row = min(live, key=lambda row: len(live[row].tokens))
                self._put_back(row, live[row])

    def _record(self, readback: HostReadback, stops: Stops) -> dict[int, RolloutSequence]:
        """Append what was read to the sequences; returns those that ended, by row.

        The device knows no stop strings: what it sampled behind one is dropped.
        """
        ended: dict[int, RolloutSequence] = {}
        for row, sequence in self.pool.live().items():
            if row >= len(readback.steps_R):
                continue
            count = int(readback.steps_R[row])
            self.stats.rows_alive += count
            tokens = readback.token_KR[:count, row].tolist()
            logps = readback.logp_KR[:count, row].tolist()
            log_kepts: list[float | None] = [None] * count
            if readback.log_kept_KR is not None:
                log_kepts = readback.log_kept_KR[:count, row].tolist()
            for step, (token, logp, log_kept) in enumerate(zip(tokens, logps, log_kepts)):
                if readback.routing_KRLK is not None:
                    experts: bytes = readback.routing_KRLK[step, row].numpy().tobytes()
                    sequence.route(sequence.num_computed - 1, experts)
                sequence.append(token, logp, log_kept, stops)
                if sequence.finish:
                    ended[row] = sequence
                    break
        return ended

    def _compact(self) -> None:
        """Compute the smallest bucket of rows that holds those alive."""
        pool = self.pool
        live = pool.live()
        wanted = pool.max_rows
        if not self.deterministic and not self.queue:
            wanted = min(wanted, bucket(len(live)))
        if wanted < pool.cache.num_rows or any(row >= wanted for row in live):
            pool.cache.select(list(live), wanted)
            pool.step.select(list(live))
            pool.rows = [*live.values(), *[None] * (pool.max_rows - len(live))]
        elif wanted > pool.cache.num_rows:
            pool.cache.resize(wanted)
