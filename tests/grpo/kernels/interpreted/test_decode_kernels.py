"""Decode attention's kernels against the reference, and bits that do not depend on neighbours."""

from __future__ import annotations

import pytest
import torch

from grpo.kernels.decode_attention import dispatch, reference
from grpo.kernels.decode_attention.spec import PAGE
from grpo.rollout.paged_cache import PagedCache

KV_HEADS = 2


def build(
    lengths,
    added,
    heads,
    width,
    dtype=torch.float32,
    max_rows=None,
    rows_per_block=8,
    max_tokens=300,
):
    """Groups of prompt lengths (one entry a row; equal neighbours are one group), rows with `added` own tokens."""
    groups = PagedCache(
        max_rows or len(lengths),
        40 + 3 * sum(map(_pages, lengths)) + 8 * len(lengths),
        "cpu",
        max_prefix=max(lengths, default=1),
        max_tokens=max_tokens,
        rows_per_block=rows_per_block,
    )
    row = 0
    while row < len(lengths):
        rows = [row]
        while rows[-1] + 1 < len(lengths) and lengths[rows[-1] + 1] == lengths[row]:
            rows.append(rows[-1] + 1)
        key, value = torch.randn(2, KV_HEADS, lengths[row], width).to(dtype)
        groups.put(rows, {0: (key, value)}, lengths[row])
        row = rows[-1] + 1
    groups.reserve(max(added, default=1))
    if 0 not in groups.keys:
        groups._make_pool(0, torch.zeros(KV_HEADS, 0, width, dtype=dtype))
    for store in (groups.keys[0], groups.values[0]):
        own = groups._page_RN.host[groups._page_RN.host >= 0].long()
        store[own] = torch.randn(len(own), *store.shape[1:]).to(dtype)
    groups._seen_R[: len(added)] = (
        torch.tensor(added, dtype=torch.int32) * groups._live_R.device[: len(added)]
    )
    return groups, torch.randn(groups.num_rows, heads, width).to(dtype)


def _pages(length):
    return -(-length // PAGE)


def poison(groups):
    """What no row reads becomes NaN: pages' ends and free pages."""
    for store in (groups.keys[0], groups.values[0]):
        store[groups._free] = torch.nan
        for prompt in groups._prompts.values():
            if prompt.length % PAGE:
                store[prompt.pages[-1], :, prompt.length % PAGE :] = torch.nan
        for number, row in enumerate(groups._rows):
            seen = int(groups._seen_R[number])
            for i, page in enumerate(row.pages if row else []):
                store[page, :, max(0, seen - i * PAGE) :] = torch.nan


def both(groups, query, **options):
    keys, values, tables, scaling = (
        groups.keys[0],
        groups.values[0],
        groups.tables(),
        2 * query.shape[-1] ** -0.5,
    )
    return dispatch.attend(query, keys, values, tables, scaling, **options), reference.attend(
        *(x.double() for x in (query, keys, values)), tables, scaling, **options
    )


@pytest.mark.parametrize(
    "heads, width, dtype, tolerance",
    [
        (2, 32, torch.float32, 4e-6),
        (8, 80, torch.float32, 4e-6),
        (14, 64, torch.float16, 2e-3),
        (6, 96, torch.float16, 2e-3),
        (4, 256, torch.float32, 4e-6),
        (10, 40, torch.float32, 4e-6),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"window": 70, "softcap": 5.0},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in ({}, {"window": 1}, {"softcap": 0.7})
        ),
    ],
    ids=str,
)
def test_the_kernel_computes_the_definition(heads, width, dtype, tolerance, options, seed):
    lengths = [65, 65, 65, 0, 130, 130, 1]
    groups, query = build(
        lengths, [3, 64, 65, 130, 1, 200, 2], heads, width, dtype, max_rows=9, rows_per_block=2
    )
    poison(groups)
    found, expected = both(groups, query, **options)
    assert not found[7:].any() and found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_long_lengths_are_split_and_merged(seed):
    """Beyond 16 splits of 4 pages a split grows; prompts and own tokens on either side of each border."""
    lengths = [PAGE * 4 * 16 + 1, PAGE * 4 * 3, PAGE * 4 + 1]
    groups, query = build(
        lengths, [PAGE * 4 + 1, PAGE * 4 * 16 + 1, PAGE * 8], 2, 16, max_tokens=PAGE * 4 * 17
    )
    poison(groups)
    for options in ({}, {"window": 500}):
        torch.testing.assert_close(
            *(x.double() for x in both(groups, query, **options)), atol=2e-6, rtol=4e-6
        )


