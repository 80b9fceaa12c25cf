"""The embedded engine: the trainer's own modules sample groups of completions.

No second copy of the weights, live adapters, log-probs that match the trainer's. This file knows groups: what is
sampled, cancelled, resumed and delivered. How tokens are computed is up to the decoders.
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
from grpo.monitor.gates import GateStop
from grpo.monitor.watchdog import Counts
from grpo.rollout.compiled import CompiledBlocks
from grpo.rollout.contiguous_decoder import ContiguousDecoder
from grpo.rollout.decoder import Decoder, NextLogits
from grpo.rollout.generate import GenerateDecoder
from grpo.rollout.memory import GIB, EngineStats, is_out_of_memory
from grpo.rollout.paged_decoder import PagedDecoder
from grpo.rollout.prefill import token_bytes
from grpo.rollout.sequence import PartialGroup, RolloutSequence, Stops
from grpo.rollout.turns import NoTurns, Turns
from grpo.rollout.waiting import Waiting
from grpo.types import Completion, Group, Prompt
from rewards.spelling import many

OpenDecoder = Callable[[EngineStats], Decoder]
"""Gives the decoder of a call of `Engine.sample` from the call's statistics."""
TokenLimit = Callable[[Prompt, int], int]
"""Most tokens of a completion, from its prompt and its index in the group."""


class EngineFailed(RuntimeError):
    """Sampling broke down; the cause is chained."""


