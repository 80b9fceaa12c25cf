"""The embedded engine: the trainer's own modules decode groups of completions.

No second copy of the weights, live adapters, log-probs that match the trainer's. This file knows groups and
what becomes of them; how tokens are made is the matter of ``decoding`` (and of ``generate`` for models that
cannot be served from here).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Callable, Iterator, Sequence

import psutil
import torch

from grpo.kernels.sampling.spec import Sampling, completion_seed
from grpo.model.packing import MIN_ROWS
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.rollout.compiled import CompiledBlocks
from grpo.rollout.contiguous_decoder import (
    GIB,
    ContiguousDecoder,
    EngineStats,
    is_out_of_memory,
    token_bytes,
)
from grpo.rollout.generate import GenerateDecoder
from grpo.rollout.paged_decoder import PagedDecoder
from grpo.rollout.sequence import PartialGroup, RolloutSequence, Stops
from grpo.types import Group, Prompt


class EngineFailed(RuntimeError):
    """Sampling broke down; the cause is chained."""


class Engine:
    """Samples groups from a policy as it stands at each call; keys and values live no longer than a call.

    ``max_rows`` completions are decoded at a time, fewer where their keys and values would take more than
    ``kv_memory_gib`` (None: half of the memory that is free when a call begins). ``paged`` (None: on CUDA)
    decodes by pages and captured steps; there ``deterministic`` fixes the number of rows that a step computes, and
    with ``keep`` the pool and the graphs stay from call to call, until `release`. With
    ``compile`` the layers' norms and MLPs are compiled at the first step (``regions``).
    `stats` tells what the last call did, `carried` holds the groups that it left unfinished, `weights` are version
    and fingerprint of the weights that it sampled by.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        max_rows: int = 256,
        stop: Sequence[str] = (),
        kv_memory_gib: float | None = None,
        paged: bool | None = None,
        deterministic: bool = False,
        keep: bool = False,
        compile: bool = False,
    ):
        self.policy, self.kv_memory_gib, self.deterministic, self.keep = (
            policy,
            kv_memory_gib,
            deterministic,
            keep,
        )
        self.compile = compile
        self._regions: CompiledBlocks | None = None
        self._paging: PagedDecoder | None = None
        self._working: ContiguousDecoder | PagedDecoder | GenerateDecoder | None = None
        self.paged = policy.device.type == "cuda" if paged is None else paged
        self.max_rows = max(MIN_ROWS, -(-max_rows // MIN_ROWS) * MIN_ROWS)
        self.stops = Stops(policy, stop)
        self.stats = EngineStats()
        self.carried: list[PartialGroup] = []
        self.expected: dict[str, float] = {}
        self.weights = (-1, 0)
        self._cancelled: set[int] = set()
        self._token_bytes = 0

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        max_tokens: int | Callable[[Prompt, int], int],
        sampling: Sampling,
        seed: Sequence[object],
        interrupted: Callable[[], bool] = lambda: False,
        enough: int | None = None,
        carried: Sequence[PartialGroup] = (),
    ) -> Iterator[tuple[int, Group]]:
        """Yield (place, group) as groups complete: places of `carried` first, then of `prompts`.

        A completion's tokens depend on (`seed`, prompt id, sample index) and the weights alone. ``max_tokens``
        may be a function of prompt and sample index. When `interrupted` turns true, what is unfinished is
        delivered as cancelled. Once `enough` groups were delivered, the others are kept in `self.carried` and
        not delivered; given back as `carried`, they go on where they were.
        """
        self.stats, self.carried, self._cancelled = EngineStats(), [], set()
        started, limit = (
            time.perf_counter(),
            max_tokens if callable(max_tokens) else lambda *_: max_tokens,
        )
        sequences = [
            self._sequence(place, group.prompt, i, limit, group.seeds[i])
            for place, group in enumerate(carried)
            for i in range(len(group.completions))
        ]
        for sequence in sequences:
            sequence.carry(carried[sequence.place].completions[sequence.index])
        sequences += [
            self._sequence(
                len(carried) + place, prompt, i, limit, completion_seed(*seed, prompt.id, i)
            )
            for place, prompt in enumerate(prompts)
            for i in range(group_size)
        ]
        self.weights = self.policy.version, self.policy.fingerprint()
        with watchdog.waiting(
            "engine",
            owner="grpo.rollout",
            state=self.describe,
            progress=lambda: (self.stats.steps, self.stats.prefill_tokens),
        ):
            yield from self._named(
                self._deliver(sequences, sampling, interrupted, enough), sequences
            )
        self.stats.seconds = time.perf_counter() - started

    def describe(self) -> list[str]:
        """What the call under way has done and what is left of it, in a line."""
        work = [] if self._working is None else self._working.describe()
        return [
            ", ".join(
                [
                    *work,
                    f"{self.stats.steps} steps and {self.stats.prefill_tokens} prompt tokens so far",
                ]
            )
        ]

    def _named(
        self, groups: Iterator[tuple[int, Group]], sequences: Sequence[RolloutSequence]
    ) -> Iterator[tuple[int, Group]]:
        """`groups`; what fails on the way is raised as an `EngineFailed` that says who, and how far it was."""
        version = self.weights[0]
        try:
            for item in groups:
                if self.policy.version != version:
                    raise EngineFailed(
                        f"the weights changed from version {version} to {self.policy.version} while "
                        "completions were written with keys of the old ones"
                    )
                yield item
        except Exception as error:
            if isinstance(error, EngineFailed) or is_out_of_memory(error):
                raise
            left = sum(not sequence.finish for sequence in sequences)
            raise EngineFailed(
                f"the engine failed with {left} of {len(sequences)} completions unwritten, after "
                f"{self.stats.steps} decoding steps: {type(error).__name__}: {error}"
            ) from error

    def release(self) -> None:
        """Give back what ``keep`` holds."""
        if self._paging is not None:
            self._paging.release()

    def cancel(self, place: int) -> None:
        """Stop working on a group of the call in progress; it is delivered with what is unfinished cancelled."""
        self._cancelled.add(place)

    def _sequence(
        self,
        place: int,
        prompt: Prompt,
        index: int,
        max_tokens: Callable[[Prompt, int], int],
        seed: int,
    ) -> RolloutSequence:
        length, context, most = (
            len(prompt.token_ids),
            self.policy.context,
            max_tokens(prompt, index),
        )
        if not length:
            raise ValueError(
                f"sample: prompt {prompt.id} has no tokens; a completion needs one to start from"
            )
        room = most if context is None else context - length
        if room < 1:
            raise ValueError(
                f"sample: prompt {prompt.id} has {length} tokens, which leaves no room in the model's "
                f"context of {context}; shorten it"
            )
        return RolloutSequence(place, index, prompt, seed, min(most, room), room < most)

    # -- groups -------------------------------------------------------------------------------------------

    def _deliver(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        interrupted: Callable[[], bool],
        enough: int | None,
    ) -> Iterator[tuple[int, Group]]:
        groups: dict[int, list[RolloutSequence]] = {}
        for sequence in sequences:
            groups.setdefault(sequence.place, []).append(sequence)
        left, delivered = (
            Counter(sequence.place for sequence in sequences if not sequence.finish),
            0,
        )

        def unwanted() -> set[int] | None:
            return None if full() or interrupted() else self._cancelled

        def full() -> bool:
            return enough is not None and delivered >= enough

        for place in [place for place in groups if not left[place]]:  # carried whole
            delivered += 1
            yield place, self._group(groups.pop(place))
        for sequence in self._written(
            [sequence for sequence in sequences if not sequence.finish], sampling, unwanted
        ):
            left[sequence.place] -= 1
            self.stats.tokens += len(sequence.tokens) - sequence.known
            if left[sequence.place]:
                continue
            members = groups.pop(sequence.place)
            if (
                full()
                and not interrupted()
                and any(sequence.finish == "cancelled" for sequence in members)
            ):
                self.carried.append(
                    PartialGroup(
                        members[0].prompt,
                        tuple(sequence.seed for sequence in members),
                        tuple(sequence.completion(self.policy) for sequence in members),
                    )
                )
                continue
            delivered += 1
            yield sequence.place, self._group(members)

    def _group(self, sequences: Sequence[RolloutSequence]) -> Group:
        if all(sequence.finish != "cancelled" for sequence in sequences):
            self.expected[sequences[0].prompt.id] = sum(
                len(sequence.tokens) for sequence in sequences
            ) / len(sequences)
        return Group(
            sequences[0].prompt, tuple(sequence.completion(self.policy) for sequence in sequences)
        )

    def _written(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        unwanted: Callable[[], set[int] | None],
    ) -> Iterator[RolloutSequence]:
        """Each sequence as it ends; carried ones begin first, then prompts not met before, then the longest expected."""
        length = self.expected
        ordered = sorted(
            sequences,
            key=lambda sequence: (
                not sequence.carried,
                -length.get(sequence.prompt.id, math.inf),
                sequence.place,
                sequence.index,
            ),
        )
        self._working = self._work()
        yield from self._working.run(ordered, sampling, self.stops, unwanted)
        self._working = None

    def _work(self) -> ContiguousDecoder | PagedDecoder | GenerateDecoder:
        """Who writes the sequences: pages and graphs on CUDA, shelves on a CPU, `generate` where neither can."""
        if self.policy.unsupported_reason:
            if self.compile:
                self.compile = False
                self.stats.notes.append(
                    "sample.compile: not used, since transformers' generate samples this model"
                )
            return GenerateDecoder(self.policy, self.stats, max_rows=self.max_rows)
        self._token_bytes = self._token_bytes or token_bytes(self.policy)
        options = {
            "max_rows": self.max_rows,
            "budget": self._budget(),
            "token_bytes": self._token_bytes,
        }
        if self.compile:
            self._regions = self._regions or CompiledBlocks(
                self.policy, lambda line: self.stats.notes.append(line)
            )
            options["next_logits"] = self._regions.next_logits
        if self.paged:
            self._paging = self._paging or PagedDecoder(
                self.policy, self.stats, deterministic=self.deterministic, keep=self.keep, **options
            )
            self._paging.stats = self.stats
            return self._paging
        return ContiguousDecoder(self.policy, self.stats, **options)

    def _budget(self) -> float:
        """Bytes that keys and values may take."""
        if self.kv_memory_gib is not None:
            return self.kv_memory_gib * GIB
        device = self.policy.device
        if device.type != "cuda":
            return psutil.virtual_memory().available / 2
        waiting = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # of torch's own allocator
        return (torch.cuda.mem_get_info(device)[0] + waiting) / 2
