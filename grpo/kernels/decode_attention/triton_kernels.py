"""Triton kernels of one decoding step's attention; ``reference`` states what they compute.

One launch does all the reading. A program walks the pages of one split of a prompt for a block of its rows and one kv
head, the rows' queries stacked so that tensor cores take them; or the pages of one split of one row's own tokens. A
split's extent follows from the length it belongs to alone, never from the batch, and a second launch merges each row's
splits in fp32 in a fixed order: a row's bits do not depend on its neighbours.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.backend import interpreting
from grpo.kernels.decode_attention.spec import PAGE, PageTables

# Of a split: 256 tokens, whose fp32 partial result is a few per cent of the bytes that are read for it.
MIN_PAGES = 4
MAX_SPLITS = 16
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _split_pages(pages, MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """How many pages one split of `pages` has."""
    return tl.maximum(MIN_PAGES, (pages + MAX_SPLITS - 1) // MAX_SPLITS)


@triton.jit
def _split_range(
    split, length, PAGE: tl.constexpr, MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr
):
    """(first, last) pages of one split of `length` tokens; empty behind the last split."""
    pages = (length + PAGE - 1) // PAGE
    size = _split_pages(pages, MIN_PAGES, MAX_SPLITS)
    return split * size, tl.minimum(split * size + size, pages)


@triton.jit
def _scores(query, key, scale, softcap, SOFTCAP: tl.constexpr, WIDE: tl.constexpr):
    """Scores [M, PAGE] in units of log2."""
    if WIDE:
        key = tl.trans(key.to(tl.float32))
        scores = tl.dot(query.to(tl.float32), key, input_precision="ieee")
    else:
        scores = tl.dot(query, tl.trans(key), input_precision="tf32x3")
    if SOFTCAP:
        scores = softcap * (2.0 * tl.sigmoid(2.0 * scores * (scale / softcap)) - 1.0) * LOG2E
    else:
        scores = scores * (scale * LOG2E)
    return scores


@triton.jit
def _add_values(mixed, weights, value, WIDE: tl.constexpr):
    """mixed + weights @ value, the weights rounded to the values' dtype."""
    if WIDE:
        rounded = weights.to(value.dtype).to(tl.float32)
        mixed += tl.dot(rounded, value.to(tl.float32), input_precision="ieee")
    else:
        mixed = tl.dot(weights.to(value.dtype), value, acc=mixed, input_precision="tf32x3")
    return mixed


