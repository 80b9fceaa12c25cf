"""Completions by transformers' own `generate`, for models whose attention the engine cannot replace.

Slower: the prompt is repeated for each completion, the keys of each are stored separately, and a batch runs until its
longest row ends. Tokens are drawn by the same sampler with the same noise, so the distribution is the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from grpo.kernels.sampling.spec import Sampling
from grpo.kernels.sampling.torch_sampler import sample
from grpo.model.policy import Policy
from grpo.model.routing import Routes, replayed
from grpo.rollout.decoder import Unwanted
from grpo.rollout.memory import (
    EngineStats,
    is_out_of_memory,
    out_of_memory_note,
    spare_cached_memory,
)
from grpo.rollout.sequence import RolloutSequence, Stops, tensor_of
from grpo.rollout.waiting import Waiting


class GenerateDecoder:
    """Samples sequences of equal length together with `generate`; `run` yields each as its batch ends."""

    def __init__(self, policy: Policy, stats: EngineStats, *, max_rows: int):
        self.policy = policy
        self.stats = stats
        self.max_rows = max_rows

    @torch.no_grad()
    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Unwanted,
        waiting: Waiting,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when its batch has ended, as cancelled if its group is `unwanted`.

        A batch has no turns: the engine refuses them where `generate` samples.
        """
        by_length: dict[int, list[RolloutSequence]] = {}
        for sequence in sequences:
            by_length.setdefault(sequence.length, []).append(sequence)
        for queue in by_length.values():
            while queue:
                rows = queue[: self.max_rows]
                batch = _Batch(self, rows, sampling, stops, unwanted=unwanted)
                if self._fits(batch):
                    del queue[: len(rows)]
                    for sequence in rows:
                        sequence.finish = sequence.finish or "cancelled"
                    yield from rows

    def describe(self) -> list[str]:
        """Only who samples; the engine's statistics say how far it is."""
        return ["transformers' generate"]

    def release(self) -> None:
        """Nothing outlives a batch."""

    def _fits(self, batch: _Batch) -> bool:
        """Generate `batch`; if memory runs out, begin it anew with half as many rows, which draw the same again.

        Only when a single row does not fit is the error raised.
        """
        rows = len(batch.sequences)
        try:
            self._generate(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or rows == 1:
                raise
        else:
            return True
        for sequence in batch.sequences:
            sequence.restart()
        self.max_rows = max(1, rows // 2)
        spare_cached_memory(self.policy.device)
        self.stats.notes.append(out_of_memory_note(self.max_rows))
        return False

    def _generate(self, batch: _Batch) -> None:
        for sequence in batch.sequences:
            sequence.num_computed = sequence.num_resumed
        if batch.is_over():
            return
        rows = [[*sequence.prompt.token_ids, *sequence.tokens] for sequence in batch.sequences]
        ids = torch.tensor(rows, device=self.policy.device)
        self.stats.prefill_tokens += ids.numel()
        missing = max(sequence.limit - len(sequence.tokens) for sequence in batch.sequences)
        generate: Any = self.policy.model.generate  # whose types are only for its own models
        with batch.routing():
            generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                eos_token_id=None,
                pad_token_id=0,
                max_new_tokens=missing,
                logits_processor=[batch],
                stopping_criteria=[_BatchIsOver(batch)],
            )


class _Batch(LogitsProcessor):
    """Draws a batch's tokens by the library's sampler, records them, and makes greedy `generate` choose them."""

    def __init__(
        self,
        decoder: GenerateDecoder,
        sequences: list[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        *,
        unwanted: Unwanted,
    ):
        self.policy = decoder.policy
        self.stats = decoder.stats
        self.sequences = sequences
        self.sampling = sampling
        self.stops = stops
        self.unwanted = unwanted
        self.cancelled: set[int] = set()
        self.routes: Routes | None = None

    @contextmanager
    def routing(self) -> Iterator[None]:
        """Inside the block, experts are recorded; tokens of an earlier call go to theirs again.

        Steps of one token a row are too short for the record of those tokens, so that they choose for themselves.
        """
        routing = self.policy.routing
        if routing is None or not routing.is_replayed:
            yield
            return
        records: list[tuple[int, Tensor | None]] = []
        for number, sequence in enumerate(self.sequences):
            start = number * sequence.length + len(sequence.prompt.token_ids)
            records.append((start, sequence.routing_record(routing, sequence.num_routed)))
        num_tokens = sum(sequence.length for sequence in self.sequences)
        record_PLK = replayed(records, num_tokens, self.policy.device)
        with routing.forward(record_PLK, keep="chosen") as self.routes:
            yield

    def _route(self) -> None:
        """Record the experts of the tokens that the last forward read, the newest of each row last."""
        if self.routes is None or self.policy.routing is None:
            return
        rows = len(self.sequences)
        chosen_NLK = self.policy.routing.chosen(self.routes).cpu()
        chosen_RNLK = chosen_NLK.view(rows, -1, *chosen_NLK.shape[1:]).numpy()
        for sequence, chosen in zip(self.sequences, chosen_RNLK):
            for token_index in range(sequence.num_routed, len(sequence.tokens)):
                experts = chosen[token_index - len(sequence.tokens)]
                sequence.route(token_index, experts.tobytes())

    def is_over(self) -> bool:
        """Whether every sequence has ended or is no longer wanted."""
        group_indices = self.unwanted()
        if group_indices is None:
            group_indices = {sequence.group_index for sequence in self.sequences}
        self.cancelled.update(group_indices)
        return not any(map(self._is_alive, self.sequences))

    def _is_alive(self, sequence: RolloutSequence) -> bool:
        return not sequence.finish and sequence.group_index not in self.cancelled

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [R, V] with all but the drawn token at -inf."""
        self._route()
        rows = len(self.sequences)
        seeds = [sequence.seed for sequence in self.sequences]
        num_computed = [sequence.num_computed for sequence in self.sequences]
        token_R, logp_R, log_kept_R = sample(
            scores[:, : self.policy.vocab_size],
            tensor_of(seeds, rows, scores.device),
            tensor_of(num_computed, rows, scores.device),
            self.sampling,
        )
        self._record(token_R, logp_R, log_kept_R)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, token_R.clamp_min(0)[:, None], 0.0)

    def _record(self, token_R: Tensor, logp_R: Tensor, log_kept_R: Tensor | None) -> None:
        rows = len(self.sequences)
        log_kepts = [None] * rows if log_kept_R is None else log_kept_R.tolist()
        drawn = zip(self.sequences, token_R.tolist(), logp_R.tolist(), log_kepts)
        for sequence, token, logp, log_kept in drawn:
            if self._is_alive(sequence):
                self.stats.rows_alive += 1
                sequence.append(token, logp, log_kept, self.stops)
        self.stats.steps += 1
        self.stats.rows_computed += rows


class _BatchIsOver(StoppingCriteria):
    """Ends `generate` once every sequence has ended or is no longer wanted."""

    def __init__(self, batch: _Batch):
        self.batch = batch

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.batch.is_over(), device=input_ids.device)
