"""The embedded engine: the trainer's own modules decode groups of completions.

Each prompt is prefilled once for its group. Completions wait in a queue, take a slot, and leave it when
they finish; slots are refilled and the batch shrinks with what is left. Every product has a multiple of
8 rows, so a completion's bits do not depend on how many others are decoded beside it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Callable, Iterator, Sequence

import torch
from torch import Tensor

from grpo.attention import PackedLayout
from grpo.pack import MIN_ROWS, bucket_rows
from grpo.policy import Policy
from grpo.rollout.sampler import Sampling, completion_seed, sample
from grpo.rollout.slots import PrefixCache, Slots
from grpo.types import Completion, Group, PackedRows, Prompt

PREFILL_TOKENS = 8192
Prefixes = dict[tuple[int, ...], dict[int, tuple[Tensor, Tensor]]]


@dataclass(slots=True, eq=False)
class _Live:
    """A completion being written."""

    place: int
    index: int
    prompt: Prompt
    seed: int
    limit: int
    limit_is_context: bool
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)
    finish: str = ""
    stop: int | str | None = None


@dataclass(slots=True)
class EngineStats:
    """What one call of `Engine.sample` did: tokens kept, row-steps computed and useful, seconds."""

    tokens: int = 0
    rows_computed: int = 0
    rows_alive: int = 0
    prefill_tokens: int = 0
    seconds: float = 0.0


class Engine:
    """Samples groups from a policy as it stands at each call; no state outlives a call."""

    def __init__(self, policy: Policy, *, max_rows: int = 256, stop: Sequence[str] = ()):
        self.policy = policy
        self.max_rows = max(MIN_ROWS, -(-max_rows // MIN_ROWS) * MIN_ROWS)
        self.stop_strings = tuple(stop)
        self.stats = EngineStats()

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, max_tokens: int, sampling: Sampling,
               seed: Sequence[object], interrupted: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Group]]:
        """Yield (place in `prompts`, group) as groups complete.

        A completion's tokens depend on (`seed`, prompt id, sample index) and the weights alone. When
        `interrupted` turns true, what is unfinished is delivered as cancelled.
        """
        self.stats = EngineStats()
        rows = [self._row(place, prompt, i, max_tokens, seed)
                for place, prompt in enumerate(prompts) for i in range(group_size)]
        done: dict[int, list[_Live]] = {}
        for row in self._decode(rows, sampling, interrupted):
            done.setdefault(row.place, []).append(row)
            if len(done[row.place]) == group_size:
                yield row.place, self._group(prompts[row.place], done.pop(row.place))

    def _row(self, place: int, prompt: Prompt, index: int, max_tokens: int, seed: Sequence[object]) -> _Live:
        length, context = len(prompt.token_ids), self.policy.context
        if not length:
            raise ValueError(f"sample: prompt {prompt.id} has no tokens; a completion needs one to start from")
        room = None if context is None else context - length
        if room is not None and room < 1:
            raise ValueError(f"sample: prompt {prompt.id} has {length} tokens, which leaves no room in the model's "
                             f"context of {context}; shorten it")
        limit = max_tokens if room is None else min(max_tokens, room)
        return _Live(place, index, prompt, completion_seed(*seed, prompt.id, index), limit,
                     room is not None and room < max_tokens)

    def _group(self, prompt: Prompt, rows: list[_Live]) -> Group:
        rows.sort(key=lambda row: row.index)
        return Group(prompt, tuple(self._completion(row) for row in rows))

    def _completion(self, row: _Live) -> Completion:
        spoken = row.tokens[:-1] if isinstance(row.stop, int) else row.tokens
        text = self.policy.tokenizer.decode(spoken, clean_up_tokenization_spaces=False)
        if isinstance(row.stop, str):
            text = text.partition(row.stop)[0]
        return Completion(
            text=text, token_ids=tuple(row.tokens), sampled_logps=torch.tensor(row.logps, dtype=torch.float32),
            finish=row.finish, stop=row.stop, versions=((self.policy.version, 0, len(row.tokens)),),
            log_kept=torch.tensor(row.log_kept, dtype=torch.float32) if row.log_kept else None)

    # -- decoding -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _decode(self, rows: Sequence[_Live], sampling: Sampling, interrupted: Callable[[], bool]) -> Iterator[_Live]:
        started = time.perf_counter()
        queue = deque(rows)
        batch = _Decoding(self, min(self.max_rows, -(-len(rows) // MIN_ROWS) * MIN_ROWS))
        while queue or batch.num_live:
            if interrupted():
                for row in [*(row for row in batch.rows if row), *queue]:
                    row.finish = "cancelled"
                    yield row
                break
            batch.admit(queue)
            yield from batch.step(sampling)
            batch.compact(bool(queue))
        self.stats.seconds = time.perf_counter() - started

    def prefill(self, prompts: Sequence[Prompt]) -> Prefixes:
        """Prompt's tokens: layer: keys and values of all of them but the last, which decoding starts with."""
        result: Prefixes = {}
        unique = {prompt.token_ids: prompt for prompt in prompts}
        for chunk in _chunks([p for p in unique.values() if len(p.token_ids) > 1]):
            spans, tokens, positions, start = [], [], [], 0
            for prompt in chunk:
                length = len(prompt.token_ids) - 1
                spans.append(([*range(start, start + length)], 0))
                tokens += prompt.token_ids[:-1]
                positions += range(length)
                start += length
            cache = self._packed_forward(tokens, positions, spans)
            for prompt, (index, _) in zip(chunk, spans):
                result[prompt.token_ids] = cache.prefix(index[0], index[-1] + 1)
            self.stats.prefill_tokens += start
        return result

    def _packed_forward(self, tokens: list[int], positions: list[int],
                        spans: list[tuple[list[int], int]]) -> PrefixCache:
        for filler in range(len(tokens), -(-len(tokens) // MIN_ROWS) * MIN_ROWS):
            tokens, positions, spans = [*tokens, 0], [*positions, 0], [*spans, ([filler], 0)]
        device, cache = self.policy.device, PrefixCache()
        token_P, position_P = torch.tensor(tokens, device=device), torch.tensor(positions, device=device)
        buckets, place_P = bucket_rows(spans, len(tokens), device)
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        packed = PackedRows(token_P, position_P, buckets, place_P, nothing, nothing, ())
        self.policy.logits(token_P, position_P, PackedLayout(packed), nothing.new_zeros(1), cache)
        return cache


class _Decoding:
    """The rows in flight and their slots."""

    def __init__(self, engine: Engine, num_rows: int):
        self.engine, self.policy = engine, engine.policy
        device = self.policy.device
        self.rows: list[_Live | None] = [None] * num_rows
        self.slots = Slots(num_rows, device)
        self.token_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.seed_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.drawn_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.prefixes: Prefixes = {}

    @property
    def num_live(self) -> int:
        return sum(row is not None for row in self.rows)

    def admit(self, queue: deque[_Live]) -> None:
        """Give free slots to waiting completions; prompts met for the first time are prefilled together."""
        free = [place for place, row in enumerate(self.rows) if row is None]
        if not queue or not free:
            return
        taken = [(place, queue.popleft()) for place in free[:len(queue)]]
        new = [row.prompt for _, row in taken if row.prompt.token_ids not in self.prefixes]
        self.prefixes.update(self.engine.prefill(new))
        by_prompt: dict[tuple[int, ...], list[tuple[int, _Live]]] = {}
        for place, row in taken:
            by_prompt.setdefault(row.prompt.token_ids, []).append((place, row))
        for tokens, members in by_prompt.items():
            self._start(members, self.prefixes.get(tokens, {}))
        waiting = {row.prompt.token_ids for row in queue}
        self.prefixes = {tokens: prefix for tokens, prefix in self.prefixes.items() if tokens in waiting}

    def _start(self, members: list[tuple[int, _Live]], prefix: dict[int, tuple[Tensor, Tensor]]) -> None:
        places, prompt = [place for place, _ in members], members[0][1].prompt
        self.slots.clear(places)
        self.slots.put(places, prefix, len(prompt.token_ids) - 1)
        index = torch.tensor(places, device=self.policy.device)
        self.token_R[index] = prompt.token_ids[-1]
        self.seed_R[index] = torch.tensor([row.seed for _, row in members], device=self.policy.device)
        self.drawn_R[index] = 0
        for place, row in members:
            self.rows[place] = row

    def step(self, sampling: Sampling) -> list[_Live]:
        """One token for every row; returns the completions that ended with it."""
        self.slots.reserve(1 + max(len(row.prompt.token_ids) - 1 + len(row.tokens) for row in self.rows if row))
        logits = self.policy.logits(self.token_R[:, None], self.slots.length_R[:, None], self.slots, 1, self.slots)
        token_R, logp_R, log_kept_R = sample(logits[:, -1], self.seed_R, self.drawn_R, sampling)
        self.slots.advance()
        self.drawn_R += 1
        self.token_R = token_R.clamp_min(0)
        stats = self.engine.stats
        stats.rows_computed += len(self.rows)
        stats.rows_alive += self.num_live
        return self._book(token_R.tolist(), logp_R.tolist(), None if log_kept_R is None else log_kept_R.tolist())

    def _book(self, tokens: list[int], logps: list[float], log_kept: list[float] | None) -> list[_Live]:
        ended, places = [], []
        for place, row in enumerate(self.rows):
            if row is None:
                continue
            if tokens[place] < 0:
                row.finish = "error"
            else:
                row.tokens.append(tokens[place])
                row.logps.append(logps[place])
                if log_kept is not None:
                    row.log_kept.append(log_kept[place])
                self._finish(row)
            if row.finish:
                ended.append(row)
                places.append(place)
                self.rows[place] = None
        if places:
            self.slots.clear(places)
            self.token_R[torch.tensor(places, device=self.token_R.device)] = 0
        self.engine.stats.tokens += sum(len(row.tokens) for row in ended)
        return ended

    def _finish(self, row: _Live) -> None:
        if row.tokens[-1] in self.policy.stop_ids:
            row.finish, row.stop = "stop", row.tokens[-1]
            return
        row.stop = self._stop_string(row.tokens)
        if row.stop is not None:
            row.finish = "stop"
        elif len(row.tokens) >= row.limit:
            row.finish = "context" if row.limit_is_context else "length"

    def _stop_string(self, tokens: list[int]) -> str | None:
        """The stop string that the last token completed, if any; only the tail is decoded.

        A token may be a single byte, so the tail has a token for each byte of the longest, and some to start.
        """
        if not self.engine.stop_strings:
            return None
        tail = tokens[-(8 + max(len(stop.encode()) for stop in self.engine.stop_strings)):]
        text = self.policy.tokenizer.decode(tail, clean_up_tokenization_spaces=False)
        return next((stop for stop in self.engine.stop_strings if stop in text), None)

    def compact(self, waiting: bool) -> None:
        """Drop free slots once a tenth of the rows would be computed for nothing."""
        wanted = max(MIN_ROWS, -(-self.num_live // MIN_ROWS) * MIN_ROWS)
        if waiting or not self.num_live or wanted > 0.9 * len(self.rows):
            return
        keep = [place for place, row in enumerate(self.rows) if row is not None]
        keep += [place for place, row in enumerate(self.rows) if row is None][:wanted - len(keep)]
        index = torch.tensor(keep, device=self.policy.device)
        self.slots.select(keep)
        self.rows = [self.rows[place] for place in keep]
        self.token_R, self.seed_R, self.drawn_R = self.token_R[index], self.seed_R[index], self.drawn_R[index]


def _chunks(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    chunk: list[Prompt] = []
    for prompt in prompts:
        if chunk and sum(len(p.token_ids) for p in chunk) + len(prompt.token_ids) > PREFILL_TOKENS:
            yield chunk
            chunk = []
        chunk.append(prompt)
    if chunk:
        yield chunk
