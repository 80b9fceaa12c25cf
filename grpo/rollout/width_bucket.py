"""Keys and values of entries of about the same length, in tensors of one width.

An entry is a row that is being decoded or a prompt that several rows share. Which bucket holds it depends on its own
length alone; what attends over a bucket is the business of ``contiguous_cache``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Sequence

import torch
from torch import Tensor

from grpo.model.packing import MIN_ROWS
from grpo.rollout.prefill import KeyValue, Prefix

BLOCK = 64
EntryName = Any  # any hashable


def width_for(length: int) -> int:
    """The bucket of a row of `length` tokens: multiples of 64 up to 256, then 3/4 and whole powers of two."""
    width = -(-max(length, 1) // BLOCK) * BLOCK
    if width <= 4 * BLOCK:
        return width
    power = 1 << (width - 1).bit_length()
    return 3 * power // 4 if width <= 3 * power // 4 else power


def prompt_width(length: int) -> int:
    """The bucket of a prompt, which does not grow: multiples of 64 up to 512, then eighths of powers of two."""
    step = max(BLOCK, 1 << max(0, (max(length, 1) - 1).bit_length() - 3))
    return -(-max(length, 1) // step) * step


@dataclass(slots=True, eq=False)
class WidthBucket:
    """Entries of one width; per layer keys and values [entries, width, kv heads, head width].

    Tensors have room for an eighth more entries than asked for, or for as many as are ``expected``; room is given back
    when more than half of it is free. ``lengths`` counts the stored positions of each entry. What is behind them is
    zero, and masked.
    """

    width: int
    device: torch.device
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    names: list[EntryName] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    expected: int = 0

    @property
    def stores(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        return self.keys, self.values

    def put(self, names: Sequence[EntryName], prefix: Prefix, length: int) -> None:
        """Add entries that each hold the first `length` positions of `prefix`."""
        start = len(self.names)
        end = start + len(names)
        for number, store in enumerate(self.stores):
            for layer in {**store, **prefix}:
                new = prefix[layer][number] if layer in prefix else None
                tensor = self._with_room(store, layer, end, new)
                if new is not None:
                    tensor[start:end, :length] = new[:, :length].transpose(0, 1)
                tensor[start:end, length:] = 0  # a mask alone would not do: 0 x NaN is NaN
        self.names += names
        self.lengths += [length] * len(names)
        if len(self.names) >= self.expected:
            self.expected = 0

    def append(self, name: EntryName, prefix: Prefix, number: int) -> None:
        """Store the first `number` positions of `prefix` behind what an entry holds; there must be room for them."""
        index = self.names.index(name)
        start = self.lengths[index]
        end = start + number
        for number_of_store, store in enumerate(self.stores):
            for layer, pair in prefix.items():
                new = pair[number_of_store][:, :number]
                tensor = self._with_room(store, layer, len(self.names), new)
                tensor[index, start:end] = new.transpose(0, 1)
        self.lengths[index] = end

    def read(self, name: EntryName) -> Prefix:
        """What an entry holds, as views."""
        index = self.names.index(name)
        length = self.lengths[index]
        held: dict[int, KeyValue] = {}
        for layer, key in self.keys.items():
            value = self.values[layer]
            held[layer] = (
                key[index, :length].transpose(0, 1),
                value[index, :length].transpose(0, 1),
            )
        return held

    def take(self, name: EntryName) -> tuple[dict[int, KeyValue], int]:
        """Remove an entry; returns what it held, as `put` takes it, and its length."""
        length = self.lengths[self.names.index(name)]
        held = {layer: (k.clone(), v.clone()) for layer, (k, v) in self.read(name).items()}
        self.drop(name)
        return held, length

    def drop(self, name: EntryName) -> None:
        """Remove an entry; the last one moves into the gap."""
        index = self.names.index(name)
        last = len(self.names) - 1
        if index != last:
            for store in self.stores:
                for tensor in store.values():
                    tensor[index] = tensor[last]
        self.names[index] = self.names[last]
        self.names.pop()
        self.lengths[index] = self.lengths[last]
        self.lengths.pop()
        self._give_room_back()

    def _give_room_back(self) -> None:
        """Keep room for an eighth more entries than there are, at least for eight more.

        Shrinking needs a copy: a tensor stays as it is if there is no memory for one.
        """
        wanted = len(self.names) + max(MIN_ROWS, len(self.names) // 8)
        for store in self.stores:
            for layer, tensor in store.items():
                if tensor.shape[0] > 2 * wanted:
                    with suppress(MemoryError, RuntimeError):
                        store[layer] = tensor[:wanted].clone()

    def widened(self, width: int) -> WidthBucket:
        """The same entries in a wider bucket."""
        return WidthBucket(
            width=width,
            device=self.device,
            keys={layer: self._widened(tensor, width) for layer, tensor in self.keys.items()},
            values={layer: self._widened(tensor, width) for layer, tensor in self.values.items()},
            names=self.names,
            lengths=self.lengths,
        )

    def _widened(self, tensor: Tensor, width: int) -> Tensor:
        num_entries = len(self.names)
        wider = tensor.new_empty(num_entries, width, *tensor.shape[2:])
        wider[:, : self.width] = tensor[:num_entries]
        wider[:, self.width :] = 0
        return wider

    def add_layer(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Make room in a layer that no prefix brought; `key` and `value` are [entries, kv heads, head width]."""
        for store, new in zip(self.stores, (key, value)):
            self._with_room(store, layer, len(self.names), new.transpose(0, 1))

    def _with_room(
        self, store: dict[int, Tensor], layer: int, wanted: int, like: Tensor | None
    ) -> Tensor:
        """The layer's tensor with room for `wanted` entries; a new one is made like `like`, [kv heads, .., width]."""
        num_entries = len(self.names)
        tensor = store.get(layer)
        if tensor is None:
            assert like is not None, "a layer that is not stored comes with a prefix"
            room = max(wanted, self.expected)
            roomier = like.new_empty((room, self.width, like.shape[0], like.shape[-1]))
            roomier[:num_entries] = 0
        elif tensor.shape[0] < wanted:
            room = max(wanted, self.expected, tensor.shape[0] + tensor.shape[0] // 8)
            roomier = tensor.new_empty((room, *tensor.shape[1:]))
            roomier[:num_entries] = tensor[:num_entries]
        else:
            return tensor
        store[layer] = roomier
        return roomier
