"""Keys and values of the completions being decoded: one slot a row, in blocks of 64 positions.

A row's attention is computed block by block at fixed shapes and summed in a fixed order, and an empty
block adds exactly nothing; so its bits depend on the row's own tokens, not on its neighbours' lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

BLOCK = 64
FAN = 16


class PrefixCache(Cache):
    """Collects the keys and values of a packed forward over prompts, and stays out of its way."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.stored[layer_idx] = (key[0], value[0])
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def prefix(self, start: int, end: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer: (keys, values) [kv heads, length, width] of the packed tokens ``start..end``."""
        return {layer: (k[:, start:end], v[:, start:end]) for layer, (k, v) in self.stored.items()}


class Slots(Cache):
    """Decode slots for R rows, and the layout through which their queries attend.

    Keys and values lie as [blocks, R, kv heads, 64, width] a layer. ``length_R`` counts the tokens whose
    keys are stored; `advance` is called once a step, after every layer has written.
    """

    def __init__(self, num_rows: int, device: torch.device | str):
        super().__init__(layers=[])
        self.length_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.num_blocks = 1
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    # -- rows ---------------------------------------------------------------------------------------------

    def put(self, rows: list[int], prefix: dict[int, tuple[Tensor, Tensor]], length: int) -> None:
        """Start `rows` from a prompt's keys and values; whatever the slots held is gone."""
        index = torch.tensor(rows, device=self.length_R.device)
        needed = max(1, -(-length // BLOCK))
        for layer, (key, value) in prefix.items():
            for store, new in ((self.keys, key), (self.values, value)):
                store[layer] = self._with_blocks(store.get(layer), needed, new)
                store[layer][:, index] = 0
                blocks = torch.nn.functional.pad(new[:, :length], (0, 0, 0, needed * BLOCK - length))
                blocks = blocks.view(new.shape[0], needed, BLOCK, new.shape[2]).transpose(0, 1)
                store[layer][:needed, index] = blocks[:, None]
        self.length_R[index] = length

    def clear(self, rows: list[int]) -> None:
        """Empty `rows`; they go on as filler that attends to itself alone."""
        index = torch.tensor(rows, device=self.length_R.device)
        for store in (self.keys, self.values):
            for layer in store:
                store[layer][:, index] = 0
        self.length_R[index] = 0

    def select(self, rows: list[int]) -> None:
        """Keep `rows` alone, in that order."""
        index = torch.tensor(rows, device=self.length_R.device)
        self.length_R = self.length_R[index]
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer][:, index].contiguous()

    def advance(self) -> None:
        self.length_R = self.length_R + 1

    def reserve(self, longest: int) -> None:
        """Make room for rows of `longest` tokens; called before a step with the longest row's new length."""
        self.num_blocks = max(1, -(-longest // BLOCK))

    def _with_blocks(self, tensor: Tensor | None, needed: int, like: Tensor) -> Tensor:
        rows, heads, width = len(self.length_R), like.shape[0], like.shape[-1]
        have = 0 if tensor is None else tensor.shape[0]
        if have >= needed:
            return tensor
        grown = like.new_zeros((max(needed, have + have // 2), rows, heads, BLOCK, width))
        if tensor is not None:
            grown[:have] = tensor
        return grown

    # -- what transformers calls --------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [R, kv heads, 1, width] at each row's length; return the blocks in use."""
        block_R, offset_R = self.length_R // BLOCK, self.length_R % BLOCK
        row_R = torch.arange(len(self.length_R), device=key.device)
        for store, new in ((self.keys, key), (self.values, value)):
            store[layer_idx] = self._with_blocks(store.get(layer_idx), self.num_blocks, new[0])
            store[layer_idx][block_R, row_R, :, offset_R] = new[:, :, 0]
        return self.keys[layer_idx][:self.num_blocks], self.values[layer_idx][:self.num_blocks]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None,
               softcap: float | None, layer: int) -> Tensor:
        """One query a row against its own stored keys: [R, heads, 1, width] -> [R, 1, heads, width]."""
        rows, heads, _, width = query.shape
        kv_heads = key.shape[2]
        grouped = query.reshape(rows, kv_heads, heads // kv_heads, width)
        scores = grouped @ key.transpose(-1, -2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~self._seen(key.shape[0], window)[:, :, None, None], float("-inf"))
        top = scores.amax((0, -1))[None, ..., None]
        weights = (scores - top).exp()
        total = sum_blocks(weights.sum(-1, keepdim=True))
        mixed = sum_blocks((weights.to(value.dtype) @ value).to(weights.dtype))
        return (mixed / total).to(query.dtype).reshape(rows, 1, heads, width)

    def _seen(self, num_blocks: int, window: int | None) -> Tensor:
        """Which stored positions each row's query may read: [blocks, R, 64]; the new token included."""
        at = torch.arange(num_blocks * BLOCK, device=self.length_R.device).view(num_blocks, 1, BLOCK)
        last = self.length_R[None, :, None]
        seen = at <= last
        return seen if window is None else seen & (at > last - window)


def sum_blocks(x: Tensor) -> Tensor:
    """The sum over the first dimension in a fixed order: any number of zero blocks behind changes no bit."""
    while x.shape[0] > FAN:
        x = torch.nn.functional.pad(x, (0, 0) * (x.dim() - 1) + (0, -x.shape[0] % FAN))
        x = _sequential(x.view(-1, FAN, *x.shape[1:]).transpose(0, 1))
    return _sequential(x)


def _sequential(x: Tensor) -> Tensor:
    total = x[0]
    for part in x[1:]:
        total = total + part
    return total
