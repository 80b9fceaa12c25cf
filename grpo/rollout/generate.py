"""Completions by transformers' own `generate`, for models whose attention the engine cannot take over.

Slower: the prompt is repeated for each completion, the keys of each are stored apart, and a batch runs until its
longest row ends. Tokens are drawn by the same sampler with the same noise, so the semantics do not change.
"""

from __future__ import annotations

from typing import Any, Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from grpo.kernels.sampling.spec import Sampling
from grpo.kernels.sampling.torch_sampler import sample
from grpo.model.policy import Policy
from grpo.rollout.contiguous_decoder import EngineStats
from grpo.rollout.sequence import RolloutSequence, Stops, tensor_of


class GenerateDecoder:
    """Writes sequences with `generate`, those of equal length together; `run` yields each as its batch ends."""

    def __init__(self, policy: Policy, stats: EngineStats, *, max_rows: int):
        self.policy, self.stats, self.max_rows = policy, stats, max_rows

    @torch.no_grad()
    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Callable[[], Collection[int] | None],
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence when it has ended, or cancelled when its place is `unwanted` (None: all are)."""
        by_length: dict[int, list[RolloutSequence]] = {}
        for sequence in sequences:
            by_length.setdefault(sequence.length, []).append(sequence)
        for same in by_length.values():
            for start in range(0, len(same), self.max_rows):
                batch = same[start : start + self.max_rows]
                self._generate(batch, sampling, stops, unwanted)
                for sequence in batch:
                    sequence.finish = sequence.finish or "cancelled"
                yield from batch

    def describe(self) -> list[str]:
        """Who writes; how far it is, the statistics tell."""
        return ["transformers' generate"]

    def _generate(
        self,
        sequences: list[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Callable[[], Collection[int] | None],
    ) -> None:
        for sequence in sequences:
            sequence.fed = sequence.known
        ids = torch.tensor(
            [[*sequence.prompt.token_ids, *sequence.tokens] for sequence in sequences],
            device=self.policy.device,
        )
        writing = _Writing(self, sequences, sampling, stops, unwanted)
        if writing.over():
            return
        self.stats.prefill_tokens += ids.numel()
        self.policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            max_new_tokens=max(sequence.limit - len(sequence.tokens) for sequence in sequences),
            logits_processor=[writing],
            stopping_criteria=[_Ended(writing)],
        )


class _Writing(LogitsProcessor):
    """Draws a batch's tokens by the library's sampler, books them, and makes `generate` take them."""

    def __init__(
        self,
        work: GenerateDecoder,
        sequences: list[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Callable[[], Collection[int] | None],
    ):
        self.work, self.sequences, self.sampling, self.stops, self.unwanted = (
            work,
            sequences,
            sampling,
            stops,
            unwanted,
        )
        self.gone: set[int] = set()

    def over(self) -> bool:
        """Whether nobody waits for any sequence that has not ended."""
        gone = self.unwanted()
        if gone is None:
            self.gone |= {sequence.place for sequence in self.sequences}
        else:
            self.gone |= set(gone)
        return not self._open()

    def _open(self) -> list[RolloutSequence]:
        return [
            sequence
            for sequence in self.sequences
            if not sequence.finish and sequence.place not in self.gone
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        sequences, policy, rows = self.sequences, self.work.policy, len(self.sequences)
        device = scores.device
        seed_R = tensor_of([sequence.seed for sequence in sequences], rows, device)
        drawn_R = tensor_of([sequence.fed for sequence in sequences], rows, device)
        token_R, logp_R, log_kept_R = sample(
            scores[:, : policy.vocab_size], seed_R, drawn_R, self.sampling
        )
        kept = [None] * rows if log_kept_R is None else log_kept_R.tolist()
        stats, alive = self.work.stats, {id(sequence) for sequence in self._open()}
        for sequence, token, logp, log_kept in zip(
            sequences, token_R.tolist(), logp_R.tolist(), kept
        ):
            if id(sequence) in alive:
                sequence.take(token, logp, log_kept, self.stops)
        stats.steps, stats.rows_computed = stats.steps + 1, stats.rows_computed + rows
        stats.rows_alive += len(alive)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, token_R.clamp_min(0)[:, None], 0.0)


class _Ended(StoppingCriteria):
    """Ends `generate` once every sequence has ended or is no longer waited for."""

    def __init__(self, writing: _Writing):
        self.writing = writing

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.writing.over(), device=input_ids.device)
