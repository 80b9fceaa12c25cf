"""Decode slots: attention over stored blocks against the plain definition, and slots that forget."""

from __future__ import annotations

import pytest
import torch

from grpo.rollout.slots import BLOCK, FAN, PrefixCache, Slots, sum_blocks

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def random_prefix(length: int, layers: int = 2, dtype=torch.float64):
    return {layer: tuple(torch.randn(KV_HEADS, length, WIDTH, dtype=dtype) for _ in range(2))
            for layer in range(layers)}


def step(slots: Slots, lengths, window=None, softcap=None, layers: int = 2, dtype=torch.float64, news=None):
    """One decoding step of every layer with random heads: (outputs, queries, new keys, new values) a layer."""
    rows = len(slots.length_R)
    slots.reserve(max(lengths) + 1)
    result = []
    for layer in range(layers):
        q, k, v = news[layer] if news else (torch.randn(rows, heads, 1, WIDTH, dtype=dtype)
                                            for heads in (HEADS, KV_HEADS, KV_HEADS))
        blocks = slots.update(k, v, layer)
        result.append((slots.attend(q, *blocks, 0.3, window, softcap, layer), q, k, v))
    slots.advance()
    return result


def plain(query, keys, values, window, softcap):
    """One query [heads, 1, width] over keys and values [kv heads, length, width], the last its own."""
    repeats = HEADS // KV_HEADS
    keys, values = keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0)
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    scores = 0.3 * query @ keys.transpose(-1, -2)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    return (scores.softmax(-1) @ values)[:, 0]


@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 1000])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_over_slots_is_attention_over_what_was_put_and_added(window, softcap, seed):
    lengths = [0, 1, 5, 62, 63, 64, 65, 130]
    slots, stored = Slots(len(lengths), "cpu"), []
    for row, length in enumerate(lengths):
        prefix = random_prefix(length)
        slots.put([row], prefix, length)
        stored.append([list(prefix[layer]) for layer in range(2)])
    for number in range(4):
        found = step(slots, [n + number for n in lengths], window, softcap)
        for layer, (out, q, k, v) in enumerate(found):
            for row in range(len(lengths)):
                both = stored[row][layer]
                both[0], both[1] = torch.cat([both[0], k[row]], 1), torch.cat([both[1], v[row]], 1)
                torch.testing.assert_close(out[row, 0], plain(q[row], *both, window, softcap), atol=1e-12, rtol=0)
    assert slots.length_R.tolist() == [n + 4 for n in lengths]


def test_one_prefix_starts_many_rows(seed):
    slots, prefix = Slots(4, "cpu"), random_prefix(70)
    slots.put([3, 1], prefix, 70)
    slots.reserve(71)
    assert slots.length_R.tolist() == [0, 70, 0, 70]
    (out, q, k, v), _ = step(slots, [70])
    for row in (1, 3):
        both = (torch.cat([old, new[row]], 1) for old, new in zip(prefix[0], (k, v)))
        torch.testing.assert_close(out[row, 0], plain(q[row], *both, None, None), atol=1e-12, rtol=0)


@pytest.mark.parametrize("forget", ["put", "clear"])
def test_a_slot_forgets_even_nan(forget, seed):
    """What stood at places that the next row has not reached must not come back as 0 x NaN."""
    slots, prefix = Slots(3, "cpu"), random_prefix(5)
    slots.put([0, 1, 2], {layer: (k * torch.nan, v * torch.nan) for layer, (k, v) in random_prefix(100).items()}, 100)
    step(slots, [100])
    if forget == "clear":
        slots.clear([1])
    slots.put([1], prefix, 5)
    fresh = Slots(3, "cpu")
    fresh.put([1], prefix, 5)
    news = [tuple(torch.randn(3, heads, 1, WIDTH, dtype=torch.float64) for heads in (HEADS, KV_HEADS, KV_HEADS))
            for _ in range(2)]
    for used, new in zip(step(slots, [101], news=news), step(fresh, [5], news=news)):
        assert torch.equal(used[0][1], new[0][1]) and used[0][0].isnan().all()


