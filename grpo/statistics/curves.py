"""pass@k: the chance that at least one of k completions of a prompt is right, from n >= k samples, without bias.

With c of n right, ``1 - C(n - c, k) / C(n, k)``: the share of the k-subsets of the n samples that hold a right one
(Chen et al., arXiv 2107.03374, equation 1). It is no bootstrap: with one of eight right pass@8 is 1, where drawing
with replacement says 0.66.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Sequence

from grpo.statistics.intervals import Interval, share_interval
from rewards.spelling import many


@dataclass(frozen=True, slots=True)
class AtK:
    """An estimate for `k` completions a prompt, over the `prompts` that have as many that were scored."""

    k: int
    estimate: Interval
    prompts: int


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The unbiased estimate for one prompt; `ValueError` unless ``1 <= k <= num_samples``.

    >>> pass_at_k(8, 1, 1), pass_at_k(8, 1, 8)
    (0.125, 1.0)
    """
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} needs at least {many(max(1, k), 'sample')}, found {num_samples}"
        )
    if not 0 <= num_right <= num_samples:
        raise ValueError(f"{num_right} of {many(num_samples, 'sample')} cannot be right")
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def pass_curve(counts: Sequence[tuple[int, int]], sizes: Iterable[int] | None = None) -> list[AtK]:
    """pass@k over prompts, each a pair (samples scored, right ones), at every k of `sizes` that a prompt can answer.

    By default all from 1 to the largest number of samples. A prompt with fewer samples than k is left out there.
    """
    most = max((num for num, _ in counts), default=0)
    points = []
    for k in sizes or range(1, most + 1):
        able = [(num, right) for num, right in counts if num >= k]
        if able:
            values = [pass_at_k(num, right, k) for num, right in able]
            points.append(at_k(k, values, [num for num, _ in able]))
    return points


def at_k(k: int, values: Sequence[float], num_samples: Sequence[int]) -> AtK:
    """The mean of one value a prompt, each in [0, 1], with its interval for new prompts."""
    samples = sum(num_samples) / len(num_samples)
    bounded = [min(1.0, max(0.0, value)) for value in values]
    return AtK(k, share_interval(bounded, samples), len(values))
