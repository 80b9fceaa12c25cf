"""Triton kernels of one decoding step's attention; `grpo.kernels.decode_attention.dispatch` states what they compute.

One launch does all the reading. A program walks the pages of one split of a prompt for a block of its rows and
one kv head, the rows' queries stacked so that tensor cores take them; or the pages of one split of one row's
own tokens. A split's extent follows from the length it belongs to alone, never from the batch, and a second
launch merges each row's splits in fp32 in a fixed order: a row's bits do not depend on its neighbours.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.backend import interpreting
from grpo.kernels.decode_attention.dispatch import PAGE, PageTables

MIN_PAGES = (
    4  # of a split: 256 tokens, whose fp32 partial result is a few per cent of the bytes it read
)
MAX_SPLITS = 16
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _split_pages(pages, MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """How many pages one split of `pages` has."""
    return tl.maximum(MIN_PAGES, (pages + MAX_SPLITS - 1) // MAX_SPLITS)


@triton.jit
def _walk(
    query,
    keys,
    values,
    table,
    first,
    last,
    limit,
    low_M,
    scale,
    softcap,
    stride_page,
    WIDTH: tl.constexpr,
    M: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """(weighted values, top score, total weight) of queries [M, BLOCK_W] over pages ``first..last`` of `table`.

    Key i of the table exists if it is below `limit`; query m reads it from low_M[m] on, and none if that is -1.
    """
    at_W = tl.arange(0, BLOCK_W)
    mixed = tl.zeros([M, BLOCK_W], tl.float32)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    for number in range(first, last):
        page = tl.load(table + number).to(tl.int64)
        at_N = number * PAGE + tl.arange(0, PAGE)
        exists = (at_N < limit)[:, None] & (at_W < WIDTH)[None, :]
        place = page * stride_page + (tl.arange(0, PAGE) * WIDTH)[:, None] + at_W[None, :]
        key = tl.load(keys + place, mask=exists, other=0.0)
        if WIDE:
            scores = tl.dot(
                query.to(tl.float32), tl.trans(key.to(tl.float32)), input_precision="ieee"
            )
        else:
            scores = tl.dot(query, tl.trans(key), input_precision="tf32x3")
        if SOFTCAP:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores * (scale / softcap)) - 1.0) * LOG2E
        else:
            scores = scores * (scale * LOG2E)
        seen = (at_N < limit)[None, :] & (low_M > -1)[:, None]
        if WINDOWED:
            seen = seen & (at_N[None, :] >= low_M[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        pivot = tl.where(
            higher == float("-inf"), 0.0, higher
        )  # nothing seen yet: no -inf less -inf
        weights = tl.exp2(scores - pivot[:, None])
        fade = tl.exp2(top - pivot)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(values + place, mask=exists, other=0.0)
        mixed = mixed * fade[:, None]
        if WIDE:
            rounded = weights.to(value.dtype).to(tl.float32)
            mixed += tl.dot(rounded, value.to(tl.float32), input_precision="ieee")
        else:
            mixed = tl.dot(weights.to(value.dtype), value, acc=mixed, input_precision="tf32x3")
        top = higher
    return mixed, top, total


@triton.jit
def _keep(
    mixed,
    top,
    total,
    row_M,
    head_M,
    live_M,
    split,
    heads,
    splits,
    part,
    part_top,
    part_total,
    WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    at_W = tl.arange(0, BLOCK_W)
    place_M = ((row_M * heads + head_M) * splits + split).to(tl.int64)
    tl.store(part_top + place_M, top, mask=live_M)
    tl.store(part_total + place_M, total, mask=live_M)
    tl.store(
        part + place_M[:, None] * WIDTH + at_W[None, :],
        mixed,
        mask=live_M[:, None] & (at_W < WIDTH)[None, :],
    )


@triton.jit(do_not_specialize=["window", "num_blocks", "prefix_splits", "own_splits", "own_pages"])
def attend_kernel(
    query,
    keys,
    values,
    page_RN,
    seen_R,
    prompt_R,
    prefix_PN,
    prefix_length_P,
    block_BG,
    part,
    part_top,
    part_total,
    scale,
    softcap,
    window,
    num_blocks,
    prefix_splits,
    own_splits,
    own_pages,
    stride_query,
    stride_query_head,
    stride_page,
    stride_head,
    stride_row,
    stride_prefix,
    heads,
    REPEATS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    M: tl.constexpr,
    PARTS: tl.constexpr,
    M_OWN: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PAGE: tl.constexpr,
    MIN_PAGES: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WIDE: tl.constexpr,
):
    program, kv_head = tl.program_id(0), tl.program_id(1)
    keys += kv_head * stride_head
    values += kv_head * stride_head
    at_W = tl.arange(0, BLOCK_W)
    splits = prefix_splits + own_splits
    if program < num_blocks * PARTS * prefix_splits:
        split, part_number = program % prefix_splits, program // prefix_splits % PARTS
        block = program // prefix_splits // PARTS
        leader = tl.load(block_BG + block * GROUP)
        if leader >= 0:
            prompt = tl.load(prompt_R + leader)
            length = tl.load(prefix_length_P + prompt)
            pages = (length + PAGE - 1) // PAGE
            size = _split_pages(pages, MIN_PAGES, MAX_SPLITS)
            first, last = split * size, tl.minimum(split * size + size, pages)
            if first < last:
                at_M = part_number * M + tl.arange(0, M)
                row_M = tl.load(
                    block_BG + block * GROUP + at_M // REPEATS,
                    mask=at_M < GROUP * REPEATS,
                    other=-1,
                )
                live_M = row_M >= 0
                head_M = kv_head * REPEATS + at_M % REPEATS
                seen_M = tl.load(seen_R + row_M, mask=live_M, other=0)
                low_M = tl.where(seen_M > 0, 0, -1)
                if WINDOWED:
                    low_M = tl.where(seen_M > 0, tl.maximum(length + seen_M - window, 0), -1)
                    lowest = tl.min(tl.where(seen_M > 0, low_M, length))
                    first = tl.maximum(first, lowest // PAGE)
                place = (
                    row_M[:, None] * stride_query
                    + head_M[:, None] * stride_query_head
                    + at_W[None, :]
                )
                q = tl.load(
                    query + place, mask=live_M[:, None] & (at_W < WIDTH)[None, :], other=0.0
                )
                mixed, top, total = _walk(
                    q,
                    keys,
                    values,
                    prefix_PN + prompt * stride_prefix,
                    first,
                    last,
                    length,
                    low_M,
                    scale,
                    softcap,
                    stride_page,
                    WIDTH,
                    M,
                    BLOCK_W,
                    PAGE,
                    WINDOWED,
                    SOFTCAP,
                    WIDE,
                )
                _keep(
                    mixed,
                    top,
                    total,
                    row_M,
                    head_M,
                    live_M,
                    split,
                    heads,
                    splits,
                    part,
                    part_top,
                    part_total,
                    WIDTH,
                    BLOCK_W,
                )
    else:
        row = (program - num_blocks * PARTS * prefix_splits) // own_splits
        split = (program - num_blocks * PARTS * prefix_splits) % own_splits
        seen = tl.minimum(tl.load(seen_R + row), own_pages * PAGE)
        pages = (seen + PAGE - 1) // PAGE
        size = _split_pages(pages, MIN_PAGES, MAX_SPLITS)
        first, last = split * size, tl.minimum(split * size + size, pages)
        if first < last:
            at_M = tl.arange(0, M_OWN)
            live_M = at_M < REPEATS
            head_M = kv_head * REPEATS + at_M
            low_M = tl.where(live_M, 0, -1)
            if WINDOWED:
                low = tl.maximum(seen - window, 0)
                low_M = tl.where(live_M, low, -1)
                first = tl.maximum(first, low // PAGE)
            place = row * stride_query + head_M[:, None] * stride_query_head + at_W[None, :]
            q = tl.load(query + place, mask=live_M[:, None] & (at_W < WIDTH)[None, :], other=0.0)
            mixed, top, total = _walk(
                q,
                keys,
                values,
                page_RN + row * stride_row,
                first,
                last,
                seen,
                low_M,
                scale,
                softcap,
                stride_page,
                WIDTH,
                M_OWN,
                BLOCK_W,
                PAGE,
                WINDOWED,
                SOFTCAP,
                WIDE,
            )
            _keep(
                mixed,
                top,
                total,
                row + at_M * 0,
                head_M,
                live_M,
                prefix_splits + split,
                heads,
                splits,
                part,
                part_top,
                part_total,
                WIDTH,
                BLOCK_W,
            )


@triton.jit(do_not_specialize=["prefix_splits", "own_splits", "own_pages"])
def merge_kernel(
    part,
    part_top,
    part_total,
    output,
    seen_R,
    prompt_R,
    prefix_length_P,
    prefix_splits,
    own_splits,
    own_pages,
    heads,
    WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PAGE: tl.constexpr,
    MIN_PAGES: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    seen, prompt = tl.load(seen_R + row), tl.load(prompt_R + row)
    prefix_pages = (tl.load(prefix_length_P + prompt, mask=prompt >= 0, other=0) + PAGE - 1) // PAGE
    pages = (tl.minimum(seen, own_pages * PAGE) + PAGE - 1) // PAGE
    at_S = tl.arange(
        0, 2 * MAX_SPLITS
    )  # the prompt's splits, then the row's own: always this many, so one order
    own = at_S >= MAX_SPLITS
    pages_S = tl.where(own, pages, tl.where(seen > 0, prefix_pages, 0))
    number_S = tl.where(own, at_S - MAX_SPLITS, at_S)
    used_S = number_S * _split_pages(pages_S, MIN_PAGES, MAX_SPLITS) < pages_S
    splits = prefix_splits + own_splits
    place_S = (row * heads + head).to(tl.int64) * splits + tl.where(
        own, prefix_splits + number_S, number_S
    )
    top_S = tl.load(part_top + place_S, mask=used_S, other=float("-inf"))
    total_S = tl.load(part_total + place_S, mask=used_S, other=0.0)
    highest = tl.max(top_S, 0)
    share_S = tl.exp2(top_S - tl.where(highest == float("-inf"), 0.0, highest))
    at_W = tl.arange(0, BLOCK_W)
    mixed = tl.load(
        part + place_S[:, None] * WIDTH + at_W[None, :],
        mask=used_S[:, None] & (at_W < WIDTH)[None, :],
        other=0.0,
    )
    result = tl.sum(mixed * share_S[:, None], 0) / tl.sum(total_S * share_S, 0)
    result = tl.where(seen > 0, result, 0.0)
    place = (row * heads + head).to(tl.int64) * WIDTH + at_W
    tl.store(output + place, result.to(output.dtype.element_ty), mask=at_W < WIDTH)


@triton.jit(do_not_specialize=["pages"])
def write_kernel(
    key,
    value,
    keys,
    values,
    page_RN,
    seen_R,
    pages,
    stride_key,
    stride_key_head,
    stride_value,
    stride_value_head,
    stride_page,
    stride_row,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
):
    row = tl.program_id(0)
    at = tl.load(seen_R + row) - 1
    if (at >= 0) & (at < pages * PAGE):
        page = tl.load(page_RN + row * stride_row + at // PAGE).to(tl.int64)
        if page >= 0:
            at_E = tl.arange(0, BLOCK)
            head_E, width_E = at_E // WIDTH, at_E % WIDTH
            place_E = page * stride_page + head_E * (PAGE * WIDTH) + (at % PAGE) * WIDTH + width_E
            real = at_E < HEADS * WIDTH
            new = tl.load(key + row * stride_key + head_E * stride_key_head + width_E, mask=real)
            tl.store(keys + place_E, new, mask=real)
            new = tl.load(
                value + row * stride_value + head_E * stride_value_head + width_E, mask=real
            )
            tl.store(values + place_E, new, mask=real)


def num_splits(pages: int) -> int:
    """The most splits that any length of up to `pages` pages is divided into."""
    return min(MAX_SPLITS, -(-pages // MIN_PAGES))


def constants(
    repeats: int, group: int, width: int, element_size: int, *, windowed: bool, softcapped: bool
) -> dict[str, int | bool]:
    """The compile-time arguments of `attend_kernel`."""
    block_w = max(16, triton.next_power_of_2(width))
    row_bytes, half = block_w * element_size, element_size < 4
    most = 64 if half and row_bytes <= 256 else 32 if half or row_bytes <= 256 else 16
    m = min(most, max(16, triton.next_power_of_2(group * repeats)))
    return {
        "REPEATS": repeats,
        "GROUP": group,
        "WIDTH": width,
        "M": m,
        "PARTS": -(-group * repeats // m),
        "M_OWN": max(16, triton.next_power_of_2(repeats)),
        "BLOCK_W": block_w,
        "PAGE": PAGE,
        "MIN_PAGES": MIN_PAGES,
        "MAX_SPLITS": MAX_SPLITS,
        "WINDOWED": windowed,
        "SOFTCAP": softcapped,
        "WIDE": interpreting(),
    }


def launch_options(width: int, element_size: int, capability: int) -> dict[str, int]:
    """Warps and pipeline depth: what fits in registers and shared memory of compute capability 80, 90, ..."""
    row_bytes, half = triton.next_power_of_2(width) * element_size, element_size < 4
    if half and row_bytes <= 256:
        warps = 8 if row_bytes == 256 and capability < 90 else 4
        return {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}
    return {
        "num_warps": 8,
        "num_stages": 2 if half or row_bytes <= 256 else 1,
        "enable_fp_fusion": True,
    }


@functools.cache
def capability_of(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return 10 * major + minor


def attend(
    query_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: PageTables,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`grpo.kernels.decode_attention.dispatch.attend` by the kernels of this file; fp32, fp16 or bf16."""
    rows, heads, width = query_RHW.shape
    kv_heads, group = keys.shape[1], tables.block_BG.shape[1]
    query_RHW = query_RHW if query_RHW.stride(-1) == 1 else query_RHW.contiguous()
    prefix_splits, own_splits = (
        num_splits(tables.prefix_PN.shape[1]),
        num_splits(tables.page_RN.shape[1]),
    )
    parts = query_RHW.new_empty(
        (rows, heads, prefix_splits + own_splits, width), dtype=torch.float32
    )
    tops, totals = parts.new_empty((2, *parts.shape[:3]))
    fixed = constants(
        heads // kv_heads,
        group,
        width,
        keys.element_size(),
        windowed=window is not None,
        softcapped=softcap is not None,
    )
    grid = (tables.num_blocks * fixed["PARTS"] * prefix_splits + rows * own_splits, kv_heads)
    attend_kernel[grid](
        query_RHW,
        keys,
        values,
        tables.page_RN,
        tables.seen_R,
        tables.prompt_R,
        tables.prefix_PN,
        tables.prefix_length_P,
        tables.block_BG,
        parts,
        tops,
        totals,
        float(scaling),
        float(softcap or 0.0),
        int(window or 0),
        tables.num_blocks,
        prefix_splits,
        own_splits,
        tables.page_RN.shape[1],
        query_RHW.stride(0),
        query_RHW.stride(1),
        keys.stride(0),
        keys.stride(1),
        tables.page_RN.stride(0),
        tables.prefix_PN.stride(0),
        heads,
        **fixed,
        **launch_options(width, keys.element_size(), capability_of(keys.device)),
    )
    output = torch.empty_like(query_RHW, memory_format=torch.contiguous_format)
    merge_kernel[(rows, heads)](
        parts,
        tops,
        totals,
        output,
        tables.seen_R,
        tables.prompt_R,
        tables.prefix_length_P,
        prefix_splits,
        own_splits,
        tables.page_RN.shape[1],
        heads,
        WIDTH=width,
        BLOCK_W=fixed["BLOCK_W"],
        PAGE=PAGE,
        MIN_PAGES=MIN_PAGES,
        MAX_SPLITS=MAX_SPLITS,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return output


def write(
    key_RHW: Tensor,
    value_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    page_RN: Tensor,
    seen_R: Tensor,
) -> None:
    """`grpo.kernels.decode_attention.dispatch.write` in one launch for keys and values."""
    rows, heads, width = key_RHW.shape
    key_RHW, value_RHW = (x if x.stride(-1) == 1 else x.contiguous() for x in (key_RHW, value_RHW))
    write_kernel[(rows,)](
        key_RHW,
        value_RHW,
        keys,
        values,
        page_RN,
        seen_R,
        page_RN.shape[1],
        key_RHW.stride(0),
        key_RHW.stride(1),
        value_RHW.stride(0),
        value_RHW.stride(1),
        keys.stride(0),
        page_RN.stride(0),
        HEADS=heads,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(heads * width),
        PAGE=PAGE,
        num_warps=4,
        enable_fp_fusion=True,
    )
