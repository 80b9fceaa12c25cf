"""Keys and values of groups being decoded: pages of 64 tokens from one pool, each prompt stored once.

A row is a page table: admitting a group, compaction and freeing edit tables and copy no keys. All tensors that a
decoding step reads keep their addresses and shapes, so that a CUDA graph can hold the step. The attention itself is in
``grpo.kernels.decode_attention``; when rows come and go is up to the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from grpo.kernels.decode_attention.dispatch import attend, write
from grpo.kernels.decode_attention.spec import PAGE, PageTables
from grpo.rollout.prefill import KeyValue, Prefix
from rewards.spelling import agree, many


class PoolExhausted(RuntimeError):
    """The pool, or a table, has no room for what was asked for; nothing was changed."""


@dataclass(slots=True)
class _Prompt:
    pages: list[int]
    length: int
    holders: int = 1


@dataclass(slots=True)
class PageRow:
    """The pages behind a prompt; ``seen`` counts their tokens, and the next."""

    prompt: int
    pages: list[int] = field(default_factory=list)
    seen: int = 1


class PagedCache(Cache):
    """Pages, page tables and lengths of up to `max_rows` rows, and the layout through which they attend.

    The first `num_rows` of them are computed; `select` and `resize` change that number. Each layer's pool,
    [num_pages, kv heads, 64, width], is made with the first prompt (or token) stored. `max_prefix` and `max_tokens`
    bound a prompt's and a completion's tokens. `rows_per_block` is how many rows of one prompt read its keys together;
    64 // (heads / kv heads) fills the tensor cores.

    The order of a step: `reserve`, the model's forward at `position_R` (which calls `update` and `attend` in
    every layer), `advance`. In a CUDA graph `advance_device` is captured, and `advance_host` follows replays.
    """

    def __init__(
        self,
        max_rows: int,
        num_pages: int,
        device: torch.device | str,
        *,
        max_prefix: int,
        max_tokens: int,
        max_prompts: int | None = None,
        rows_per_block: int = 8,
    ):
        super().__init__(layers=[])
        self.max_rows = self.num_rows = max_rows
        self.num_pages = num_pages
        self.max_tokens = max_tokens
        self.rows_per_block = rows_per_block
        self.max_prompts = max_prompts or max_rows
        self.device = torch.device(device)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._free = list(range(num_pages - 1, -1, -1))
        self._rows: list[PageRow | None] = [None] * max_rows
        self._prompts: dict[int, _Prompt] = {}
        self._page_RN = _Table((max_rows, max(1, -(-max_tokens // PAGE))), self.device)
        self._prefix_PN = _Table((self.max_prompts, max(1, -(-max_prefix // PAGE))), self.device)
        self._prefix_length_P = _Table((self.max_prompts,), self.device, empty=0)
        self._prompt_R = _Table((max_rows,), self.device)
        self._block_BG = _Table((max_rows, rows_per_block), self.device)
        self._live_R = _Table((max_rows,), self.device, empty=0)
        self._seen_R = torch.zeros(max_rows, dtype=torch.int32, device=self.device)
        self._num_blocks = 0
        self._tables: PageTables | None = None

    # -- prompts ------------------------------------------------------------------------------------------

    def store(self, prefix: Prefix, length: int) -> int:
        """Copy a prompt's first `length` keys and values into pages.

        Returns the prompt's number, for `admit`; its pages are kept until `release` and the `clear` of its last row.
        Raises PoolExhausted.
        """
        needed = pages_for(length)
        most_pages = self._prefix_PN.host.shape[1]
        if needed > most_pages:
            raise PoolExhausted(
                f"a prompt of {many(length, 'token')}; the tables have room for {most_pages * PAGE}"
            )
        number = next((i for i in range(self.max_prompts) if i not in self._prompts), None)
        if number is None:
            raise PoolExhausted(
                f"{many(self.max_prompts, 'prompt')} {agree(self.max_prompts, 'are')} stored already"
            )
        pages = self._take(needed)
        self._prompts[number] = _Prompt(pages, length)
        self._prefix_PN.put(number, pages)
        self._prefix_length_P.host[number] = length
        self._prefix_length_P.stale = True
        for layer, (key, value) in prefix.items():
            self._make_pool(layer, key)
            _fill_pages(self.keys[layer], key[:, :length], pages)
            _fill_pages(self.values[layer], value[:, :length], pages)
        return number

    def release(self, prompt: int) -> None:
        """Give up `store`'s hold on a prompt; it is kept while rows read it."""
        stored = self._prompts[prompt]
        stored.holders -= 1
        if not stored.holders:
            self._free += stored.pages
            del self._prompts[prompt]

    # -- rows ---------------------------------------------------------------------------------------------

    def admit(self, rows: Sequence[int], prompt: int) -> None:
        """Start free `rows` at the end of a stored prompt; no key is copied."""
        for row in rows:
            assert self._rows[row] is None, "a row is cleared before it starts again"
            self._rows[row] = PageRow(prompt)
            self._prompts[prompt].holders += 1
            self._prompt_R.host[row] = prompt
            self._live_R.host[row] = 1
        self._seen_R[self._index(rows)] = 1
        self._rows_changed()

    def put(self, rows: Sequence[int], prefix: Prefix, length: int) -> None:
        """Store a prompt for `rows` alone, whatever they held before."""
        self.clear(rows)
        prompt = self.store(prefix, length)
        self.admit(rows, prompt)
        self.release(prompt)

    def clear(self, rows: Sequence[int]) -> None:
        """Free `rows`: they are no work any more, and their output is 0."""
        for row in rows:
            live = self._rows[row]
            self._rows[row] = None
            if live is not None:
                self._free += live.pages
                self.release(live.prompt)
            self._page_RN.put(row, [])
            self._prompt_R.host[row] = -1
            self._live_R.host[row] = 0
        self._seen_R[self._index(rows)] = 0
        self._rows_changed()

    def detach(self, row: int, num_tokens: int) -> PageRow:
        """Free a row and keep its prompt and the pages of its first `num_tokens` tokens, for `attach` or `forget`."""
        detached = self._rows[row]
        assert detached is not None, "a row is live until it is cleared or detached"
        self._rows[row] = None
        detached.seen = num_tokens + 1
        self._free += detached.pages[pages_for(num_tokens) :]
        del detached.pages[pages_for(num_tokens) :]
        self.clear([row])
        return detached

    def attach(self, row: int, detached: PageRow) -> None:
        """Go on in a free row; no key is copied."""
        assert self._rows[row] is None, "a row is cleared before it starts again"
        self._rows[row] = detached
        self._page_RN.put(row, detached.pages)
        self._prompt_R.host[row] = detached.prompt
        self._live_R.host[row] = 1
        self._seen_R[row] = detached.seen
        self._rows_changed()

    def forget(self, detached: PageRow) -> None:
        """Free the pages of a row that does not go on."""
        self._free += detached.pages
        self.release(detached.prompt)

    def held(self, row: int) -> list[Prefix]:
        """Copies of the keys and values of a row, which is between two steps: its prompt's, and its own."""
        live = self._rows[row]
        assert live is not None, "a free row holds nothing"
        prompt = self._prompts[live.prompt]
        return [self._read(prompt.pages, prompt.length), self._read(live.pages, live.seen - 1)]

    def extend(self, row: int, new: Prefix, length: int) -> None:
        """Store `length` more tokens of a row that is between two steps. Raises PoolExhausted."""
        live = self._rows[row]
        assert live is not None, "a free row holds nothing"
        start = live.seen - 1
        live.pages += self._take(max(0, pages_for(start + length) - len(live.pages)))
        for layer, (key, value) in new.items():
            self._make_pool(layer, key)
            _write_behind(self.keys[layer], key[:, :length], live.pages, start)
            _write_behind(self.values[layer], value[:, :length], live.pages, start)
        live.seen = start + length + 1
        self._page_RN.put(row, live.pages)
        self._seen_R[row] = live.seen

    def _read(self, pages: Sequence[int], length: int) -> Prefix:
        """[kv heads, length, width] of each layer."""
        if not length:
            return {}
        index = self._index(pages[: pages_for(length)])
        prefix: dict[int, KeyValue] = {}
        for layer, keys in self.keys.items():
            both = [
                pool[index].transpose(0, 1).flatten(1, 2) for pool in (keys, self.values[layer])
            ]
            prefix[layer] = (both[0][:, :length], both[1][:, :length])
        return prefix

    def select(self, rows: Sequence[int], num_rows: int | None = None) -> None:
        """Move `rows` to the front, in that order, free all others, and compute `num_rows` from now on."""
        selected = set(rows)
        rest = [row for row in range(self.max_rows) if row not in selected]
        self.clear(rest)
        order = torch.tensor([*rows, *rest])
        self._rows = [self._rows[row] for row in order.tolist()]
        for table in (self._page_RN, self._prompt_R, self._live_R):
            table.reorder(order)
        self._seen_R.copy_(self._seen_R[order.to(self.device)])
        self.resize(len(rows) if num_rows is None else num_rows)
        self._rows_changed()

    def resize(self, num_rows: int) -> None:
        """Compute the first `num_rows` rows; those behind must be free."""
        assert num_rows <= self.max_rows and not any(self._rows[num_rows:]), (
            "a live row would be cut off"
        )
        self.num_rows = num_rows
        self._tables = None

    def reserve(self, steps: int = 1) -> None:
        """Give every live row pages for `steps` more tokens, and bring the tables to the device.

        Raises PoolExhausted, with nothing changed, if the pool has too few; `clear` rows and try again.
        """
        wanted = self.pages_wanted(steps)
        if wanted > len(self._free):
            raise PoolExhausted(
                f"{wanted} pages are needed for {steps} more tokens a row; {len(self._free)} of "
                f"{self.num_pages} are free"
            )
        for number, row in enumerate(self._rows):
            if row is not None and (missing := self._missing(row, steps)):
                row.pages += self._take(missing)
                self._page_RN.put(number, row.pages)
        self._publish()

    def pages_wanted(self, steps: int = 1) -> int:
        """How many free pages `reserve(steps)` would take."""
        return sum(self._missing(row, steps) for row in self._rows if row is not None)

    def advance(self) -> None:
        """A step is done: every live row's token is stored, and the next one follows it."""
        self.advance_device()
        self.advance_host()

    def advance_device(self, moving_R: Tensor | None = None) -> None:
        """The device's half of `advance`, for rows (of `num_rows`) where `moving_R` is true."""
        step_R = self._live_R.device[: self.num_rows]
        self._seen_R[: self.num_rows] += step_R if moving_R is None else step_R * moving_R

    def advance_host(self, steps: int = 1) -> None:
        """The host's half of `advance`: an upper bound, from which `reserve` counts, for rows that did not move."""
        for row in self._rows:
            if row is not None:
                assert not self._missing(row, steps), (
                    "pages are reserved before the step that fills them"
                )
                row.seen = min(row.seen + steps, self.max_tokens + 1)

    # -- what the decoder reads ---------------------------------------------------------------------------

    @property
    def position_R(self) -> Tensor:
        """The position in the model's context of each row's next token, after `reserve`; 0 for free rows."""
        assert not self._stale, "tables are brought to the device by `reserve`"
        prompt_R = self._prompt_R.device[: self.num_rows].long().clamp_min(0)
        position_R = self._prefix_length_P.device[prompt_R] + self._seen_R[: self.num_rows] - 1
        return torch.where(self._seen_R[: self.num_rows] > 0, position_R, 0).long()

    length_R = position_R

    @property
    def free_pages(self) -> int:
        return len(self._free)

    @property
    def free_prompts(self) -> int:
        """How many more prompts can be stored."""
        return self.max_prompts - len(self._prompts)

    @property
    def live_rows(self) -> list[int]:
        return [number for number, row in enumerate(self._rows) if row is not None]

    @property
    def signature(self) -> tuple[int, ...]:
        """What a captured step depends on besides addresses: rows, blocks, pages in use (powers of two)."""
        own_pages = max((len(row.pages) for row in self._rows if row is not None), default=1)
        prefix_pages = max((len(prompt.pages) for prompt in self._prompts.values()), default=1)
        return (
            self.num_rows,
            _next_power(self._num_blocks),
            _next_power(prefix_pages),
            _next_power(own_pages),
        )

    def addresses(self) -> list[int]:
        """Addresses of every tensor that a captured step reads or writes."""
        tables = [table.device for table in self._all_tables]
        return [
            x.data_ptr()
            for x in (self._seen_R, *tables, *self.keys.values(), *self.values.values())
        ]

    # -- what transformers calls --------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        """Store the new keys and values [R, kv heads, 1, width] of live rows; return the layer's pools."""
        self._make_pool(layer_idx, key_states[0])
        keys = self.keys[layer_idx]
        values = self.values[layer_idx]
        write(
            key_states[:, :, 0],
            value_states[:, :, 0],
            keys,
            values,
            page_RN=self._page_RN.device[: self.num_rows],
            seen_R=self._seen_R[: self.num_rows],
        )
        return keys, values

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
        """One query a row over prompt and own keys: [R, heads, 1, width] -> [R, 1, heads, width]."""
        out = attend(
            query[:, :, 0],
            key,
            value,
            self.tables(),
            scaling=scaling,
            window=window,
            softcap=softcap,
        )
        return out[:, None]

    def tables(self) -> PageTables:
        """The tables of the rows being computed, cut to the pages in use (see `signature`)."""
        if self._tables is None:
            assert not self._stale, "tables are brought to the device by `reserve`"
            rows, blocks, prefix_pages, own_pages = self.signature
            self._tables = PageTables(
                page_RN=self._page_RN.device[:rows, :own_pages],
                seen_R=self._seen_R[:rows],
                prompt_R=self._prompt_R.device[:rows],
                prefix_PN=self._prefix_PN.device[:, :prefix_pages],
                prefix_length_P=self._prefix_length_P.device,
                block_BG=self._block_BG.device,
                num_blocks=min(blocks, self.max_rows),
            )
        return self._tables

    # -- inside -------------------------------------------------------------------------------------------

    def _take(self, number: int) -> list[int]:
        if number > len(self._free):
            raise PoolExhausted(
                f"{number} pages are needed; {len(self._free)} of {self.num_pages} are free"
            )
        return [self._free.pop() for _ in range(number)]

    def _missing(self, row: PageRow, steps: int) -> int:
        tokens = min(row.seen - 1 + steps, self.max_tokens)
        return max(0, pages_for(tokens) - len(row.pages))

    def _make_pool(self, layer: int, like: Tensor) -> None:
        """`like` is [kv heads, tokens, width]. What a page contains before it is written is never read."""
        if layer not in self.keys:
            shape = (self.num_pages, like.shape[0], PAGE, like.shape[-1])
            self.keys[layer] = like.new_empty(shape)
            self.values[layer] = like.new_empty(shape)

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(list(rows), dtype=torch.long, device=self.device)

    def _rows_changed(self) -> None:
        """Arrange the rows of each prompt in blocks."""
        members: dict[int, list[int]] = {}
        for number, row in enumerate(self._rows):
            if row is not None and self._prompts[row.prompt].length:
                members.setdefault(row.prompt, []).append(number)
        size = self.rows_per_block
        blocks: list[list[int]] = []
        for rows in members.values():
            blocks += [rows[i : i + size] for i in range(0, len(rows), size)]
        for number in range(max(len(blocks), self._num_blocks)):
            self._block_BG.put(number, blocks[number] if number < len(blocks) else [])
        self._num_blocks = len(blocks)
        self._tables = None
        for table in (self._prompt_R, self._live_R):
            table.stale = True

    @property
    def _all_tables(self) -> tuple[_Table, ...]:
        return (
            self._page_RN,
            self._prefix_PN,
            self._prefix_length_P,
            self._prompt_R,
            self._block_BG,
            self._live_R,
        )

    @property
    def _stale(self) -> bool:
        return any(table.stale for table in self._all_tables)

    def _publish(self) -> None:
        for table in self._all_tables:
            table.publish()
        self._tables = None