def test_bits_depend_on_neither_neighbours_nor_place_nor_size_of_the_batch(seed):
    lengths, added = [300, 300, 300, 20, 513], [5, 300, 64, 270, 1]
    groups, query = build(lengths, added, 6, 32, max_rows=8)
    keys, values = groups.keys[0], groups.values[0]
    together = dispatch.attend(query, keys, values, groups.tables(), 0.3, 290)
    kept = [4, 1]
    groups.select(kept, 3)
    groups.reserve(1)
    assert groups.tables().page_RN.shape[0] == 3
    apart = dispatch.attend(
        torch.cat([query[kept], query[:1] * torch.nan]), keys, values, groups.tables(), 0.3, 290
    )
    assert torch.equal(apart[:2], together[kept]) and not apart[2].any()


def test_a_row_of_nan_fails_alone(seed):
    groups, query = build([70, 70, 70], [4, 5, 6], 4, 32)
    expected, _ = both(groups, query)
    query[1] = torch.nan
    found, _ = both(groups, query)
    assert found[1].isnan().all() and torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 80])
def test_new_keys_and_values_are_written_where_the_row_has_come_to(dtype, width, seed):
    """From strided heads, as a model's projections give them; rows without work write nowhere."""
    groups, _ = build([3, 3, 0, 3, 70], [1, 64, 65, 130, 2], 2, width, dtype, max_rows=6)
    groups.clear([3])
    groups.reserve(130)
    before = [groups.keys[0].clone(), groups.values[0].clone()]
    key, value = (
        torch.randn(6, KV_HEADS, 1, width * 2)
        .to(dtype)[..., :width]
        .transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
        for _ in range(2)
    )
    groups.update(key, value, 0)
    for pool, new, old in zip((groups.keys[0], groups.values[0]), (key, value), before):
        for row, seen in ((0, 1), (1, 64), (2, 65), (4, 2)):
            page = int(groups.tables().page_RN[row, (seen - 1) // PAGE])
            old[page, :, (seen - 1) % PAGE] = new[row, :, 0]
        assert torch.equal(pool.nan_to_num(7.0), old.nan_to_num(7.0))


def test_rows_that_come_and_go_run_on_the_kernels_too(seed):
    groups = PagedCache(6, 30, "cpu", max_prefix=130, max_tokens=100, rows_per_block=2)
    for _ in range(4):
        groups.put([0, 2, 3], {0: tuple(torch.randn(2, KV_HEADS, 129, 32))}, 129)
        groups.put([1], {0: tuple(torch.randn(2, KV_HEADS, 5, 32))}, 5)
        for _ in range(3):
            groups.reserve()
            q, k, v = (
                torch.randn(groups.num_rows, heads, 1, 32) for heads in (4, KV_HEADS, KV_HEADS)
            )
            found = groups.attend(q, *groups.update(k, v, 0), 0.3, None, None, 0)[:, 0]
            expected = reference.attend(
                q[:, :, 0].double(),
                groups.keys[0].double(),
                groups.values[0].double(),
                groups.tables(),
                0.3,
            )
            torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=4e-6)
            groups.advance()
        groups.select([3, 1], 4)
        groups.clear([0, 1])
    assert groups.free_pages == 30
