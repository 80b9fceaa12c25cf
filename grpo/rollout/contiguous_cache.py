"""Keys and values of the completions being decoded, on shelves of equal width.

A row stands on the shelf whose width its own length asks for, and a prompt of some length stands once, on a
shelf of its own, for all of its completions. Attention is the native kernel's, row by row, or one product of torch's
for each shelf at that shelf's width: either way a row's bits depend on its own tokens and not on its neighbours. What
is stored is at most 4/3 of what is needed beyond the first blocks. Rows come and go by moving the last row of a shelf
into the gap.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from grpo.kernels.cpu import ops as native
from grpo.model.packing import MIN_ROWS

BLOCK = 64
SHARED = 128  # a prompt of at least so many tokens is stored once for its group; a shorter one with each row
NATIVE_SHARED = 32  # the same where one kernel reads the prompt and the row's own tokens
KeyValue = tuple[Tensor, Tensor]
Prefix = Mapping[int, KeyValue]


def width_for(length: int) -> int:
    """The shelf that holds `length` tokens: multiples of 64 to 256, then 4/3 and 3/2 steps of powers of two."""
    width = -(-max(length, 1) // BLOCK) * BLOCK
    if width <= 4 * BLOCK:
        return width
    power = 1 << (width - 1).bit_length()
    return 3 * power // 4 if width <= 3 * power // 4 else power


def prompt_width(length: int) -> int:
    """The shelf of a prompt, which does not grow: multiples of 64 to 512, then quarters of powers of two."""
    step = max(BLOCK, 1 << max(0, (max(length, 1) - 1).bit_length() - 3))
    return -(-max(length, 1) // step) * step


class PrefixCache(Cache):
    """Collects the keys and values of a packed forward over prompts, and stays out of its way."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.stored: dict[int, KeyValue] = {}

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        self.stored[layer_idx] = (key[0], value[0])
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def prefix(self, start: int, end: int) -> dict[int, KeyValue]:
        """Layer: (keys, values) [kv heads, length, width] of the packed tokens ``start..end``."""
        return cut(self.stored, start, end)

    def joined(self, *spans: tuple[int, int]) -> dict[int, KeyValue]:
        """The packed tokens of several spans, one after the other."""
        return {
            layer: tuple(torch.cat([x[:, start:end] for start, end in spans], 1) for x in pair)
            for layer, pair in self.stored.items()
        }


def cut(prefix: Prefix, start: int, end: int | None = None) -> dict[int, KeyValue]:
    """The positions ``start..end`` of a prefix."""
    return {layer: (k[:, start:end], v[:, start:end]) for layer, (k, v) in prefix.items()}


