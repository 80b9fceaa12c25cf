"""Paged groups: attention against the plain definition and `ContiguousCache`, shared pages, and pages that come back."""

from __future__ import annotations

import random

import pytest
import torch
from one_query_attention import HEADS, KV_HEADS, WIDTH, plain, random_prefix

from grpo.kernels.decode_attention.spec import PAGE
from grpo.rollout.paged_cache import PagedCache, PoolExhausted, page_bytes


def paged(rows: int, pages: int = 64, **options) -> PagedCache:
    return PagedCache(rows, pages, "cpu", **{"max_prefix": 300, "max_tokens": 300, **options})


def step(groups: PagedCache, window=None, softcap=None, layers: int = 2, dtype=torch.float64):
    """One decoding step of every layer with random heads: (outputs, new keys, new values, queries) a layer."""
    groups.reserve()
    result = []
    for layer in range(layers):
        q, k, v = (
            torch.randn(groups.num_rows, heads, 1, WIDTH, dtype=dtype)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        pools = groups.update(k, v, layer)
        result.append((groups.attend(q, *pools, 0.3, window, softcap, layer), q, k, v))
    groups.advance()
    return result


class Twin:
    """What each row should hold: keys and values laid end to end."""

    def __init__(self):
        self.rows: dict[int, list] = {}

    def start(self, rows, prefix):
        for row in rows:
            self.rows[row] = [list(prefix[layer]) for layer in range(2)]

    def check(self, outputs, window, softcap):
        for layer, (out, q, k, v) in enumerate(outputs):
            for row in range(out.shape[0]):
                if row not in self.rows:
                    assert not out[row].any()
                    continue
                both = self.rows[row][layer]
                both[0], both[1] = torch.cat([both[0], k[row]], 1), torch.cat([both[1], v[row]], 1)
                torch.testing.assert_close(
                    out[row, 0], plain(q[row], *both, window, softcap), atol=1e-12, rtol=0
                )


@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 1000])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_is_attention_over_the_prompt_and_what_was_added(window, softcap, seed):
    lengths = [0, 1, 63, 64, 65, 130]
    groups, twin = paged(2 * len(lengths) + 3), Twin()
    for number, length in enumerate(lengths):
        prefix, rows = random_prefix(length), [number, 14 - number]
        groups.put(rows, prefix, length)
        twin.start(rows, prefix)
    groups.reserve()
    assert groups.position_R.tolist() == [*lengths, 0, 0, 0, *lengths[::-1]]
    for _ in range(3):
        twin.check(step(groups, window, softcap), window, softcap)
    assert groups.position_R[:6].tolist() == [n + 3 for n in lengths] and groups.live_rows == [
        *range(6),
        *range(9, 15),
    ]


def test_rows_of_a_group_share_their_prompts_pages(seed):
    groups, prefix = paged(8), random_prefix(130)
    prompt = groups.store(prefix, 130)
    assert groups.free_pages == 64 - 3
    groups.admit([0, 2, 4], prompt)
    groups.reserve()
    assert groups.free_pages == 64 - 3 - 3
    groups.release(prompt)
    groups.clear([0, 4])
    assert groups.free_pages == 64 - 3 - 1
    groups.clear([2])
    assert groups.free_pages == 64


def test_a_random_life_of_rows_stays_right_and_gives_every_page_back(seed):
    """Groups come, rows end, the batch shrinks and grows; next to it what each row should read."""
    dice, groups, twin = random.Random(seed), paged(9, 40), Twin()
    for _ in range(60):
        free = [row for row in range(groups.num_rows) if row not in twin.rows]
        if free and dice.random() < 0.5:
            length = dice.choice([0, 1, 20, 64, 150])
            rows, prefix = dice.sample(free, dice.randint(1, len(free))), random_prefix(length)
            groups.put(rows, prefix, length)
            twin.start(rows, prefix)
        elif twin.rows and dice.random() < 0.4:
            rows = dice.sample(sorted(twin.rows), dice.randint(1, len(twin.rows)))
            groups.clear(rows)
            for row in rows:
                del twin.rows[row]
        elif dice.random() < 0.3:
            kept = dice.sample(sorted(twin.rows), len(twin.rows))
            groups.select(kept, dice.randint(max(1, len(kept)), 9))
            twin.rows = {new: twin.rows[old] for new, old in enumerate(kept)}
        window = dice.choice([None, 30])
        twin.check(step(groups, window), window, None)
        own = sum(-(-(both[0][0].shape[1]) // PAGE) for both in twin.rows.values())
        assert groups.free_pages <= 40 and 40 - groups.free_pages <= own + 3 * len(twin.rows)
    groups.clear(range(9))
    assert groups.free_pages == 40 and sorted(groups._free) == list(range(40))


def test_what_a_page_held_before_is_never_read(seed):
    groups, prefix = paged(3, 3), random_prefix(5)
    for store in (groups.keys, groups.values):
        store.update(
            {
                layer: torch.full((3, KV_HEADS, PAGE, WIDTH), torch.nan, dtype=torch.float64)
                for layer in (0, 1)
            }
        )
    groups.put([1], prefix, 5)
    twin = Twin()
    twin.start([1], prefix)
    twin.check(step(groups, 3), 3, None)


def test_a_pool_without_room_says_so_and_changes_nothing(seed):
    groups = paged(4, 4, max_prefix=200)
    groups.put([0, 1], random_prefix(100), 100)
    with pytest.raises(PoolExhausted, match="3 pages are needed; 2 of 4 are free"):
        groups.store(random_prefix(190), 190)
    groups.reserve(64)
    with pytest.raises(
        PoolExhausted, match="2 pages are needed for 65 more tokens a row; 0 of 4 are free"
    ):
        groups.reserve(65)
    assert groups.pages_wanted(64) == 0 and groups.free_pages == 0
    groups.clear([0])
    groups.reserve(65)
    with pytest.raises(PoolExhausted, match="room for 256"):
        groups.store({}, 257)


def test_rows_that_stand_still_on_the_device_lose_nothing(seed):
    """In a captured step a row that has ended waits for the host; the host's count only bounds it."""
    groups, prefix, twin = paged(2), random_prefix(10), Twin()
    groups.put([0, 1], prefix, 10)
    twin.start([0, 1], prefix)
    groups.reserve(100)
    for number in range(3):
        q, k, v = (
            torch.randn(2, heads, 1, WIDTH, dtype=torch.float64)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        for layer in range(2):
            groups.update(k, v, layer)
        groups.advance_device(torch.tensor([True, number == 0]))
    groups.advance_host(3)
    assert groups.position_R.tolist() == [13, 11]
    groups.reserve(61)
    assert groups.free_pages == 64 - 1 - 2 * 2


def test_the_signature_is_what_decides_the_shape_of_a_step(seed):
    groups = paged(8, rows_per_block=2)
    groups.put([0, 1, 2], random_prefix(130), 130)
    groups.reserve(65)
    assert groups.signature == (8, 2, 4, 2) and groups.tables().num_blocks == 2
    assert groups.tables().block_BG[:2].tolist() == [[0, 1], [2, -1]]
    before = groups.addresses()
    groups.select([2, 1], 3)
    groups.reserve(65)
    assert groups.signature == (3, 1, 4, 2) and groups.addresses() == before
    assert groups.tables().block_BG[:2].tolist() == [[0, 1], [-1, -1]]


def test_page_bytes_count_keys_and_values_of_all_layers():
    assert page_bytes(random_prefix(9)) == 2 * 2 * KV_HEADS * PAGE * WIDTH * 8
