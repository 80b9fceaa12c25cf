"""Attention of one decoding step by its definition, and random keys and values for it."""

from __future__ import annotations

import torch

HEADS = 4
KV_HEADS = 2
WIDTH = 16
SCALE = 0.3


def random_prefix(length: int, layers: int = 2, dtype=torch.float64):
    return {
        layer: tuple(torch.randn(KV_HEADS, length, WIDTH, dtype=dtype) for _ in range(2))
        for layer in range(layers)
    }


def plain(query, keys, values, window, softcap):
    """One query [heads, 1, width] over keys and values [kv heads, length, width], the last its own."""
    repeats = HEADS // KV_HEADS
    keys, values = keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0)
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    scores = SCALE * query @ keys.transpose(-1, -2)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    return (scores.softmax(-1) @ values)[:, 0]
