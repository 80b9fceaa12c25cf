"""What the engine asks of a decoder: turn sequences into finished sequences, one at a time.

How tokens are computed is up to each implementation: contiguous buckets on a CPU, pages and CUDA graphs on a GPU,
transformers' ``generate`` for everything else.
"""

from __future__ import annotations

from typing import Callable, Collection, Iterable, Iterator, Protocol, Sequence

from torch import Tensor
from transformers.cache_utils import Cache

from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.sequence import RolloutSequence, Stops
from grpo.rollout.waiting import Waiting

Unwanted = Callable[[], Collection[int] | None]
"""Called between steps: the indices of groups that are no longer wanted; None if no group is wanted any more."""

NextLogits = Callable[[Tensor, Tensor, Cache], Tensor]
"""Logits [R, V] after one token a row, from (token_R1, position_R1, cache)."""


class Decoder(Protocol):
    """Samples completions; what it holds between calls is given back by `release`."""

    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Unwanted,
        waiting: Waiting,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence as it ends, with the finish "cancelled" if its group is `unwanted`.

        One that ends a turn and is to be answered leaves its row; `waiting` tells when it goes on.
        """
        ...

    def describe(self) -> list[str]:
        """What is in flight, for a watchdog's report."""
        ...

    def release(self) -> None:
        """Free everything that outlives a call of `run`."""
        ...


def in_unwanted_groups(
    sequences: Iterable[RolloutSequence], group_indices: Collection[int] | None
) -> list[RolloutSequence]:
    """The sequences to cancel, given what an `Unwanted` returned."""
    if group_indices is None:
        return list(sequences)
    if not group_indices:
        return []
    return [sequence for sequence in sequences if sequence.group_index in group_indices]
