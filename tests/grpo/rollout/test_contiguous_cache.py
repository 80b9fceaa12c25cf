"""The contiguous cache: attention over its buckets against the plain definition, and rows that leave no trace."""

from __future__ import annotations

import random

import pytest
import torch
from one_query_attention import HEADS, KV_HEADS, SCALE, WIDTH, plain, random_prefix

from grpo.rollout.bucket_attention import plain_attention
from grpo.rollout.contiguous_cache import ContiguousCache
from grpo.rollout.prefill import PrefixCache
from grpo.rollout.width_bucket import prompt_width, width_for


class Model:
    """A cache, and what each of its rows holds as plain tensors."""

    def __init__(self, *, shared: int = 128, dtype=torch.float64, layers: int = 2):
        self.cache, self.dtype, self.layers = ContiguousCache(shared_from=shared), dtype, layers
        self.held: dict[str, list[list[torch.Tensor]]] = {}

    def add(self, rows, length, prompt=None):
        prefix = random_prefix(length, self.layers, self.dtype) if length else {}
        self.cache.add(rows, prompt or rows[0], prefix, length)
        for row in rows:
            self.held[row] = [
                list(prefix[layer]) if length else None for layer in range(self.layers)
            ]

    def extend(self, row, number):
        own = random_prefix(number, self.layers, self.dtype)
        self.cache.extend(row, own, number)
        self.held[row] = [
            [torch.cat(p, 1) for p in zip(self.held[row][layer], own[layer])]
            for layer in range(self.layers)
        ]

    def drop(self, row):
        self.cache.drop(row)
        del self.held[row]

    def step(self, window=None, softcap=None, news=None) -> dict[str, list[torch.Tensor]]:
        """One decoding step; each row's output of each layer is compared with the definition, and returned."""
        order = self.cache.begin()
        assert sorted(order) == sorted(self.held) and len(self.cache) == len(order)
        rows = -(-len(order) // 8) * 8
        result = {row: [] for row in order}
        assert self.cache.positions == [
            0 if self.held[row][0] is None else self.held[row][0][0].shape[1] for row in order
        ]
        for layer in range(self.layers):
            q, k, v = (
                torch.randn(rows, heads, 1, WIDTH, dtype=self.dtype)
                for heads in (HEADS, KV_HEADS, KV_HEADS)
            )
            for i, row in enumerate(order):
                if news:
                    q[i], k[i], v[i] = news[row][layer]
            out = self.cache.attend(
                q, *self.cache.update(k, v, layer), SCALE, window, softcap, layer
            )
            assert out.shape == (rows, 1, HEADS, WIDTH) and not out[len(order) :].any()
            for i, row in enumerate(order):
                held, new = self.held[row][layer], (k[i], v[i])
                self.held[row][layer] = (
                    list(new) if held is None else [torch.cat(p, 1) for p in zip(held, new)]
                )
                expected = plain(
                    q[i].double(), *(x.double() for x in self.held[row][layer]), window, softcap
                )
                tolerance = 1e-12 if self.dtype == torch.float64 else 1e-5
                torch.testing.assert_close(out[i, 0].double(), expected, atol=tolerance, rtol=0)
                result[row].append(out[i, 0])
        self.cache.advance()
        return result


@pytest.mark.parametrize(
    "length", [1, 63, 64, 65, 128, 129, 191, 192, 193, 256, 257, 300, 384, 385, 513, 1000, 20000]
)
def test_a_bucket_is_wide_enough_and_wastes_little(length):
    width = width_for(length)
    assert width >= length and width % 64 == 0
    assert width - length < 64 or 2 * width <= 3 * (length + 64)
    assert width_for(width) == width
    width = prompt_width(length)
    assert width >= length and width % 64 == 0 and width - length < max(64, length / 4)
    assert prompt_width(width) == width


@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 140, 1000])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_over_buckets_is_attention_over_what_was_added(window, softcap, seed):
    """Prompts stored with each row and shared prompts; rows that outgrow their bucket."""
    model = Model()
    for row, length in enumerate([0, 1, 5, 62, 63, 64, 65, 127, 128, 130]):
        model.add([f"{row}"], length)
    model.add(["a", "b", "c"], 150, "shared")
    model.add(["d"], 200)
    for _ in range(4):
        model.step(window, softcap)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_come_and_go_leave_the_others_alone(dtype, seed):
    drawn, model = random.Random(seed), Model(dtype=dtype, shared=30)
    for number in range(60):
        for _ in range(drawn.choice([0, 0, 1, 2])):
            model.add(
                [f"{number}.{i}.{drawn.random()}" for i in range(drawn.randint(1, 4))],
                drawn.randint(0, 90),
            )
        for row in [row for row in model.held if drawn.random() < 0.1]:
            model.drop(row)
        if model.held:
            model.step(drawn.choice([None, 40]))
    for row in list(model.held):
        model.drop(row)
    assert not (
        model.cache.row_buckets
        or model.cache.prompt_buckets
        or model.cache.num_readers
        or model.cache.prompt_length
        or model.cache.prompt_of
    )
    assert len(model.cache) == model.cache.used_bytes == 0


def test_a_shared_prompt_is_stored_once(seed):
    model, token = Model(), 2 * 2 * KV_HEADS * WIDTH * 8
    model.cache.token_bytes = token
    model.add([f"{i}" for i in range(16)], 500, "prompt")
    assert model.cache.used_bytes == token * (16 * 64 + 512)
    later = random_prefix(500)
    model.cache.add(["late"], "prompt", later, 500)  # whoever comes later reads what is there
    assert model.cache.used_bytes == token * (17 * 64 + 512)
    for i in range(16):
        model.drop(f"{i}")
    assert model.cache.used_bytes == token * (64 + 512)
    model.cache.drop("late")
    assert model.cache.used_bytes == 0


