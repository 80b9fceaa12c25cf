"""Keys and values of the completions being decoded, in contiguous buckets of equal width.

A row is in the bucket that its own length asks for. A long prompt is stored once, in a bucket of its own, for all of
its completions. Attention is the native kernel's, row by row, or one product of torch's for each bucket at that
bucket's width: either way a row's bits depend on its own tokens and not on its neighbours. Beyond the first blocks, at
most 4/3 of what is needed is stored. Rows come and go by moving the last row of a bucket into the gap.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from grpo.kernels.cpu import ops
from grpo.model.packing import MIN_ROWS
from grpo.rollout.bucket_attention import (
    AttentionCall,
    additive_mask,
    attend_to_bucket,
    batch_invariant,
)
from grpo.rollout.prefill import KeyValue, Prefix, concatenate, cut
from grpo.rollout.width_bucket import EntryName, WidthBucket, prompt_width, width_for

SHARED_FROM = (
    128  # prompts of at least this many tokens are stored once a group, shorter ones with each row
)
NATIVE_SHARED_FROM = 32  # the same where one kernel reads the prompt and the row's own tokens
Buckets = dict[int, WidthBucket]


@dataclass(slots=True, eq=False)
class _RowPart:
    """A bucket of rows in this step: rows ``start..end`` of the batch are its entries, in order.

    ``written`` are the flat positions of the new keys in the bucket. Masks are by window.
    """

    bucket: WidthBucket
    start: int
    end: int
    written: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _PromptPart:
    """A bucket of shared prompts in this step, and the rows of the batch that read it.

    The queries of a prompt's readers are computed together: ``gather`` [prompts, most readers] are their rows, and
    ``scatter`` the position of each of `rows` among the gathered queries.
    """

    bucket: WidthBucket
    rows: Tensor
    gather: Tensor
    scatter: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)


class ContiguousCache(Cache):
    """The rows in flight, and the layout through which their queries attend.

    Rows are named by any hashable. `begin` fixes the order of a step's rows in the batch, with zeros behind them up to
    a multiple of 8 or 4, and `advance` counts the step. Between the two every layer writes the new keys and values and
    attends: by the native kernel where it can, else by torch.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        shared_from: int | None = None,
        token_bytes: int = 0,
    ):
        super().__init__(layers=[])
        self.device = torch.device(device)
        if shared_from is None:
            natively = self.device.type == "cpu" and ops.reads_fast()
            shared_from = NATIVE_SHARED_FROM if natively else SHARED_FROM
        self.shared_from = shared_from
        self.token_bytes = token_bytes  # of the keys and values of one token in all layers
        self.row_buckets: Buckets = {}
        self.prompt_buckets: Buckets = {}
        self.row_width: dict[EntryName, int] = {}  # of the bucket that holds the row
        self.prompt_of: dict[EntryName, EntryName] = {}  # rows that read a shared prompt
        self.num_readers: dict[EntryName, int] = {}  # of each shared prompt
        self.prompt_length: dict[EntryName, int] = {}
        self._order: list[EntryName] = []
        self._row_parts: list[_RowPart] = []
        self._prompt_parts: list[_PromptPart] | None = (
            None  # made by the first layer that needs them
        )
        self._layouts: dict[int | None, tuple[list[int], ops.DecodeLayout]] = {}
        self._unwritten: int | None = None  # the layer whose new keys `attend` is to store
        self._dtype = torch.float32

    # -- rows ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.row_width)

    @property
    def used_bytes(self) -> int:
        """Size of the keys and values of all rows and prompts at the widths of their buckets."""
        buckets = [*self.row_buckets.values(), *self.prompt_buckets.values()]
        return self.token_bytes * sum(bucket.width * len(bucket.names) for bucket in buckets)

    def expect(self, arrivals: Iterable[tuple[EntryName, int, int]]) -> None:
        """Announce what will be added, as (prompt, its length, number of rows), so that room is made only once."""
        coming: dict[tuple[bool, int], int] = {}
        for prompt, length, num_rows in arrivals:
            is_shared = length >= self.shared_from
            rows_key = (False, width_for(1 if is_shared else length + 1))
            coming[rows_key] = coming.get(rows_key, 0) + num_rows
            if is_shared and prompt not in self.num_readers:
                prompt_key = (True, prompt_width(length))
                coming[prompt_key] = coming.get(prompt_key, 0) + 1
        for (is_prompt, width), number in coming.items():
            bucket = self._bucket(self.prompt_buckets if is_prompt else self.row_buckets, width)
            bucket.expected = len(bucket.names) + number

    def add(
        self, rows: Sequence[EntryName], prompt: EntryName, prefix: Prefix, length: int
    ) -> None:
        """Start `rows` behind `prefix`, the keys and values of the `length` tokens of `prompt`."""
        if length < self.shared_from:
            self._add_rows(rows, prefix, length)
            return
        if prompt not in self.num_readers:
            self._bucket(self.prompt_buckets, prompt_width(length)).put([prompt], prefix, length)
            self.num_readers[prompt] = 0
            self.prompt_length[prompt] = length
        self.num_readers[prompt] += len(rows)
        self.prompt_of |= dict.fromkeys(rows, prompt)
        try:
            self._add_rows(rows, cut(prefix, 0, 0), 0)
        except (MemoryError, RuntimeError):
            for row in rows:
                self._stop_reading(row)
            raise

    def extend(self, row: EntryName, completion: Prefix, length: int) -> None:
        """Give a row further `length` tokens: those of a completion that is resumed, or an observation."""
        bucket = self.row_buckets[self.row_width[row]]
        length_before = bucket.lengths[bucket.names.index(row)]
        if bucket.width == width_for(length_before + length + 1):
            bucket.append(row, completion, length)
            return
        held, _ = bucket.take(row)
        self._remove_if_empty(self.row_buckets, self.row_width.pop(row))
        added = cut(completion, 0, length)
        whole = concatenate(held, added) if length_before else added
        self._add_rows([row], whole, length_before + length)

    def held(self, row: EntryName) -> list[Prefix]:
        """The keys and values of a row, as views: its shared prompt's if it has one, then its own."""
        parts = []
        if row in self.prompt_of:
            prompt = self.prompt_of[row]
            bucket = self.prompt_buckets[prompt_width(self.prompt_length[prompt])]
            parts.append(bucket.read(prompt))
        return [*parts, self.row_buckets[self.row_width[row]].read(row)]

    def pause(self, row: EntryName) -> tuple[Prefix, int]:
        """Take a row out, with what it holds; its shared prompt is kept for it until `drop`."""
        taken = self.row_buckets[self.row_width[row]].take(row)
        del self.row_width[
            row
        ]  # an empty bucket is left to those that come back at once, or to `begin`
        return taken

    def expect_back(self, arrivals: Iterable[int]) -> None:
        """Announce rows that will be put back, by their lengths, so that room is made only once."""
        for width, number in Counter(width_for(length + 1) for length in arrivals).items():
            bucket = self._bucket(self.row_buckets, width)
            bucket.expected = len(bucket.names) + number

    def put_back(self, row: EntryName, held: Prefix, length: int, ahead: int = 0) -> None:
        """Go on with a row that was paused, with room for `ahead` tokens that `extend` is to bring."""
        self._add_rows([row], held, length, width=width_for(length + ahead + 1))

    def _add_rows(
        self, rows: Sequence[EntryName], prefix: Prefix, length: int, width: int | None = None
    ) -> None:
        width = width_for(length + 1) if width is None else width
        self._bucket(self.row_buckets, width).put(rows, prefix, length)
        self.row_width |= dict.fromkeys(rows, width)

    def _bucket(self, buckets: Buckets, width: int) -> WidthBucket:
        return buckets.setdefault(width, WidthBucket(width, self.device))

    def drop(self, row: EntryName) -> None:
        """Forget a row, and its prompt if no other row reads it."""
        if row in self.row_width:  # a row that memory ran out over may be in no bucket
            width = self.row_width.pop(row)
            self.row_buckets[width].drop(row)
            self._remove_if_empty(self.row_buckets, width)
        self._stop_reading(row)

    def _stop_reading(self, row: EntryName) -> None:
        if row not in self.prompt_of:
            return
        prompt = self.prompt_of.pop(row)
        self.num_readers[prompt] -= 1
        if self.num_readers[prompt]:
            return
        del self.num_readers[prompt]
        width = prompt_width(self.prompt_length.pop(prompt))
        self.prompt_buckets[width].drop(prompt)
        self._remove_if_empty(self.prompt_buckets, width)

    @staticmethod
    def _remove_if_empty(buckets: Buckets, width: int) -> None:
        if not buckets[width].names:
            del buckets[width]

    def remove_empty_buckets(self) -> None:
        """Where memory ran out in the middle of an addition, a bucket without entries is left behind."""
        for buckets in (self.row_buckets, self.prompt_buckets):
            for width in sorted(buckets):
                self._remove_if_empty(buckets, width)

    # -- steps --------------------------------------------------------------------------------------------

    def begin(self) -> list[EntryName]:
        """Move rows that outgrew their bucket; returns the rows of this step in the order of the batch."""
        self.remove_empty_buckets()
        for width in sorted(self.row_buckets):
            self._move_full_rows(width)
        self._order = []
        self._row_parts = []
        self._prompt_parts = None
        self._layouts = {}
        for _, bucket in sorted(self.row_buckets.items()):
            self._row_parts.append(self._row_part(bucket))
            self._order += bucket.names
        return self._order

    def _row_part(self, bucket: WidthBucket) -> _RowPart:
        start = len(self._order)
        written = [i * bucket.width + length for i, length in enumerate(bucket.lengths)]
        return _RowPart(
            bucket=bucket,
            start=start,
            end=start + len(bucket.names),
            written=torch.tensor(written, device=self.device),
        )

    def _move_full_rows(self, width: int) -> None:
        """Move the full rows of a bucket to the next width."""
        bucket = self.row_buckets[width]
        full = [name for name, length in zip(bucket.names, bucket.lengths) if length >= width]
        wider = width_for(width + 1)
        if len(full) == len(bucket.names) and wider not in self.row_buckets:
            self.row_buckets[wider] = bucket.widened(wider)
            del self.row_buckets[width]
            self.row_width |= dict.fromkeys(full, wider)
            return
        for row in full:
            held, length = bucket.take(row)
            del self.row_width[row]
            self._add_rows([row], held, length)
        self._remove_if_empty(self.row_buckets, width)

    def _readers(self) -> dict[EntryName, list[int]]:
        """For each shared prompt, the batch rows that read it."""
        readers: dict[EntryName, list[int]] = {prompt: [] for prompt in self.num_readers}
        for number, row in enumerate(self._order):
            if row in self.prompt_of:
                readers[self.prompt_of[row]].append(number)
        return readers

    def _shared_prompts(self) -> list[_PromptPart]:
        """A part for each bucket of prompts that rows of this step read; made once a step."""
        if self._prompt_parts is None:
            readers = self._readers()
            self._prompt_parts = []
            for _, bucket in sorted(self.prompt_buckets.items()):
                if any(readers[name] for name in bucket.names):
                    self._prompt_parts.append(self._prompt_part(bucket, readers))
        return self._prompt_parts

    def _prompt_part(self, bucket: WidthBucket, readers: dict[EntryName, list[int]]) -> _PromptPart:
        most = max(len(readers[name]) for name in bucket.names)
        gather: list[list[int]] = []
        gathered_at: dict[int, int] = {}
        for entry, name in enumerate(bucket.names):
            rows = readers[name]
            gather.append([*rows, *[0] * (most - len(rows))])
            gathered_at |= {row: entry * most + i for i, row in enumerate(rows)}
        all_rows = sorted(gathered_at)
        return _PromptPart(
            bucket=bucket,
            rows=torch.tensor(all_rows, device=self.device),
            gather=torch.tensor(gather, device=self.device),
            scatter=torch.tensor([gathered_at[row] for row in all_rows], device=self.device),
        )

    @property
    def positions(self) -> list[int]:
        """For the rows in the order of this step: how many tokens come before the new one."""
        positions: list[int] = []
        for part in self._row_parts:
            for row, length in zip(part.bucket.names, part.bucket.lengths):
                positions.append(length + self.prompt_length.get(self.prompt_of.get(row), 0))
        return positions

    def advance(self) -> None:
        """Count the step: each row is one token longer."""
        for part in self._row_parts:
            part.bucket.lengths = [length + 1 for length in part.bucket.lengths]

    # -- what transformers calls --------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        """Announce new keys and values [R, kv heads, 1, width]; `attend` stores them and reads the buckets."""
        self._dtype = key_states.dtype
        self._unwritten = layer_idx
        return key_states, value_states

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        layer: int,
    ) -> Tensor:
        """One query a row over its prompt and its own tokens: [R, heads, 1, width] -> [R, 1, heads, width]."""
        call = AttentionCall(layer=layer, scaling=scaling, window=window, softcap=softcap)
        is_new = self._unwritten == layer
        self._unwritten = None
        natively = is_new and softcap is None and ops.attends(query, key, value)
        if is_new:
            self._make_room(key, value, layer)
            if natively and self._sees_all(window):
                whole_call = AttentionCall(layer, scaling, window=None, softcap=None)
                return self._attend_natively(query, key, value, whole_call)
            self._write(key, value, layer)
        out = self._attend_by_buckets(query, key.shape[1], call)
        if natively:  # rows that the window does not cut: which kernel computes a row depends on its length alone
            whole_rows = self._layout(window)[0]
            if whole_rows:
                natively_out = self._attend_natively(query, key, value, call)
                out[whole_rows] = natively_out[whole_rows]
        return out

    def _make_room(self, key: Tensor, value: Tensor, layer: int) -> None:
        for part in self._row_parts:
            if layer not in part.bucket.keys:
                rows = slice(part.start, part.end)
                part.bucket.add_layer(layer, key[rows, :, 0], value[rows, :, 0])

    def _write(self, key: Tensor, value: Tensor, layer: int) -> None:
        """Store the new keys and values behind each row."""
        for part in self._row_parts:
            for store, new in zip(part.bucket.stores, (key, value)):
                flat = store[layer].view(-1, *store[layer].shape[2:])
                flat.index_copy_(0, part.written, new[part.start : part.end, :, 0])

    # -- the native kernel --------------------------------------------------------------------------------

    def _sees_all(self, window: int | None) -> bool:
        return window is None or max(self.positions) < window

    def _attend_natively(
        self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall
    ) -> Tensor:
        """`attend` and `_write` in one kernel, for the rows that the window does not cut."""
        tensors = [
            (bucket.keys[call.layer], bucket.values[call.layer]) for bucket in self._all_buckets()
        ]
        out = ops.decode_attention(
            query[:, :, 0],
            key[:, :, 0],
            value[:, :, 0],
            tensors,
            layout=self._layout(call.window)[1],
            scaling=call.scaling,
        )
        return out[:, None]

    def _all_buckets(self) -> list[WidthBucket]:
        """The buckets of rows, then those of prompts: a layout names them by their number here."""
        prompts = [bucket for _, bucket in sorted(self.prompt_buckets.items())]
        return [part.bucket for part in self._row_parts] + prompts

    def _layout(self, window: int | None) -> tuple[list[int], ops.DecodeLayout]:
        """The rows that a window does not cut, and where the kernel finds their keys; made once a step."""
        if window not in self._layouts:
            positions = enumerate(self.positions)
            whole = [row for row, position in positions if window is None or position < window]
            self._layouts[window] = whole, self._layout_of(set(whole))
        return self._layouts[window]

    def _layout_of(self, rows: set[int]) -> ops.DecodeLayout:
        """Rows that read a prompt together are one group; each of the others is a group of its own."""
        locations: list[tuple[int, int, int]] = []  # bucket, entry, length
        prompt_locations: dict[EntryName, tuple[int, int, int]] = {}
        for number, bucket in enumerate(self._all_buckets()):
            is_prompts = number >= len(self._row_parts)
            for entry, (name, length) in enumerate(zip(bucket.names, bucket.lengths)):
                if is_prompts:
                    prompt_locations[name] = (number, entry, length)
                else:
                    locations.append((number, entry, length))
        groups: list[list[int]] = []
        prompts: list[tuple[int, int, int] | None] = []
        for prompt, readers in self._readers().items():
            groups.append([row for row in readers if row in rows])
            prompts.append(prompt_locations[prompt])
        for row, name in enumerate(self._order):
            if name not in self.prompt_of and row in rows:
                groups.append([row])
                prompts.append(None)
        return ops.DecodeLayout(locations, groups, prompts)

    # -- torch's attention, a bucket at a time ------------------------------------------------------------

    def _attend_by_buckets(self, query: Tensor, kv_heads: int, call: AttentionCall) -> Tensor:
        rows, heads, _, width = query.shape
        grouped = query.view(rows, kv_heads, heads // kv_heads, width)
        outs: list[Tensor] = []
        lses: list[Tensor] = []
        for part in self._row_parts:
            mask = self._row_mask(part, call.window)
            out, lse = attend_to_bucket(grouped[part.start : part.end], part.bucket, mask, call)
            outs.append(out)
            lses.append(lse)
        missing = rows - len(self._order)
        if missing:
            outs.append(outs[0].new_zeros((missing, *outs[0].shape[1:])))
        out = torch.cat(outs) if len(outs) > 1 else outs[0]
        lse = torch.cat(lses) if len(lses) > 1 else lses[0]
        for prompt_part in self._shared_prompts():
            self._merge_prompts(prompt_part, grouped, out, lse, call=call)
        return out.reshape(rows, 1, heads, out.shape[-1]).to(query.dtype)

    def _merge_prompts(
        self,
        part: _PromptPart,
        grouped: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        call: AttentionCall,
    ) -> None:
        """Merge what rows read in their shared prompts into `out`, what they read in their own tokens.

        A softmax over both is the average of the two outputs weighted by exp(log-sum-exp) of each: the prompt's weight
        is the sigmoid of the difference.
        """
        prompt_out, prompt_lse = self._attend_to_prompts(part, grouped, call)
        own_lse = lse.index_select(0, part.rows)
        weight = batch_invariant(torch.sigmoid, prompt_lse - own_lse)[..., None]
        own_out = out.index_select(0, part.rows).to(weight.dtype)
        merged = torch.lerp(own_out, prompt_out.to(weight.dtype), weight)
        out.index_copy_(0, part.rows, merged.to(out.dtype))

    def _attend_to_prompts(
        self, part: _PromptPart, grouped: Tensor, call: AttentionCall
    ) -> tuple[Tensor, Tensor]:
        """(output, log-sum-exp) of `part.rows` over their prompts, [rows, kv heads, repeats, width] and one less.

        All readers of a prompt are queries of one entry, so that its keys are read once; their number is filled up
        to a multiple of MIN_ROWS, since the rounding of fewer would depend on it.
        """
        num_prompts, most = part.gather.shape
        _, kv_heads, repeats, width = grouped.shape
        query = grouped.index_select(0, part.gather.view(-1))
        query = query.view((num_prompts, most, kv_heads, repeats, width)).transpose(1, 2)
        query = query.reshape(num_prompts, kv_heads, most * repeats, width)
        filling = -query.shape[2] % MIN_ROWS
        mask = self._prompt_mask(part, call.window)
        if mask.shape[2] > 1:
            mask = pad(mask.repeat_interleave(repeats, 2), (0, 0, 0, filling))
        out, lse = attend_to_bucket(
            pad(query, (0, 0, 0, filling)),
            part.bucket,
            mask,
            call,
            may_read_nothing=call.window is not None,
        )

        def by_row(x: Tensor) -> Tensor:
            x = x[:, :, : most * repeats].reshape((num_prompts, kv_heads, most, repeats, -1))
            x = x.transpose(1, 2).reshape(num_prompts * most, kv_heads, repeats, -1)
            return x.index_select(0, part.scatter)

        return by_row(out), by_row(lse[..., None])[..., 0]

    # -- masks: 0 where a query may read, -inf elsewhere, [entries, 1, queries or 1, width] ---------------

    def _row_mask(self, part: _RowPart, window: int | None) -> Tensor:
        """Made once a step."""
        if window not in part.masks:
            key_position = torch.arange(part.bucket.width, device=self.device)
            last = torch.tensor(part.bucket.lengths, device=self.device)[:, None]
            readable = key_position <= last
            if window is not None:
                readable &= key_position > last - window
            part.masks[window] = additive_mask(readable)[:, None, None].to(self._dtype)
        return part.masks[window]

    def _prompt_mask(self, part: _PromptPart, window: int | None) -> Tensor:
        """Made once a step."""
        if window not in part.masks:
            part.masks[window] = self._new_prompt_mask(part, window).to(self._dtype)
        return part.masks[window]

    def _new_prompt_mask(self, part: _PromptPart, window: int | None) -> Tensor:
        key_position = torch.arange(part.bucket.width, device=self.device)
        readable = key_position < torch.tensor(part.bucket.lengths, device=self.device)[:, None]
        position = torch.tensor(self.positions, device=self.device)
        if window is None or int(position.max()) < window:
            return additive_mask(readable)[:, None, None]
        last_unreadable = (position - window)[part.gather]
        in_window = key_position > last_unreadable[..., None]
        return additive_mask(readable[:, None] & in_window)[:, None]
