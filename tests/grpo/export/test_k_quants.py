"""Blocks of Q4_K and Q6_K are read back by the package gguf within the error that their bits leave."""

from __future__ import annotations

import pytest
import torch

from grpo.export.k_quants import quantize_q4_k, quantize_q6_k

gguf = pytest.importorskip("gguf")
KINDS = {
    "Q4_K": (quantize_q4_k, gguf.GGMLQuantizationType.Q4_K, 15),
    "Q6_K": (quantize_q6_k, gguf.GGMLQuantizationType.Q6_K, 63),
}
ROWS = {
    "normal": lambda: torch.randn(6, 512),
    "all above zero": lambda: torch.rand(3, 256) + 3,
    "all below zero": lambda: -torch.rand(3, 256) - 1,
    "of many sizes": lambda: torch.randn(8, 256) * torch.logspace(-3, 3, 8)[:, None],
    "half zero": lambda: torch.cat([torch.zeros(2, 128), torch.randn(2, 128)], dim=1),
    "one outlier": lambda: torch.randn(2, 256).index_fill_(1, torch.tensor([7]), 40.0),
}


def read(rows, kind):
    quantize, number, _ = KINDS[kind]
    return torch.from_numpy(gguf.dequantize(quantize(rows).numpy(), number))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_value_is_off_by_more_than_a_step_of_its_part(kind, rows, seed):
    values = ROWS[rows]()
    found = read(values, kind)
    part = 32 if kind == "Q4_K" else 16
    parts = values.unflatten(1, (-1, part))
    low = parts.amin(-1).clamp_max(0)
    high = parts.amax(-1).clamp_min(0)
    span = high - low if kind == "Q4_K" else 2 * torch.maximum(high, -low)
    # the scale of a part is kept in 6 or 8 bits of the largest of its block
    coarse = span.unflatten(1, (-1, 256 // part)).amax(-1, keepdim=True) / KINDS[kind][2]
    step = (span / KINDS[kind][2]).unflatten(1, (-1, 256 // part)) + 0.25 * coarse
    off = (found - values).abs().unflatten(1, (-1, 256 // part, part)).amax(-1)
    assert bool((off <= 1.1 * step + 1e-6).all())


@pytest.mark.parametrize("kind, largest", [("Q4_K", 0.075), ("Q6_K", 0.019)])
def test_normal_weights_keep_their_size_as_well_as_these_bits_can(kind, largest, seed):
    values = torch.randn(64, 1024)
    off = (read(values, kind) - values).pow(2).mean().sqrt()
    assert float(off) < largest


def test_four_bits_fitted_by_parts_lose_less_than_the_older_format_of_as_many_bits(seed):
    values = torch.randn(32, 1024)
    plain = gguf.GGMLQuantizationType.Q4_0
    older = torch.from_numpy(gguf.dequantize(gguf.quantize(values.numpy(), plain), plain))
    assert (read(values, "Q4_K") - values).pow(2).mean() < 0.75 * (older - values).pow(2).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_every_place_in_a_block_is_its_own(kind):
    assert not read(torch.zeros(2, 256), kind).any()
    for place in range(256):
        one = torch.zeros(1, 256)
        one[0, place] = 2.0
        torch.testing.assert_close(read(one, kind), one, rtol=1e-3, atol=1e-6)