class Engine:
    """Samples groups from a policy as it is at each call; keys and values live no longer than a call.

    ``max_rows`` completions are decoded at a time, fewer if their keys and values would take more than
    ``kv_memory_gib`` (None: half of the memory that is free when a call begins). ``paged`` (None: on CUDA) decodes by
    pages and captured steps; there ``deterministic`` fixes the number of rows that a step computes, and with ``keep``
    the page pool and the graphs are kept from call to call, until `release`. With ``compile`` the layers' norms and
    MLPs are compiled at the first step. ``open_decoder`` takes the place of all that: servers sample, say.
    `stats` counts what the last call did, `partial_groups` are the groups that it left unfinished, `weights` are the
    version and fingerprint of the weights that it sampled from. `cancel` adds to `cancelled`. `sequences` are those of
    the call in progress, whose tokens can be read between steps, in ``interrupted``.
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
        open_decoder: OpenDecoder | None = None,
    ):
        self.policy = policy
        self.open_decoder = open_decoder
        self.kv_memory_gib = kv_memory_gib
        self.deterministic = deterministic
        self.keep = keep
        self.compile = compile
        self.paged = policy.device.type == "cuda" if paged is None else paged
        self.max_rows = max(MIN_ROWS, -(-max_rows // MIN_ROWS) * MIN_ROWS)
        self.stops = Stops(policy, stop)
        self.stats = EngineStats()
        self.partial_groups: list[PartialGroup] = []
        self.expected: dict[str, float] = {}  # mean tokens a completion, by prompt id
        self.weights = (-1, 0)
        self._is_apart = False  # whether they are not the policy's as it is
        self._compiled_blocks: CompiledBlocks | None = None
        self._paged_decoder: PagedDecoder | None = None
        self._decoder: Decoder | None = None  # of the call in progress
        self.cancelled: set[int] = set()
        self.sequences: Sequence[RolloutSequence] = ()
        self._token_bytes = 0

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        max_tokens: int | TokenLimit,
        sampling: Sampling,
        seed: Sequence[object],
        interrupted: Callable[[], bool] = lambda: False,
        enough: int | None = None,
        partial_groups: Sequence[PartialGroup] = (),
        turns: Turns | None = None,
        weights: tuple[int, int] | None = None,
        finish_partial: bool = False,
    ) -> Iterator[tuple[int, Group]]:
        """Yield (group index, group) as groups complete; `partial_groups` have the first indices, then come `prompts`.

        A completion's tokens depend on (`seed`, prompt id, sample index) and the weights alone. ``max_tokens`` may be
        a function of prompt and sample index. When `interrupted` turns true, what is unfinished is delivered as
        cancelled. Once `enough` groups are delivered, the others are kept in `self.partial_groups` instead; passed as
        `partial_groups` to a later call, they continue where they were.

        With `turns` an environment answers what the policy writes: a completion that ends a turn gives its row to
        others while it waits, and goes on behind the answer's tokens. It then depends on the answers too, and on
        nothing else: neither on when they come, nor on whether its keys could be kept. Raises ValueError for a prompt
        that nothing can follow, and for `turns` where transformers' ``generate`` samples.

        `weights` are the version and fingerprint of what servers hold, where that is not the policy as it is now, which
        may then change meanwhile. With `finish_partial` all `partial_groups` are delivered before there is `enough`.
        """
        self.stats = EngineStats()
        self.partial_groups = []
        self.cancelled = set()
        started = time.perf_counter()
        limit = max_tokens if callable(max_tokens) else lambda *_: max_tokens
        turns = NoTurns() if turns is None else turns
        sequences = self._resumed(partial_groups, limit)
        for group_index, prompt in enumerate(prompts, start=len(partial_groups)):
            for i in range(group_size):
                prompt_seed = completion_seed(*seed, prompt.id, i)
                sequences.append(self._sequence(group_index, i, prompt, prompt_seed, limit=limit))
        self._check_turns(turns, sequences)
        self.sequences = sequences
        self.weights = weights or (self.policy.version, self.policy.fingerprint())
        self._is_apart = weights is not None
        with watchdog.waiting(
            "engine",
            owner="grpo.rollout",
            state=self.describe,
            progress=lambda: (self.stats.steps, self.stats.prefill_tokens, self.stats.answered),
            counts=self.counts,
        ):
            num_owed = len(partial_groups) if finish_partial else 0
            delivery = _Delivery(self, sequences, interrupted, enough, num_owed=num_owed)
            groups = delivery.run(sampling, turns)
            yield from self._checked(groups, sequences)
        self.stats.seconds = time.perf_counter() - started

    def describe(self) -> list[str]:
        """What the call in progress has done and what is left, in one line."""
        in_flight = [] if self._decoder is None else self._decoder.describe()
        done = f"{many(self.stats.steps, 'step')} and {many(self.stats.prefill_tokens, 'prompt token')} so far"
        return [", ".join([*in_flight, done])]

    def counts(self) -> Counts:
        """How many completions of the call in progress have ended; the tokens include those of the others."""
        stats = self.stats
        return Counts(stats.ended, stats.completions, "completions", tokens=stats.rows_alive)

    def release(self) -> None:
        """Free what ``keep`` holds."""
        if self._paged_decoder is not None:
            self._paged_decoder.release()

    def cancel(self, group_index: int) -> None:
        """Stop working on a group of the call in progress; it is delivered with what is unfinished cancelled."""
        self.cancelled.add(group_index)

    def _checked(
        self, groups: Iterator[tuple[int, Group]], sequences: Sequence[RolloutSequence]
    ) -> Iterator[tuple[int, Group]]:
        """`groups`; a failure is raised as an `EngineFailed` that says how far sampling was."""
        version = self.weights[0]
        try:
            for item in groups:
                if self.policy.version != version and not self._is_apart:
                    raise EngineFailed(
                        f"the weights changed from version {version} to {self.policy.version} while "
                        "completions were written with keys of the old ones"
                    )
                yield item
        except Exception as error:
            if isinstance(error, (EngineFailed, GateStop)) or is_out_of_memory(error):
                raise
            left = sum(not sequence.finish for sequence in sequences)
            raise EngineFailed(
                f"the engine failed with {left} of {many(len(sequences), 'completion')} unfinished, after "
                f"{self.stats.steps} decoding steps: {type(error).__name__}: {error}"
            ) from error

    # -- sequences ----------------------------------------------------------------------------------------

    def _check_turns(self, turns: Turns, sequences: Sequence[RolloutSequence]) -> None:
        """Refuse turns that cannot be taken, and limit what they may give."""
        if isinstance(turns, NoTurns):
            num_paused = sum(sequence.is_paused for sequence in sequences)
            if num_paused:
                raise ValueError(
                    f"sample: {many(num_paused, 'completion')} of an earlier step wait for an environment, and this "
                    "call has none"
                )
            return
        if self.open_decoder is not None:
            raise ValueError(
                "environment: not with servers yet (sample.engine vllm or sglang), whose requests end with the first "
                "turn; set sample.engine: embedded"
            )
        if self.policy.unsupported_reason:
            raise ValueError(
                "environment: not with this model, which transformers' generate samples whole (a completion cannot "
                f"pause there), since {self.policy.unsupported_reason}"
            )
        for sequence in sequences:
            most = sequence.max_written + turns.most_given
            sequence.room = most if sequence.room is None else min(sequence.room, most)

    def _resumed(
        self, partial_groups: Sequence[PartialGroup], limit: TokenLimit
    ) -> list[RolloutSequence]:
        sequences: list[RolloutSequence] = []
        for group_index, group in enumerate(partial_groups):
            for i, (seed, completion) in enumerate(zip(group.seeds, group.completions)):
                sequence = self._sequence(group_index, i, group.prompt, seed, limit=limit)
                sequence.resume(completion)
                sequences.append(sequence)
        return sequences

    def _sequence(
        self, group_index: int, sample_index: int, prompt: Prompt, seed: int, *, limit: TokenLimit
    ) -> RolloutSequence:
        length = len(prompt.token_ids)
        context = self.policy.context
        max_tokens = limit(prompt, sample_index)
        if not length:
            raise ValueError(
                f"sample: prompt {prompt.id} has no tokens; a completion needs one to start from"
            )
        room = max_tokens if context is None else context - length
        if room < 1:
            raise ValueError(
                f"sample: prompt {prompt.id} has {many(length, 'token')}, which leaves no room in the model's "
                f"context of {context}; shorten it"
            )
        return RolloutSequence(
            group_index=group_index,
            sample_index=sample_index,
            prompt=prompt,
            seed=seed,
            max_written=max_tokens,
            room=None if context is None else room,
        )

    def _longest_first(self, sequences: Sequence[RolloutSequence]) -> list[RolloutSequence]:
        """Resumed sequences, then those of unseen prompts, then those with the longest expected completions."""

        def key(sequence: RolloutSequence) -> tuple[bool, float, int, int]:
            expected = self.expected.get(sequence.prompt.id, math.inf)
            return (
                not sequence.is_resumed,
                -expected,
                sequence.group_index,
                sequence.sample_index,
            )

        return sorted(sequences, key=key)

    # -- decoders -----------------------------------------------------------------------------------------

    def decode(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        unwanted: Callable[[], set[int] | None],
        turns: Turns,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence as it ends."""
        self._decoder = self._choose_decoder()
        turns.begin(sequences)
        yield from [sequence for sequence in sequences if sequence.finish]
        ordered = self._longest_first([one for one in sequences if not one.finish])
        waiting = Waiting(turns, self.stats, [one for one in ordered if one.is_paused])
        stops = self._stops_of(turns)
        try:
            if ordered:
                yield from self._decoder.run(ordered, sampling, stops, unwanted, waiting=waiting)
        finally:
            waiting.cancel_all()
        self._decoder = None

    def _stops_of(self, turns: Turns) -> Stops:
        if isinstance(turns, NoTurns):
            return self.stops
        return Stops(self.stops.policy, self.stops.strings, turns.ends_call)

    def _choose_decoder(self) -> Decoder:
        """Pages and graphs on CUDA, contiguous buckets on a CPU, `generate` for models that neither supports."""
        if self.open_decoder is not None:
            return self.open_decoder(self.stats)
        if self.policy.unsupported_reason:
            if self.compile:
                self.compile = False
                self.stats.notes.append(
                    "sample.compile: not used, since transformers' generate samples this model"
                )
            return GenerateDecoder(self.policy, self.stats, max_rows=self.max_rows)
        self._token_bytes = self._token_bytes or token_bytes(self.policy)
        budget = self._budget()
        next_logits = self._next_logits()
        if not self.paged:
            return ContiguousDecoder(
                self.policy,
                self.stats,
                max_rows=self.max_rows,
                budget=budget,
                token_bytes=self._token_bytes,
                next_logits=next_logits,
            )
        if self._paged_decoder is None:
            self._paged_decoder = PagedDecoder(
                self.policy,
                self.stats,
                max_rows=self.max_rows,
                budget=budget,
                token_bytes=self._token_bytes,
                deterministic=self.deterministic,
                keep=self.keep,
                next_logits=next_logits,
            )
        self._paged_decoder.stats = self.stats
        return self._paged_decoder

    def _next_logits(self) -> NextLogits | None:
        """The compiled forward, None where the policy's own is used."""
        if not self.compile:
            return None
        if self._compiled_blocks is None:
            self._compiled_blocks = CompiledBlocks(self.policy, self._note)
        return self._compiled_blocks.next_logits

    def _note(self, line: str) -> None:
        self.stats.notes.append(line)

    def _budget(self) -> float:
        """Bytes that keys and values may take."""
        if self.kv_memory_gib is not None:
            return self.kv_memory_gib * GIB
        device = self.policy.device
        if device.type != "cuda":
            return psutil.virtual_memory().available / 2
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + cached) / 2