@dataclass(slots=True, eq=False)
class WidthBucket:
    """Entries of one width: for each layer keys and values [entries, width, kv heads, head width].

    Room is made for an eighth more entries than are asked for, or for as many as are ``expected``, and given back
    when half of it is free. ``length`` counts the positions stored of each entry; what lies behind them is zero and
    is masked.
    """

    width: int
    device: torch.device
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    names: list[Any] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    expected: int = 0

    @property
    def stores(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        return self.keys, self.values

    def put(self, names: Sequence[Any], prefix: Prefix, length: int) -> None:
        """Add entries that each hold `prefix`, [kv heads, length, width] a layer."""
        start, end = len(self.names), len(self.names) + len(names)
        for store, number in zip(self.stores, (0, 1)):
            for layer in {**store, **prefix}:
                new = prefix[layer][number] if layer in prefix else None
                tensor = self._room(store, layer, end, new)
                if new is not None:
                    tensor[start:end, :length] = new[:, :length].transpose(0, 1)
                tensor[start:end, length:] = 0  # not only masked: 0 x NaN would stay
        self.names += names
        self.length += [length] * len(names)
        if len(self.names) >= self.expected:
            self.expected = 0

    def take(self, name: Any) -> tuple[dict[int, KeyValue], int]:
        """What an entry holds, as `put` takes it, and its length; the entry is gone."""
        place = self.names.index(name)
        length = self.length[place]
        held = {
            layer: tuple(
                store[layer][place, :length].transpose(0, 1).clone() for store in self.stores
            )
            for layer in self.keys
        }
        self.drop(name)
        return held, length

    def drop(self, name: Any) -> None:
        """Forget an entry; the last one moves to its place."""
        place, last = self.names.index(name), len(self.names) - 1
        if place != last:
            for store in self.stores:
                for tensor in store.values():
                    tensor[place] = tensor[last]
        for column in (self.names, self.length):
            column[place] = column[last]
            column.pop()
        self._give_back()

    def _give_back(self) -> None:
        """Keep room for an eighth more entries than there are, and for eight; as it is where a copy finds no memory."""
        wanted = len(self.names) + max(MIN_ROWS, len(self.names) // 8)
        for store in self.stores:
            for layer, tensor in store.items():
                if tensor.shape[0] > 2 * wanted:
                    with suppress(MemoryError, RuntimeError):
                        store[layer] = tensor[:wanted].clone()

    def widened(self, width: int) -> WidthBucket:
        """The same entries on a wider shelf."""
        stores = (
            {layer: self._copied(tensor, width) for layer, tensor in store.items()}
            for store in self.stores
        )
        return WidthBucket(width, self.device, *stores, self.names, self.length)

    def _copied(self, tensor: Tensor, width: int) -> Tensor:
        num = len(self.names)
        wider = tensor.new_empty(num, width, *tensor.shape[2:])
        wider[:, : self.width] = tensor[:num]
        wider[:, self.width :] = 0
        return wider

    def new_layer(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Make room in a layer that no prefix brought; `key` and `value` are [entries, kv heads, width]."""
        for store, new in zip(self.stores, (key, value)):
            self._room(store, layer, len(self.names), new.transpose(0, 1))

    def _room(
        self, store: dict[int, Tensor], layer: int, wanted: int, like: Tensor | None
    ) -> Tensor:
        tensor = store.get(layer)
        have = 0 if tensor is None else tensor.shape[0]
        if have < wanted:
            heads, width = (like.shape[0], like.shape[-1]) if tensor is None else tensor.shape[2:]
            made, num = (like if tensor is None else tensor).new_empty, len(self.names)
            store[layer] = made(
                (max(wanted, self.expected, have + have // 8), self.width, heads, width)
            )
            store[layer][:num] = 0 if tensor is None else tensor[:num]
        return store[layer]


@dataclass(slots=True, eq=False)
class _Part:
    """One product of a step: which queries meet which entries, under which mask for each window."""

    shelf: WidthBucket
    start: int
    end: int
    written: Tensor | None
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    gather: Tensor | None = None  # shared prompts: rows of the batch by (entry, place in its group)
    scatter: Tensor | None = None  # and back: for each row the place in the gathered queries


class ContiguousCache(Cache):
    """The rows in flight, and the layout through which their queries attend.

    Rows are named by any hashable; `begin` fixes the order in which a step's rows stand in the batch, with
    zeros behind them up to a multiple of 8 or 4, and `advance` counts the step. Between the two every layer
    writes the new keys and values and attends: by the native kernel where it can, else by torch.
    """

    def __init__(
        self, device: torch.device | str = "cpu", *, shared: int | None = None, token_bytes: int = 0
    ):
        super().__init__(layers=[])
        self.device = torch.device(device)
        if shared is None:
            shared = NATIVE_SHARED if self.device.type == "cpu" and native.reads_fast() else SHARED
        self.shared = shared
        self.rows: dict[int, WidthBucket] = {}
        self.prompts: dict[int, WidthBucket] = {}
        self.home: dict[Any, int] = {}  # row: width of its shelf
        self.of: dict[Any, Any] = {}  # row: the shared prompt it reads
        self.readers: dict[Any, int] = {}  # shared prompt: rows that read it
        self.ahead: dict[Any, int] = {}  # shared prompt: its length
        self._parts: list[_Part] = []
        self._shared_parts: list[_Part] | None = None
        self._layouts: dict[int | None, tuple[list[int], native.DecodeLayout]] = {}
        self._order: list[Any] = []
        self._unwritten: int | None = (
            None  # the layer whose new keys and values `attend` is to store
        )
        self._dtype = torch.float32
        self.token_bytes = token_bytes  # of the keys and values of one token in all layers

    # -- rows ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.home)

    @property
    def used_bytes(self) -> int:
        """What the keys and values of all rows and prompts take at the widths of their shelves."""
        positions = sum(
            shelf.width * len(shelf.names)
            for shelves in (self.rows, self.prompts)
            for shelf in shelves.values()
        )
        return positions * self.token_bytes

    def expect(self, arrivals: Iterable[tuple[Any, int, int]]) -> None:
        """That many rows will be added behind each of these prompts, (prompt, its length, rows): room is made once."""
        coming: dict[tuple[bool, int], int] = {}
        for prompt, length, rows in arrivals:
            shared = length >= self.shared
            own = False, width_for((0 if shared else length) + 1)
            coming[own] = coming.get(own, 0) + rows
            if shared and prompt not in self.readers:
                coming[True, prompt_width(length)] = coming.get((True, prompt_width(length)), 0) + 1
        for (shared, width), number in coming.items():
            shelf = self._shelf(self.prompts if shared else self.rows, width)
            shelf.expected = len(shelf.names) + number

    def add(self, rows: Sequence[Any], prompt: Any, prefix: Prefix, length: int) -> None:
        """Start `rows` behind `prefix`, the keys and values of the `length` tokens of `prompt`."""
        if length < self.shared:
            return self._stand(rows, prefix, length)
        if prompt not in self.readers:
            self._shelf(self.prompts, prompt_width(length)).put([prompt], prefix, length)
            self.readers[prompt], self.ahead[prompt] = 0, length
        self.readers[prompt] += len(rows)
        self.of |= dict.fromkeys(rows, prompt)
        try:
            self._stand(rows, cut(prefix, 0, 0), 0)
        except (MemoryError, RuntimeError):
            for row in rows:
                self._stop_reading(row)
            raise

    def extend(self, row: Any, own: Prefix, length: int) -> None:
        """Give a row that was just added `length` tokens of its own: a completion that is gone on with."""
        held, before = self.rows[self.home[row]].take(row)
        self._tidy(self.rows, self.home.pop(row))
        both = (
            {
                layer: tuple(
                    torch.cat([a, b[:, :length]], 1) for a, b in zip(held[layer], own[layer])
                )
                for layer in own
            }
            if before
            else own
        )
        self._stand([row], both, before + length)

    def _stand(self, rows: Sequence[Any], own: Prefix, length: int) -> None:
        width = width_for(length + 1)
        self._shelf(self.rows, width).put(rows, own, length)
        self.home |= dict.fromkeys(rows, width)

    def _shelf(self, shelves: dict[int, WidthBucket], width: int) -> WidthBucket:
        return shelves.setdefault(width, WidthBucket(width, self.device))

    def drop(self, row: Any) -> None:
        """Forget a row, and its prompt if no other row reads it."""
        if row in self.home:  # not where memory ran out while it was moved
            width = self.home.pop(row)
            self.rows[width].drop(row)
            self._tidy(self.rows, width)
        self._stop_reading(row)

    def _stop_reading(self, row: Any) -> None:
        prompt = self.of.pop(row, None)
        if prompt is not None:
            self.readers[prompt] -= 1
            if not self.readers[prompt]:
                del self.readers[prompt]
                width = prompt_width(self.ahead.pop(prompt))
                self.prompts[width].drop(prompt)
                self._tidy(self.prompts, width)

    @staticmethod
    def _tidy(shelves: dict[int, WidthBucket], width: int) -> None:
        if not shelves[width].names:
            del shelves[width]

    def begin(self) -> list[Any]:
        """Move rows that outgrew their shelf, and fix the order of this step's rows."""
        for shelves in (self.rows, self.prompts):
            for width in sorted(shelves):
                self._tidy(shelves, width)  # a shelf that memory ran out over may be empty
        for width in sorted(self.rows):
            self._outgrow(width)
        self._order, self._parts, self._shared_parts, self._layouts = [], [], None, {}
        for width in sorted(self.rows):
            shelf = self.rows[width]
            start = len(self._order)
            self._order += shelf.names
            at = [place * width + length for place, length in enumerate(shelf.length)]
            self._parts.append(
                _Part(shelf, start, len(self._order), torch.tensor(at, device=self.device))
            )
        return self._order

    def _outgrow(self, width: int) -> None:
        """Move the rows of a full width to the next shelf."""
        shelf = self.rows[width]
        full = [name for name, length in zip(shelf.names, shelf.length) if length >= width]
        wider = width_for(width + 1)
        if len(full) == len(shelf.names) and wider not in self.rows:
            self.rows[wider] = shelf.widened(wider)
            del self.rows[width]
            self.home |= dict.fromkeys(full, wider)
            return
        for row in full:
            held, length = shelf.take(row)
            del self.home[row]
            self._stand([row], held, length)
        self._tidy(self.rows, width)

    def _members(self) -> dict[Any, list[int]]:
        """Of each shared prompt the places in the batch of the rows that read it."""
        members: dict[Any, list[int]] = {prompt: [] for prompt in self.readers}
        for place, row in enumerate(self._order):
            if row in self.of:
                members[self.of[row]].append(place)
        return members

    def _shared(self) -> list[_Part]:
        """For each shelf of prompts, which rows of the batch read its entries; made once a step."""
        if self._shared_parts is None:
            self._shared_parts = []
            self._share()
        return self._shared_parts

    def _share(self) -> None:
        members = self._members()
        for width in sorted(self.prompts):
            shelf = self.prompts[width]
            most = max(len(members[name]) for name in shelf.names)
            gather = [[*members[name], *[0] * (most - len(members[name]))] for name in shelf.names]
            scatter = {
                row: (entry, i)
                for entry, name in enumerate(shelf.names)
                for i, row in enumerate(members[name])
            }
            rows = sorted(scatter)
            part = _Part(
                shelf,
                0,
                0,
                torch.tensor(rows, device=self.device),
                gather=torch.tensor(gather, device=self.device),
                scatter=torch.tensor(
                    [scatter[row][0] * most + scatter[row][1] for row in rows], device=self.device
                ),
            )
            self._shared_parts.append(part)

    @property
    def positions(self) -> list[int]:
        """Of the rows in the order of this step: how many tokens come before the new one."""
        found = []
        for part in self._parts:
            found += [
                length + self.ahead.get(self.of.get(row), 0)
                for row, length in zip(part.shelf.names, part.shelf.length)
            ]
        return found

    def advance(self) -> None:
        """Count the step: each row is one token longer."""
        for part in self._parts:
            part.shelf.length = [length + 1 for length in part.shelf.length]

    # -- what transformers calls --------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        """Take note of new keys and values [R, kv heads, 1, width]; `attend` stores them and reads the shelves."""
        self._dtype, self._unwritten = key.dtype, layer_idx
        return key, value

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
        """One query a row against its prompt and its own tokens: [R, heads, 1, width] -> [R, 1, heads, width]."""
        fresh, self._unwritten = self._unwritten == layer, None
        natively = fresh and softcap is None and native.attends(query, key, value)
        if fresh:
            for part in self._parts:
                if layer not in part.shelf.keys:
                    part.shelf.new_layer(
                        layer, *(new[part.start : part.end, :, 0] for new in (key, value))
                    )
            if natively and self._sees_all(window):
                return self._attend_natively(query, key, value, scaling, layer, None)
            self._write(key, value, layer)
        rows, heads, _, width = query.shape
        grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
        outs, lses = zip(
            *(
                _attend(
                    grouped[part.start : part.end],
                    part.shelf,
                    layer,
                    self._mask(part, window),
                    scaling,
                    softcap,
                )
                for part in self._parts
            )
        )
        if rows > len(self._order):
            outs = (*outs, outs[0].new_zeros((rows - len(self._order), *outs[0].shape[1:])))
        out, lse = (torch.cat(x) if len(x) > 1 else x[0] for x in (outs, lses))
        for part in self._shared():
            self._merge(part, grouped, out, lse, layer, scaling, window, softcap)
        out = out.reshape(rows, 1, heads, out.shape[-1]).to(query.dtype)
        if natively and (
            whole := self._laid_out(window)[0]
        ):  # a row's bits hang on its own length alone
            out[whole] = self._attend_natively(query, key, value, scaling, layer, window)[whole]
        return out

    def _write(self, key: Tensor, value: Tensor, layer: int) -> None:
        """Store the new keys and values behind each row."""
        for part in self._parts:
            for store, new in zip(part.shelf.stores, (key, value)):
                flat = store[layer].view(-1, *store[layer].shape[2:])
                flat.index_copy_(0, part.written, new[part.start : part.end, :, 0])

    def _sees_all(self, window: int | None) -> bool:
        return window is None or max(self.positions) < window

    def _attend_natively(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        layer: int,
        window: int | None,
    ) -> Tensor:
        """`attend` and `_write` in one kernel, of the rows that a window does not cut."""
        out = native.decode_attention(
            query[:, :, 0],
            key[:, :, 0],
            value[:, :, 0],
            [(shelf.keys[layer], shelf.values[layer]) for shelf in self._shelves()],
            self._laid_out(window)[1],
            scaling,
        )
        return out[:, None]

    def _shelves(self) -> list[WidthBucket]:
        return [part.shelf for part in self._parts] + [
            self.prompts[width] for width in sorted(self.prompts)
        ]

    def _laid_out(self, window: int | None) -> tuple[list[int], native.DecodeLayout]:
        """The rows that a window does not cut, and where they find their keys; made once a step."""
        if window not in self._layouts:
            whole = {
                place
                for place, position in enumerate(self.positions)
                if window is None or position < window
            }
            rows = [
                (number, place, length)
                for number, part in enumerate(self._parts)
                for place, length in enumerate(part.shelf.length)
            ]
            members = {
                prompt: [place for place in places if place in whole]
                for prompt, places in self._members().items()
            }
            alone = [
                [place]
                for place, row in enumerate(self._order)
                if row not in self.of and place in whole
            ]
            at = {
                name: (len(self._parts) + number, place, length)
                for number, shelf in enumerate(self._shelves()[len(self._parts) :])
                for place, (name, length) in enumerate(zip(shelf.names, shelf.length))
            }
            self._layouts[window] = (
                sorted(whole),
                native.DecodeLayout(
                    rows,
                    [*members.values(), *alone],
                    [*(at[prompt] for prompt in members), *[None] * len(alone)],
                ),
            )
        return self._layouts[window]

    def _merge(
        self,
        part: _Part,
        grouped: Tensor,
        out: Tensor,
        lse: Tensor,
        layer: int,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        """Put what the rows read in their shared prompts beside what they read in their own tokens."""
        entries, most = part.gather.shape
        kv_heads, repeats, width = grouped.shape[1:]
        query = grouped.index_select(0, part.gather.view(-1)).view(
            entries, most, kv_heads, repeats, width
        )
        query = query.transpose(1, 2).reshape(entries, kv_heads, most * repeats, width)
        filled = -(-query.shape[2] // MIN_ROWS) * MIN_ROWS
        seen = self._mask(part, window)
        if seen.shape[2] > 1:
            seen = pad(seen.repeat_interleave(repeats, 2), (0, 0, 0, filled - query.shape[2]))
        found, weight = _attend(
            pad(query, (0, 0, 0, filled - query.shape[2])),
            part.shelf,
            layer,
            seen,
            scaling,
            softcap,
            window is None,
        )
        found, weight = (
            x[:, :, : most * repeats]
            .reshape(entries, kv_heads, most, repeats, -1)
            .transpose(1, 2)
            .reshape(entries * most, kv_heads, repeats, -1)
            .index_select(0, part.scatter)
            for x in (found, weight[..., None])
        )
        rows = part.written
        share = steady(torch.sigmoid, weight[..., 0] - lse.index_select(0, rows))[..., None]
        own, found = (x.to(share.dtype) for x in (out.index_select(0, rows), found))
        out.index_copy_(0, rows, torch.lerp(own, found, share).to(out.dtype))

    def _mask(self, part: _Part, window: int | None) -> Tensor:
        """0 where a query may read, -inf elsewhere: [entries, 1, queries or 1, width]; made once a step."""
        if window not in part.masks:
            mask = (
                self._own_mask(part, window)
                if part.gather is None
                else self._shared_mask(part, window)
            )
            part.masks[window] = mask.to(self._dtype)
        return part.masks[window]

    def _own_mask(self, part: _Part, window: int | None) -> Tensor:
        at = torch.arange(part.shelf.width, device=self.device)
        last = torch.tensor(part.shelf.length, device=self.device)[:, None]
        seen = at <= last
        if window is not None:
            seen &= at > last - window
        return _additive(seen)[:, None, None]

    def _shared_mask(self, part: _Part, window: int | None) -> Tensor:
        at = torch.arange(part.shelf.width, device=self.device)
        seen = at < torch.tensor(part.shelf.length, device=self.device)[:, None]
        position = torch.tensor(self.positions, device=self.device)
        if window is None or int(position.max()) < window:
            return _additive(seen)[:, None, None]
        first = (position - window)[part.gather]
        return _additive(seen[:, None] & (at > first[..., None]))[:, None]


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))


def _attend(
    query: Tensor,
    shelf: WidthBucket,
    layer: int,
    mask: Tensor,
    scaling: float,
    softcap: float | None,
    windowless: bool = True,
) -> tuple[Tensor, Tensor]:
    """(output, log-sum-exp of the scores) of queries [entries, kv heads, n, width] against a shelf's entries.

    A query that may read nothing gets zeros and a log-sum-exp of -inf.
    """
    num = len(shelf.names)
    key, value = (store[layer][:num].transpose(1, 2) for store in shelf.stores)
    if query.device.type == "cpu" and softcap is None and key.shape[-1] == value.shape[-1]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=mask, scale=scaling
        )
        return out, lse if windowless else lse.masked_fill(
            (mask == float("-inf")).all(-1), float("-inf")
        )
    return plain_attention(query, key, value, mask, scaling, softcap)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The same by its definition, with a soft-cap: what runs where no fused kernel does, fp32 or finer inside.

    The products have a multiple of 8 rows: the bits of fewer depend on how many entries there are.
    """
    num = query.shape[2]
    if num % MIN_ROWS:
        mask = pad(mask, (0, 0, 0, -num % MIN_ROWS)) if mask.shape[2] > 1 else mask
        out, lse = plain_attention(
            pad(query, (0, 0, 0, -num % MIN_ROWS)), key, value, mask, scaling, softcap
        )
        return out[:, :, :num], lse[:, :, :num]
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query @ key.transpose(-1, -2)).to(dtype) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + mask
    top = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(dtype).min)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    out = (weights.to(value.dtype) @ value).to(dtype) / total.clamp_min(torch.finfo(dtype).tiny)
    return out.to(query.dtype), (steady(torch.log, total) + top)[..., 0]


def steady(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of each element, with bits that do not depend on how many there are.

    torch computes what is left over after whole vectors (up to 64 numbers) by another routine, which rounds
    otherwise.
    """
    return function(pad(x.reshape(-1), (0, -x.numel() % 64)))[: x.numel()].view(x.shape)