def test_bits_of_a_row_depend_neither_on_longer_neighbours_nor_on_its_place(seed):
    prefixes = [random_prefix(n, dtype=torch.float32) for n in (40, 1100, 3, 700)]
    news = [tuple(torch.randn(4, heads, 1, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)) for _ in range(2)]
    together = Slots(4, "cpu")
    for row, prefix in enumerate(prefixes):
        together.put([row], prefix, prefix[0][0].shape[1])
    found = step(together, [1100], news=news)
    for row, prefix in enumerate(prefixes):
        length = prefix[0][0].shape[1]
        alone = Slots(4, "cpu")
        alone.put([3 - row], prefix, length)
        flipped = [tuple(x.flip(0) for x in new) for new in news]
        for one, other in zip(step(alone, [length], news=flipped), found):
            assert torch.equal(one[0][3 - row], other[0][row])


def test_selecting_rows_moves_all_that_is_theirs(seed):
    slots, lengths = Slots(5, "cpu"), [3, 70, 0, 12, 64]
    for row, length in enumerate(lengths):
        slots.put([row], random_prefix(length), length)
    kept = Slots(5, "cpu")
    kept.length_R, kept.keys, kept.values = slots.length_R.clone(), *({k: x.clone() for k, x in store.items()}
                                                                       for store in (slots.keys, slots.values))
    kept.select([4, 1])
    news = [tuple(torch.randn(5, heads, 1, WIDTH, dtype=torch.float64) for heads in (HEADS, KV_HEADS, KV_HEADS))
            for _ in range(2)]
    fewer = [tuple(x[[4, 1]] for x in new) for new in news]
    for all_rows, two in zip(step(slots, lengths, news=news), step(kept, [64, 70], news=fewer)):
        torch.testing.assert_close(two[0], all_rows[0][[4, 1]], atol=1e-14, rtol=0)


@pytest.mark.parametrize("blocks", [1, 2, FAN - 1, FAN, FAN + 1, 3 * FAN, FAN * FAN, FAN * FAN + 1])
def test_a_sum_of_blocks_is_a_sum_whose_bits_empty_blocks_do_not_change(blocks, seed):
    x = torch.randn(blocks, 3, 5)
    total = sum_blocks(x)
    torch.testing.assert_close(total.double(), x.double().sum(0), atol=1e-4, rtol=0)
    for empty in (1, FAN - blocks % FAN, FAN, 5 * FAN, FAN * FAN):
        assert torch.equal(sum_blocks(torch.cat([x, torch.zeros(empty, 3, 5)])), total)


def test_a_prefix_is_the_packed_span_that_is_asked_for(seed):
    cache = PrefixCache()
    key, value = torch.randn(2, 1, KV_HEADS, 20, WIDTH)
    assert cache.update(key, value, 0) == (key, value)
    k, v = cache.prefix(5, 12)[0]
    assert torch.equal(k, key[0, :, 5:12]) and torch.equal(v, value[0, :, 5:12])


def test_room_grows_without_losing_what_is_stored(seed):
    slots = Slots(2, "cpu")
    keys, values = torch.randn(2, 300, 2, KV_HEADS, 1, WIDTH, dtype=torch.float64)
    query = torch.randn(2, HEADS, 1, WIDTH, dtype=torch.float64)
    for i in range(300):
        slots.reserve(i + 1)
        blocks = slots.update(keys[i], values[i], 0)
        if i % 37 == 0 or i == 299:
            out = slots.attend(query, *blocks, 0.3, None, None, 0)
            for row in (0, 1):
                both = (x[:i + 1, row, :, 0].transpose(0, 1) for x in (keys, values))
                torch.testing.assert_close(out[row, 0], plain(query[row], *both, None, None), atol=1e-12, rtol=0)
        slots.advance()
    assert blocks[0].shape[0] == -(-300 // BLOCK)
