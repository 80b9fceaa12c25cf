"""ContiguousDecoder on a CUDA device: pages of keys, k steps between two reads of the host, each step a CUDA graph.

The same sequences, admission and books as ``decoding``, which serves CPUs; what differs is where a step's state
lies. A sequence that lost its pages, or is carried over, is prefilled again with what it has written; so are all
when the device's memory runs out, in half as many rows and pages. It runs on a CPU too, eagerly, which is how
it is tested where there is no GPU.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from grpo.kernels.sampling.spec import Sampling
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.rollout.contiguous_decoder import (
    EngineStats,
    chunks,
    is_out_of_memory,
    prefill,
    spare_cached_memory,
)
from grpo.rollout.cuda_graphs import BUCKETS, DecodeStep, GraphRunner, HostReadback, bucket
from grpo.rollout.paged_cache import PAGE, PagedCache, PoolExhausted
from grpo.rollout.sequence import RolloutSequence, Stops

READ_EVERY = 8


class PagedDecoder:
    """Writes sequences on the policy's device; `run` yields each as it ends.

    With `deterministic` every step computes `max_rows` rows, so that a completion's bits do not hang on the
    number of others; it costs what the empty rows cost. With `keep` pool and graphs outlive a run, until
    `release`; keys never do.
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
        next_logits: Callable[..., Tensor] | None = None,
    ):
        self.next_logits = next_logits or policy.next_logits
        self.policy, self.stats, self.deterministic, self.keep = policy, stats, deterministic, keep
        self.most_rows, self.read_every, self.capture = (
            bucket(max(MIN_ROWS, max_rows)),
            read_every,
            capture,
        )
        self.page_bytes = token_bytes * PAGE
        self.most_pages = max(1, int(budget // self.page_bytes))
        self.queue: deque[RolloutSequence] = deque()
        self.rows: list[RolloutSequence | None] = []
        self.stored: dict[tuple[int, ...], int] = {}
        self._laid_out: tuple[Sampling, frozenset[int]] | None = None

    @torch.no_grad()
    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Callable[[], Collection[int] | None],
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when it has ended, or cancelled when its place is `unwanted` (None: all are)."""
        self.queue.clear()
        self.queue.extend(sequences)
        self._lay_out(sequences, sampling)
        try:
            while self.queue or any(self.rows):
                yield from self._cancelled(unwanted())
                yield from self._spare_memory(sampling, stops)
        finally:
            if not self.keep:
                self.release()

    def describe(self) -> list[str]:
        """Who is in flight, and who waits."""
        return [
            f"{sum(row is not None for row in self.rows)} completions alive",
            f"{len(self.queue)} in the queue",
        ]

    def release(self) -> None:
        """Give the pool and the graphs back; the next run makes them anew."""
        if self._laid_out is not None:
            self.steps.release()
            self._laid_out = self.cache = self.step = self.steps = None
            self.rows, self.stored = [], {}

    def _lay_out(self, sequences: Collection[RolloutSequence], sampling: Sampling) -> None:
        """Pages for all that can be in flight, as far as the budget goes, and the step that reads them.

        What an earlier run left is taken over where it is large enough, so that its graphs still hold.
        """
        policy, wanted = self.policy, (sampling, policy_stops := self.policy.stop_ids)
        longest = max(sequence.limit for sequence in sequences)
        prefix = max(len(sequence.prompt.token_ids) for sequence in sequences) + longest
        rows = min(self.most_rows, bucket(max(MIN_ROWS, len(sequences))))
        alone = -(-longest // PAGE) + -(-prefix // PAGE)
        if (
            self._laid_out == wanted
            and rows <= self.max_rows
            and longest <= self.longest
            and prefix <= self.prefix
        ):
            self._free(self.cache.live_rows)
            self._release(self.stored)
            return
        self.release()
        self.max_rows, self.longest, self.prefix, self.rows = rows, longest, prefix, [None] * rows
        self.fewest_pages, self.num_pages = alone, max(alone, min(self.most_pages, rows * alone))
        self.cache = PagedCache(
            rows, self.num_pages, policy.device, max_prefix=prefix, max_tokens=longest
        )
        self.step = DecodeStep(
            self._forward,
            self.cache,
            sampling,
            max_rows=rows,
            ring=self.read_every,
            stop_ids=sorted(policy_stops),
            vocab_size=policy.vocab_size,
            device=policy.device,
        )
        self.steps = GraphRunner(
            self.step,
            lambda: [*policy.model.parameters(), *policy.model.buffers()],
            capture=self.capture,
        )
        self._laid_out = wanted

    def _forward(self, token_R1: Tensor, position_R1: Tensor) -> Tensor:
        return self.next_logits(token_R1, position_R1, self.cache)

    # -- who has a row ------------------------------------------------------------------------------------

    def _cancelled(self, gone: Collection[int] | None) -> Iterator[RolloutSequence]:
        for sequence in [*filter(None, self.rows), *self.queue] if gone is None or gone else ():
            if gone is None or sequence.place in gone:
                if sequence in self.queue:
                    self.queue.remove(sequence)
                else:
                    self._free([self.rows.index(sequence)])
                sequence.finish = "cancelled"
                yield sequence

    def _free(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.rows[row] = None
        self.cache.clear(rows)
        self.step.end(rows)

    def _admit(self) -> None:
        """Give free rows to waiting sequences while there is room for their prompts and their next tokens."""
        if (
            self.queue
            and not any(self.rows)
            and (
                self.cache.free_pages <= -(-self.queue[0].length // PAGE)
                or not self.cache.free_prompts
            )
        ):
            self._release(self.stored)  # prompts that only wait must not keep out who could go on
        free = [row for row, sequence in enumerate(self.rows) if sequence is None]
        taken: list[RolloutSequence] = []
        pages = self.cache.free_pages - self.cache.pages_wanted(self.read_every)
        prompts, known = self.cache.free_prompts, set(self.stored)
        while len(taken) < min(len(free), len(self.queue)):
            sequence = self.queue[len(taken)]
            shares = not sequence.given and sequence.prompt.token_ids in known
            pages -= -(-self.read_every // PAGE) + (0 if shares else -(-sequence.length // PAGE))
            prompts -= not shares
            if (pages < 0 or prompts < 0) and (taken or any(self.rows)):
                break
            if not sequence.given:
                known.add(sequence.prompt.token_ids)
            taken.append(sequence)
        for chunk in chunks(taken):
            self._start(chunk, [free.pop(0) for _ in chunk])
            for _ in chunk:
                self.queue.popleft()
        waiting = {sequence.prompt.token_ids for sequence in self.queue}
        self._release(ids for ids in self.stored if ids not in waiting)

    def _release(self, prompts: Iterable[tuple[int, ...]]) -> None:
        for ids in list(prompts):
            self.cache.release(self.stored.pop(ids))

    def _start(self, sequences: Sequence[RolloutSequence], rows: Sequence[int]) -> None:
        """Prefill what is not stored yet, and let `sequences` begin in `rows`."""
        prompts: dict[tuple[int, ...], list[RolloutSequence]] = {}
        for sequence in sequences:
            prompts.setdefault(sequence.prompt.token_ids, []).append(sequence)
        fresh = {
            ids: members
            for ids, members in prompts.items()
            if ids not in self.stored or any(sequence.given for sequence in members)
        }
        found, spans = prefill(self.policy, fresh, self.stats)
        for ids, members in fresh.items():
            if ids not in self.stored and not all(sequence.given for sequence in members):
                self.stored[ids] = self.cache.store(found.prefix(*spans[ids]), len(ids) - 1)
        for row, sequence in zip(rows, sequences):
            ids, self.rows[row], sequence.fed = sequence.prompt.token_ids, sequence, sequence.given
            if sequence.given:
                whole = found.joined(spans[ids], spans[sequence])
                self.cache.put([row], whole, len(ids) - 1 + sequence.given)
            else:
                self.cache.admit([row], self.stored[ids])
        self.step.start(
            rows,
            [sequence.next_input for sequence in sequences],
            [sequence.seed for sequence in sequences],
            [sequence.limit for sequence in sequences],
            [sequence.given for sequence in sequences],
        )

    def _put_back(self, row: int) -> None:
        """Take a sequence's pages away; it waits first in the queue, to be prefilled with what it has written."""
        sequence = self.rows[row]
        self._free([row])
        self._wait_again(sequence)

    def _wait_again(self, sequence: RolloutSequence) -> None:
        self.stats.replayed += len(sequence.tokens)
        sequence.given = len(sequence.tokens)
        self.queue.appendleft(sequence)

    # -- where memory runs out ----------------------------------------------------------------------------

    def _spare_memory(self, sampling: Sampling, stops: Stops) -> list[RolloutSequence]:
        """Admit and step; where the device's memory runs out, go on with half as many rows and pages.

        What was decoded since the last read is decoded again, to the same tokens: sequences lose nothing but time.
        """
        try:
            self._admit()
            return self._steps(stops) if any(self.rows) else []
        except (MemoryError, RuntimeError) as error:
            least = self.max_rows <= BUCKETS[0] and self.num_pages <= self.fewest_pages
            if least or not is_out_of_memory(error):
                raise
        return self._shrink(sampling)  # out here nothing holds the tensors of what failed

    def _shrink(self, sampling: Sampling) -> list[RolloutSequence]:
        """Give pool and graphs back, and lay out half of them for all that is unfinished; returns what had ended."""
        held = [
            sequence
            for sequence in self.rows
            if sequence is not None and sequence not in self.queue
        ]
        rows, pages = self.max_rows, self.num_pages
        self.release()
        for sequence in reversed([sequence for sequence in held if not sequence.finish]):
            self._wait_again(sequence)
        spare_cached_memory(self.policy.device)
        self.most_rows, self.most_pages = bucket(rows // 2), max(1, pages // 2)
        if self.queue:
            self._lay_out(self.queue, sampling)
        said = (
            f"; with deterministic, their rounding is no longer that of {rows} rows"
            if self.deterministic
            else ""
        )
        self.stats.notes.append(
            f"sample: memory ran out; going on with {self.most_rows} completions at a time and half of the keys' "
            f"memory (nothing is lost{said}; lower sample.max_rows or sample.kv_memory_gib to avoid the stop)"
        )
        return [sequence for sequence in held if sequence.finish]

    # -- steps --------------------------------------------------------------------------------------------

    def _steps(self, stops: Stops) -> list[RolloutSequence]:
        """Some tokens for every row; returns the sequences that ended with one of them."""
        self._compact()
        while True:
            try:
                self.cache.reserve(self.read_every)
                break
            except PoolExhausted:
                live = [row for row, sequence in enumerate(self.rows) if sequence]
                self._put_back(min(live, key=lambda row: len(self.rows[row].tokens)))
        self.stats.kv_bytes = max(
            self.stats.kv_bytes, self.page_bytes * (self.num_pages - self.cache.free_pages)
        )
        rows = self.cache.num_rows
        read = self.steps.run(rows, self.read_every)
        self.stats.steps += self.read_every
        self.stats.rows_computed += rows * self.read_every
        ended = self._account_for(read, stops)
        self._free(
            ended_rows := [row for row, sequence in enumerate(self.rows) if sequence in ended]
        )
        assert len(ended_rows) == len(ended)
        return ended

    def _account_for(self, read: HostReadback, stops: Stops) -> list[RolloutSequence]:
        columns = zip(
            read.token_KR.T.tolist(),
            read.logp_KR.T.tolist(),
            itertools.repeat(None) if read.log_kept_KR is None else read.log_kept_KR.T.tolist(),
            read.steps_R.tolist(),
        )
        ended = []
        for sequence, (tokens, logps, kepts, count) in zip(self.rows, columns):
            if sequence is None:
                continue
            self.stats.rows_alive += count
            for i in range(count):
                sequence.take(tokens[i], logps[i], None if kepts is None else kepts[i], stops)
                if (
                    sequence.finish
                ):  # the device knows no stop strings: what it wrote behind one is dropped
                    ended.append(sequence)
                    break
        return ended

    def _compact(self) -> None:
        """Compute the smallest bucket of rows that holds those alive."""
        live = [row for row, sequence in enumerate(self.rows) if sequence is not None]
        wanted = (
            self.max_rows
            if self.deterministic or self.queue
            else min(self.max_rows, bucket(len(live)))
        )
        if wanted < self.cache.num_rows or any(row >= wanted for row in live):
            self.cache.select(live, wanted)
            self.step.select(live)
            self.rows = [self.rows[row] for row in live] + [None] * (self.max_rows - len(live))
        elif wanted > self.cache.num_rows:
            self.cache.resize(wanted)