@pytest.mark.parametrize("number", [70, 5])
@pytest.mark.parametrize("length", [20, 140])
def test_a_row_continues_behind_tokens_of_its_own(length, number, seed):
    """In its place if there is room, else in a wider one."""
    model = Model()
    model.add(["one", "two"], length, "prompt")
    model.extend("two", number)
    for window in (None, 30, 100, None):
        model.step(window)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_pause_and_go_on_behind_an_observation_are_where_they_would_be(dtype, seed):
    """Beside others, behind shared prompts and their own; put back with room, they are not moved again."""
    drawn, model = random.Random(seed), Model(dtype=dtype, shared=30)
    for row, length in enumerate([5, 20, 29, 40, 60]):
        model.add([f"{row}.{i}" for i in range(4)], length, f"prompt {row}")
    for _ in range(12):
        model.step()
        rows = sorted(row for row in model.held if drawn.random() < 0.4)
        kept = {row: (*model.cache.pause(row), drawn.choice([0, 4, 30, 90])) for row in rows}
        waiting = {row: model.held.pop(row) for row in rows}
        if model.held:
            model.step()
        model.cache.expect_back(length + ahead for _, length, ahead in kept.values())
        for row, (held, length, ahead) in kept.items():
            model.cache.put_back(row, held, length, ahead=ahead)
            model.held[row] = waiting[row]
            width = model.cache.row_width[row]
            model.extend(row, ahead)
            assert model.cache.row_width[row] == width == width_for(length + ahead + 1)
    for row in list(model.held):
        model.drop(row)
    assert len(model.cache) == model.cache.used_bytes == 0


def test_rows_that_begin_with_nothing_may_join_rows_that_have_something(seed):
    model = Model()
    model.add(["a"], 0)
    model.step()
    model.add(["b"], 3)
    model.step()
    model.drop("b")
    model.add(["c", "d"], 0)
    model.step()


@pytest.mark.parametrize("length", [5, 0])
def test_a_row_leaves_no_trace_not_even_nan(length, seed):
    """What a dropped row stored beyond the next row's length must not come back as 0 x NaN."""
    model = Model()
    model.add(["good"], 50)
    model.cache.add(
        ["bad"],
        "bad",
        {layer: (k * torch.nan, v * torch.nan) for layer, (k, v) in random_prefix(60).items()},
        60,
    )
    model.cache.drop("bad")
    model.add(["next"], length)
    model.step()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.thin(2)
def test_bits_of_a_row_depend_neither_on_its_neighbours_nor_on_its_position(window, softcap, seed):
    lengths = {"a": 40, "b": 1100, "c": 3, "d": 700, "e": 128, "f": 300, "g": 250}
    prefixes = {row: random_prefix(n, dtype=torch.float32) for row, n in lengths.items()}
    steps = [
        {
            row: [
                [torch.randn(heads, 1, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
                for _ in range(2)
            ]
            for row in "abcdefghijk"
        }
        for _ in range(70)
    ]

    def outputs(order, fellows=()):
        model, results = Model(dtype=torch.float32), []
        for row in order:
            rows = [row, *(fellow for fellow, prompt in fellows if prompt == row)]
            model.cache.add(rows, row, prefixes[row], lengths[row])
            model.held |= {r: [list(prefixes[row][layer]) for layer in range(2)] for r in rows}
        for news in steps:
            results.append(model.step(window, softcap, news))
        return results

    together = outputs("abcdefg", [("h", "d"), ("i", "d"), ("j", "d"), ("k", "g")])
    for row in lengths:
        for one, other in zip(outputs(row), together):
            assert all(torch.equal(x, y) for x, y in zip(one[row], other[row])), row
    for one, other in zip(outputs("gfedcba"), together):
        assert all(torch.equal(x, y) for row in lengths for x, y in zip(one[row], other[row]))


def test_room_grows_without_losing_what_is_stored_and_is_given_back(seed):
    model = Model(layers=1)
    model.add(["a"], 0)
    for number in range(400):
        if number == 100:
            model.add([f"{i}" for i in range(60)], 0)
        if number == 140:
            for i in range(60):
                model.drop(f"{i}")
        model.step()
        if number == 300:
            (bucket,) = model.cache.row_buckets.values()
            assert bucket.width == 384 and bucket.keys[0].shape[0] <= 18


@pytest.mark.parametrize("queries", [1, 3])
def test_a_query_that_may_read_nothing_says_so(queries, seed):
    query, key, value = (torch.randn(2, KV_HEADS, n, WIDTH) for n in (queries, 64, 64))
    mask = torch.zeros(2, 1, queries, 64)
    mask[1, :, 0] = float("-inf")
    out, lse = plain_attention(query, key, value, mask, scaling=SCALE, softcap=None)
    assert (lse[1, :, 0] == float("-inf")).all() and not out[1, :, 0].any() and out.isfinite().all()
    scores = SCALE * query.double() @ key.double().transpose(-1, -2)
    torch.testing.assert_close(lse[0].double(), scores[0].logsumexp(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        out[0].double(), scores[0].softmax(-1) @ value[0].double(), atol=1e-5, rtol=0
    )


def test_a_prefix_is_the_packed_span_that_is_asked_for(seed):
    cache = PrefixCache()
    key, value = torch.randn(2, 1, KV_HEADS, 20, WIDTH)
    assert cache.update(key, value, 0) == (key, value)
    k, v = cache.prefix(5, 12)[0]
    assert torch.equal(k, key[0, :, 5:12]) and torch.equal(v, value[0, :, 5:12])
