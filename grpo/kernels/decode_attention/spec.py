"""The page tables of decode attention and the constants that its callers and kernels share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

PAGE = 64  # tokens a page


@dataclass(frozen=True, slots=True, eq=False)
class PageTables:
    """Which pages each row reads; int32 tensors on the pool's device, whose shapes a CUDA graph can keep.

    ``page_RN`` [rows, pages a row] are the pages of a row's own tokens, -1 for none. ``seen_R`` counts the own tokens
    that its query reads, itself included; 0 marks a row without work, whose output is 0. ``prompt_R`` is the row's
    prompt, an index into ``prefix_PN`` [prompts, pages a prompt] and ``prefix_length_P``. ``block_BG`` [blocks, rows a
    block] lists rows of one prompt that are computed together, -1 for none; every row with ``seen_R > 0`` whose
    prompt has a prefix is in exactly one. ``num_blocks`` bounds the blocks in use.
    """

    page_RN: Tensor
    seen_R: Tensor
    prompt_R: Tensor
    prefix_PN: Tensor
    prefix_length_P: Tensor
    block_BG: Tensor
    num_blocks: int