@triton.jit
def _walk(
    query, keys, values, table, first, last, limit, low_M, scale, softcap, stride_page,
    WIDTH: tl.constexpr, M: tl.constexpr, BLOCK_W: tl.constexpr, PAGE: tl.constexpr,
    WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
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
        offset = page * stride_page + (tl.arange(0, PAGE) * WIDTH)[:, None] + at_W[None, :]
        key = tl.load(keys + offset, mask=exists, other=0.0)
        scores = _scores(query, key, scale, softcap, SOFTCAP=SOFTCAP, WIDE=WIDE)
        seen = (at_N < limit)[None, :] & (low_M > -1)[:, None]
        if WINDOWED:
            seen = seen & (at_N[None, :] >= low_M[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        # where nothing is seen yet, -inf - -inf would be NaN
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - pivot[:, None])
        fade = tl.exp2(top - pivot)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(values + offset, mask=exists, other=0.0)
        mixed = mixed * fade[:, None]
        mixed = _add_values(mixed, weights, value, WIDE=WIDE)
        top = higher
    return mixed, top, total


@triton.jit
def _store_split(
    mixed, top, total, row_M, head_M, live_M, split, heads, splits, part, part_top, part_total,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Store a split's partial result for the queries that are live."""
    at_W = tl.arange(0, BLOCK_W)
    offset_M = ((row_M * heads + head_M) * splits + split).to(tl.int64)
    tl.store(part_top + offset_M, top, mask=live_M)
    tl.store(part_total + offset_M, total, mask=live_M)
    mask = live_M[:, None] & (at_W < WIDTH)[None, :]
    tl.store(part + offset_M[:, None] * WIDTH + at_W[None, :], mixed, mask=mask)


@triton.jit
def _load_queries(query, row_offset, head_M, live_M, at_W, stride_head, WIDTH: tl.constexpr):
    offset = row_offset + head_M[:, None] * stride_head + at_W[None, :]
    return tl.load(query + offset, mask=live_M[:, None] & (at_W < WIDTH)[None, :], other=0.0)


@triton.jit
def _attend_prefix(
    program, kv_head, at_W, query, keys, values, seen_R, prompt_R, prefix_PN, prefix_length_P, block_BG,
    part, part_top, part_total, scale, softcap, window, prefix_splits, splits,
    stride_query, stride_query_head, stride_page, stride_prefix, heads,
    REPEATS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_W: tl.constexpr, PAGE: tl.constexpr, MIN_PAGES: tl.constexpr,
    MAX_SPLITS: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One split of a prompt for M queries of one block of its rows."""
    split = program % prefix_splits
    part_number = program // prefix_splits % PARTS
    block = program // prefix_splits // PARTS
    leader = tl.load(block_BG + block * GROUP)
    if leader >= 0:
        prompt = tl.load(prompt_R + leader)
        length = tl.load(prefix_length_P + prompt)
        first, last = _split_range(split, length, PAGE, MIN_PAGES=MIN_PAGES, MAX_SPLITS=MAX_SPLITS)
        if first < last:
            at_M = part_number * M + tl.arange(0, M)
            in_block = at_M < GROUP * REPEATS
            row_M = tl.load(block_BG + block * GROUP + at_M // REPEATS, mask=in_block, other=-1)
            live_M = row_M >= 0
            head_M = kv_head * REPEATS + at_M % REPEATS
            seen_M = tl.load(seen_R + row_M, mask=live_M, other=0)
            low_M = tl.where(seen_M > 0, 0, -1)
            if WINDOWED:
                low_M = tl.where(seen_M > 0, tl.maximum(length + seen_M - window, 0), -1)
                lowest = tl.min(tl.where(seen_M > 0, low_M, length))
                first = tl.maximum(first, lowest // PAGE)
            q = _load_queries(
                query, row_M[:, None] * stride_query, head_M, live_M,
                at_W=at_W, stride_head=stride_query_head, WIDTH=WIDTH,
            )  # fmt: skip
            mixed, top, total = _walk(
                q, keys, values, prefix_PN + prompt * stride_prefix,
                first=first, last=last, limit=length, low_M=low_M,
                scale=scale, softcap=softcap, stride_page=stride_page,
                WIDTH=WIDTH, M=M, BLOCK_W=BLOCK_W, PAGE=PAGE,
                WINDOWED=WINDOWED, SOFTCAP=SOFTCAP, WIDE=WIDE,
            )  # fmt: skip
            _store_split(
                mixed, top, total, row_M=row_M, head_M=head_M, live_M=live_M,
                split=split, heads=heads, splits=splits,
                part=part, part_top=part_top, part_total=part_total, WIDTH=WIDTH, BLOCK_W=BLOCK_W,
            )  # fmt: skip


@triton.jit
def _attend_own(
    program, kv_head, at_W, query, keys, values, page_RN, seen_R,
    part, part_top, part_total, scale, softcap, window, prefix_splits, own_splits, own_pages,
    stride_query, stride_query_head, stride_page, stride_row, heads,
    REPEATS: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, BLOCK_W: tl.constexpr,
    PAGE: tl.constexpr, MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr,
    WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One split of one row's own tokens."""
    row = program // own_splits
    split = program % own_splits
    seen = tl.minimum(tl.load(seen_R + row), own_pages * PAGE)
    first, last = _split_range(split, seen, PAGE, MIN_PAGES=MIN_PAGES, MAX_SPLITS=MAX_SPLITS)
    if first < last:
        at_M = tl.arange(0, M)
        live_M = at_M < REPEATS
        head_M = kv_head * REPEATS + at_M
        low_M = tl.where(live_M, 0, -1)
        if WINDOWED:
            low = tl.maximum(seen - window, 0)
            low_M = tl.where(live_M, low, -1)
            first = tl.maximum(first, low // PAGE)
        q = _load_queries(
            query, row * stride_query, head_M, live_M,
            at_W=at_W, stride_head=stride_query_head, WIDTH=WIDTH,
        )  # fmt: skip
        mixed, top, total = _walk(
            q, keys, values, page_RN + row * stride_row,
            first=first, last=last, limit=seen, low_M=low_M,
            scale=scale, softcap=softcap, stride_page=stride_page,
            WIDTH=WIDTH, M=M, BLOCK_W=BLOCK_W, PAGE=PAGE,
            WINDOWED=WINDOWED, SOFTCAP=SOFTCAP, WIDE=WIDE,
        )  # fmt: skip
        _store_split(
            mixed, top, total, row_M=row + at_M * 0, head_M=head_M, live_M=live_M,
            split=prefix_splits + split, heads=heads, splits=prefix_splits + own_splits,
            part=part, part_top=part_top, part_total=part_total, WIDTH=WIDTH, BLOCK_W=BLOCK_W,
        )  # fmt: skip


@triton.jit(do_not_specialize=["window", "num_blocks", "prefix_splits", "own_splits", "own_pages"])
def attend_kernel(
    query, keys, values, page_RN, seen_R, prompt_R, prefix_PN, prefix_length_P, block_BG,
    part, part_top, part_total, scale, softcap, window,
    num_blocks, prefix_splits, own_splits, own_pages,
    stride_query, stride_query_head, stride_page, stride_head, stride_row, stride_prefix, heads,
    REPEATS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr,
    PARTS: tl.constexpr, M_OWN: tl.constexpr, BLOCK_W: tl.constexpr, PAGE: tl.constexpr,
    MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr,
    WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The first programs read prompts, one split for M queries each; the others one split of a row's own tokens."""
    program = tl.program_id(0)
    kv_head = tl.program_id(1)
    keys += kv_head * stride_head
    values += kv_head * stride_head
    at_W = tl.arange(0, BLOCK_W)  # shared: with one each, the windowed kernel spills registers
    splits = prefix_splits + own_splits
    num_prefix_programs = num_blocks * PARTS * prefix_splits
    if program < num_prefix_programs:
        _attend_prefix(
            program, kv_head, at_W, query,
            keys=keys, values=values, seen_R=seen_R, prompt_R=prompt_R, prefix_PN=prefix_PN,
            prefix_length_P=prefix_length_P, block_BG=block_BG,
            part=part, part_top=part_top, part_total=part_total,
            scale=scale, softcap=softcap, window=window,
            prefix_splits=prefix_splits, splits=splits,
            stride_query=stride_query, stride_query_head=stride_query_head,
            stride_page=stride_page, stride_prefix=stride_prefix, heads=heads,
            REPEATS=REPEATS, GROUP=GROUP, WIDTH=WIDTH, M=M, PARTS=PARTS, BLOCK_W=BLOCK_W, PAGE=PAGE,
            MIN_PAGES=MIN_PAGES, MAX_SPLITS=MAX_SPLITS,
            WINDOWED=WINDOWED, SOFTCAP=SOFTCAP, WIDE=WIDE,
        )  # fmt: skip
    else:
        _attend_own(
            program - num_prefix_programs, kv_head, at_W, query,
            keys=keys, values=values, page_RN=page_RN, seen_R=seen_R,
            part=part, part_top=part_top, part_total=part_total,
            scale=scale, softcap=softcap, window=window,
            prefix_splits=prefix_splits, own_splits=own_splits, own_pages=own_pages,
            stride_query=stride_query, stride_query_head=stride_query_head,
            stride_page=stride_page, stride_row=stride_row, heads=heads,
            REPEATS=REPEATS, WIDTH=WIDTH, M=M_OWN, BLOCK_W=BLOCK_W, PAGE=PAGE,
            MIN_PAGES=MIN_PAGES, MAX_SPLITS=MAX_SPLITS,
            WINDOWED=WINDOWED, SOFTCAP=SOFTCAP, WIDE=WIDE,
        )  # fmt: skip


@triton.jit(do_not_specialize=["prefix_splits", "own_splits", "own_pages"])
def merge_kernel(
    part, part_top, part_total, output, seen_R, prompt_R, prefix_length_P,
    prefix_splits, own_splits, own_pages, heads,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, PAGE: tl.constexpr,
    MIN_PAGES: tl.constexpr, MAX_SPLITS: tl.constexpr,
):  # fmt: skip
    """The output of one row and head from its splits, always 2 x MAX_SPLITS of them and so in one order."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    seen = tl.load(seen_R + row)
    prompt = tl.load(prompt_R + row)
    prefix_pages = (tl.load(prefix_length_P + prompt, mask=prompt >= 0, other=0) + PAGE - 1) // PAGE
    pages = (tl.minimum(seen, own_pages * PAGE) + PAGE - 1) // PAGE
    at_S = tl.arange(0, 2 * MAX_SPLITS)  # the prompt's splits, then the row's own
    own = at_S >= MAX_SPLITS
    pages_S = tl.where(own, pages, tl.where(seen > 0, prefix_pages, 0))
    number_S = tl.where(own, at_S - MAX_SPLITS, at_S)
    used_S = number_S * _split_pages(pages_S, MIN_PAGES, MAX_SPLITS) < pages_S
    splits = prefix_splits + own_splits
    split_S = tl.where(own, prefix_splits + number_S, number_S)
    offset_S = (row * heads + head).to(tl.int64) * splits + split_S
    top_S = tl.load(part_top + offset_S, mask=used_S, other=float("-inf"))
    total_S = tl.load(part_total + offset_S, mask=used_S, other=0.0)
    highest = tl.max(top_S, 0)
    share_S = tl.exp2(top_S - tl.where(highest == float("-inf"), 0.0, highest))
    at_W = tl.arange(0, BLOCK_W)
    mask = used_S[:, None] & (at_W < WIDTH)[None, :]
    mixed = tl.load(part + offset_S[:, None] * WIDTH + at_W[None, :], mask=mask, other=0.0)
    result = tl.sum(mixed * share_S[:, None], 0) / tl.sum(total_S * share_S, 0)
    result = tl.where(seen > 0, result, 0.0)
    offset = (row * heads + head).to(tl.int64) * WIDTH + at_W
    tl.store(output + offset, result.to(output.dtype.element_ty), mask=at_W < WIDTH)


@triton.jit(do_not_specialize=["pages"])
def write_kernel(
    key, value, keys, values, page_RN, seen_R, pages,
    stride_key, stride_key_head, stride_value, stride_value_head, stride_page, stride_row,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Store one row's new key and value, all heads at once."""
    row = tl.program_id(0)
    at = tl.load(seen_R + row) - 1
    if (at >= 0) & (at < pages * PAGE):
        page = tl.load(page_RN + row * stride_row + at // PAGE).to(tl.int64)
        if page >= 0:
            at_E = tl.arange(0, BLOCK)
            head_E = at_E // WIDTH
            width_E = at_E % WIDTH
            slot = page * stride_page + head_E * (PAGE * WIDTH) + (at % PAGE) * WIDTH + width_E
            real = at_E < HEADS * WIDTH
            new = tl.load(key + row * stride_key + head_E * stride_key_head + width_E, mask=real)
            tl.store(keys + slot, new, mask=real)
            at_value = row * stride_value + head_E * stride_value_head + width_E
            new = tl.load(value + at_value, mask=real)
            tl.store(values + slot, new, mask=real)


# ---- launches ---------------------------------------------------------------------------------------------------


def num_splits(pages: int) -> int:
    """The largest number of splits for any length of up to `pages` pages."""
    return min(MAX_SPLITS, -(-pages // MIN_PAGES))


def constants(
    repeats: int, group: int, width: int, element_size: int, *, windowed: bool, softcapped: bool
) -> dict[str, int | bool]:
    """The compile-time arguments of `attend_kernel`."""
    block_w = max(16, triton.next_power_of_2(width))
    stacked = min(
        _max_stacked(block_w * element_size, element_size),
        max(16, triton.next_power_of_2(group * repeats)),
    )  # fmt: skip
    return {
        "REPEATS": repeats,
        "GROUP": group,
        "WIDTH": width,
        "M": stacked,
        "PARTS": -(-group * repeats // stacked),
        "M_OWN": max(16, triton.next_power_of_2(repeats)),
        "BLOCK_W": block_w,
        "PAGE": PAGE,
        "MIN_PAGES": MIN_PAGES,
        "MAX_SPLITS": MAX_SPLITS,
        "WINDOWED": windowed,
        "SOFTCAP": softcapped,
        "WIDE": interpreting(),
    }


def _max_stacked(row_bytes: int, element_size: int) -> int:
    """How many queries of `row_bytes` one program takes at most."""
    is_half = element_size < 4
    if is_half and row_bytes <= 256:
        return 64
    return 32 if is_half or row_bytes <= 256 else 16


def launch_options(width: int, element_size: int, capability: int) -> dict[str, int]:
    """Warps and pipeline depth that fit registers and shared memory of compute capability 80, 90, ..."""
    row_bytes = triton.next_power_of_2(width) * element_size
    is_half = element_size < 4
    if is_half and row_bytes <= 256:
        warps = 8 if row_bytes == 256 and capability < 90 else 4
        return {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}
    stages = 2 if is_half or row_bytes <= 256 else 1
    return {"num_warps": 8, "num_stages": stages, "enable_fp_fusion": True}


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
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`grpo.kernels.decode_attention.dispatch.attend` by the kernels of this file; fp32, fp16 or bf16."""
    rows, heads, width = query_RHW.shape
    kv_heads = keys.shape[1]
    query_RHW = _rows_contiguous(query_RHW)
    splits = num_splits(tables.prefix_PN.shape[1]) + num_splits(tables.page_RN.shape[1])
    parts = query_RHW.new_empty((rows, heads, splits, width), dtype=torch.float32)
    tops, totals = parts.new_empty((2, rows, heads, splits))
    fixed = constants(
        repeats=heads // kv_heads,
        group=tables.block_BG.shape[1],
        width=width,
        element_size=keys.element_size(),
        windowed=window is not None,
        softcapped=softcap is not None,
    )
    partial = {"part": parts, "part_top": tops, "part_total": totals}
    numbers = {
        "scale": float(scaling),
        "softcap": float(softcap or 0.0),
        "window": int(window or 0),
    }
    _launch_attend(query_RHW, keys, values, tables, partial=partial, numbers=numbers, fixed=fixed)
    output = torch.empty_like(query_RHW, memory_format=torch.contiguous_format)
    _launch_merge(output, tables, partial, block_w=fixed["BLOCK_W"])
    return output


def _splits_of(tables: PageTables) -> dict[str, int]:
    own_pages = tables.page_RN.shape[1]
    return {
        "prefix_splits": num_splits(tables.prefix_PN.shape[1]),
        "own_splits": num_splits(own_pages),
        "own_pages": own_pages,
    }


def _launch_attend(
    query_RHW: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: PageTables,
    *,
    partial: dict[str, Tensor],
    numbers: dict[str, float],
    fixed: dict[str, int | bool],
) -> None:
    rows, heads, width = query_RHW.shape
    splits = _splits_of(tables)
    prefix_programs = tables.num_blocks * fixed["PARTS"] * splits["prefix_splits"]
    grid = (prefix_programs + rows * splits["own_splits"], keys.shape[1])
    strides = {
        "stride_query": query_RHW.stride(0),
        "stride_query_head": query_RHW.stride(1),
        "stride_page": keys.stride(0),
        "stride_head": keys.stride(1),
        "stride_row": tables.page_RN.stride(0),
        "stride_prefix": tables.prefix_PN.stride(0),
    }
    attend_kernel[grid](
        query=query_RHW,
        keys=keys,
        values=values,
        page_RN=tables.page_RN,
        seen_R=tables.seen_R,
        prompt_R=tables.prompt_R,
        prefix_PN=tables.prefix_PN,
        prefix_length_P=tables.prefix_length_P,
        block_BG=tables.block_BG,
        num_blocks=tables.num_blocks,
        heads=heads,
        **partial,
        **numbers,
        **splits,
        **strides,
        **fixed,
        **launch_options(width, keys.element_size(), capability_of(keys.device)),
    )


def _launch_merge(
    output: Tensor, tables: PageTables, partial: dict[str, Tensor], *, block_w: int
) -> None:
    rows, heads, width = output.shape
    grid = (rows, heads)
    merge_kernel[grid](
        output=output,
        seen_R=tables.seen_R,
        prompt_R=tables.prompt_R,
        prefix_length_P=tables.prefix_length_P,
        heads=heads,
        WIDTH=width,
        BLOCK_W=block_w,
        PAGE=PAGE,
        MIN_PAGES=MIN_PAGES,
        MAX_SPLITS=MAX_SPLITS,
        num_warps=4,
        enable_fp_fusion=True,
        **partial,
        **_splits_of(tables),
    )


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
    key_RHW = _rows_contiguous(key_RHW)
    value_RHW = _rows_contiguous(value_RHW)
    grid = (rows,)
    write_kernel[grid](
        key=key_RHW, value=value_RHW, keys=keys, values=values,
        page_RN=page_RN, seen_R=seen_R, pages=page_RN.shape[1],
        stride_key=key_RHW.stride(0), stride_key_head=key_RHW.stride(1),
        stride_value=value_RHW.stride(0), stride_value_head=value_RHW.stride(1),
        stride_page=keys.stride(0), stride_row=page_RN.stride(0),
        HEADS=heads, WIDTH=width, BLOCK=triton.next_power_of_2(heads * width), PAGE=PAGE,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