class _Table:
    """An int32 table that the host edits and the device reads, at one address."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, empty: int = -1):
        self.empty = empty
        self.host = torch.full(shape, empty, dtype=torch.int32)
        self.device = self.host.to(device, copy=True)
        self.stale = False

    def put(self, row: int, values: Sequence[int]) -> None:
        self.host[row] = self.empty
        self.host[row, : len(values)] = torch.tensor(list(values), dtype=torch.int32)
        self.stale = True

    def reorder(self, order: Tensor) -> None:
        self.host = self.host[order]
        self.stale = True

    def publish(self) -> None:
        if self.stale:
            self.device.copy_(self.host)
            self.stale = False


def _fill_pages(pool: Tensor, new: Tensor, pages: Sequence[int]) -> None:
    """Copy `new`, [kv heads, tokens, width], into `pages`; the rest of the last page is left as it is."""
    for page, part in zip(pages, new.split(PAGE, dim=1)):
        pool[page, :, : part.shape[1]] = part


def _write_behind(pool: Tensor, new: Tensor, pages: Sequence[int], start: int) -> None:
    """Copy `new`, [kv heads, tokens, width], into `pages` from their token `start` on."""
    place = torch.arange(start, start + new.shape[1], device=pool.device)
    page_T = torch.tensor(list(pages), device=pool.device)[place // PAGE]
    pool[page_T, :, place % PAGE] = new.transpose(0, 1)


def pages_for(num_tokens: int) -> int:
    """The pages that hold `num_tokens` tokens."""
    return -(-num_tokens // PAGE)


def _next_power(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def page_bytes(prefix: Prefix) -> int:
    """Bytes of one page in all layers, for keys and values like `prefix`."""
    total = 0
    for key, _ in prefix.values():
        total += 2 * key.shape[0] * PAGE * key.shape[-1] * key.element_size()
    return total
