"""Seeds, filters and the chi-square test that the samplers' tests share."""

from __future__ import annotations

import itertools

import torch

from grpo.kernels.sampling.spec import Sampling, completion_seed

COMBINATIONS = [
    Sampling(0.9, k, p, m) for k, p, m in itertools.product((0, 9), (1.0, 0.85), (0.0, 0.06))
]
DRAWS = 100_000


def seeds(number: int, name: object = 0) -> torch.Tensor:
    return torch.tensor([completion_seed(name, i) for i in range(number)])


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-square, tokens expected fewer than ten times taken together."""
    rare = expected < 10
    counts, expected = (
        torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts.double(), expected)
    )
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(
        torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), statistic / 2
    ).item()