class _Delivery:
    """Assembles one call's sequences into groups, and decides which groups are still wanted."""

    def __init__(
        self,
        engine: Engine,
        sequences: Sequence[RolloutSequence],
        interrupted: Callable[[], bool],
        enough: int | None,
        *,
        num_owed: int = 0,
    ):
        self.engine = engine
        self.num_owed = num_owed
        self.interrupted = interrupted
        self.enough = enough
        self.num_delivered = 0
        self.unfinished = [sequence for sequence in sequences if not sequence.finish]
        engine.stats.completions = len(sequences)
        engine.stats.ended = len(sequences) - len(self.unfinished)
        self.num_unfinished = Counter(sequence.group_index for sequence in self.unfinished)
        self.groups: dict[int, list[RolloutSequence]] = {}
        for sequence in sequences:
            self.groups.setdefault(sequence.group_index, []).append(sequence)

    def run(self, sampling: Sampling, turns: Turns) -> Iterator[tuple[int, Group]]:
        """Yield (group index, group); resumed groups that are complete already come first."""
        for group_index in [i for i in self.groups if not self.num_unfinished[i]]:
            self.num_delivered += 1
            yield group_index, self._group(self.groups.pop(group_index))
        num_given_of = {sequence: sequence.num_given for sequence in self.unfinished}
        for sequence in self.engine.decode(self.unfinished, sampling, self._unwanted, turns):
            self.num_unfinished[sequence.group_index] -= 1
            self.engine.stats.ended += 1
            num_given = sequence.num_given - num_given_of[sequence]
            self.engine.stats.given += num_given
            self.engine.stats.tokens += len(sequence.tokens) - sequence.num_resumed - num_given
            if self.num_unfinished[sequence.group_index]:
                continue
            members = self.groups.pop(sequence.group_index)
            if self._is_left_for_later(members):
                self.engine.partial_groups.append(self._partial_group(members))
            else:
                self.num_delivered += 1
                yield sequence.group_index, self._group(members)

    def _has_enough(self) -> bool:
        if self.enough is None or self.num_delivered < self.enough:
            return False
        return all(group_index >= self.num_owed for group_index in self.groups)

    def _unwanted(self) -> set[int] | None:
        if self._has_enough() or self.interrupted():
            return None
        return self.engine.cancelled

    def _is_left_for_later(self, members: Sequence[RolloutSequence]) -> bool:
        if not self._has_enough() or self.interrupted():
            return False
        return any(sequence.finish == "cancelled" for sequence in members)

    def _partial_group(self, members: Sequence[RolloutSequence]) -> PartialGroup:
        return PartialGroup(
            prompt=members[0].prompt,
            seeds=tuple(sequence.seed for sequence in members),
            completions=self._completions(members),
        )

    def _group(self, members: Sequence[RolloutSequence]) -> Group:
        prompt = members[0].prompt
        if all(sequence.finish != "cancelled" for sequence in members):
            num_tokens = sum(len(sequence.tokens) for sequence in members)
            self.engine.expected[prompt.id] = num_tokens / len(members)
        return Group(prompt, self._completions(members))

    def _completions(self, members: Sequence[RolloutSequence]) -> tuple[Completion, ...]:
        policy = self.engine.policy
        version = self.engine.weights[0]
        return tuple(sequence.completion(policy, version) for sequence in members)
