"""How far the sampler's log-probs lie from the trainer's on the same tokens, and of what kind the difference is.

d = sampled_logp - old_logp. Everything is a sum over tokens, so that micro-batches and ranks add up and the host
waits once an update; quantiles come from a histogram. Besides the size of d three things are kept that name its cause:

* the mean of w = exp(-d), which is 1 whenever both sides give every token a probability, and below 1 by the mass
  that a filter (top-p, top-k, min-p) took away on the sampler's side alone;
* the slope of d on u = old_logp + entropy. To first order a sampler whose temperature is (1 + slope)^-1 times the
  trainer's has d = slope u, so the slope measures a temperature that differs and its share of d's variance says
  whether that is what happened. Other weights, or rounding, have next to no share;
* the correlation of both log-probs, which is near 1 unless they are of different tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor

LIMIT = 20.0
MOMENTS = (
    "tokens",
    "missing",
    "apart",
    "signed",
    "squares",
    "k3",
    "weight",
    "weight_squares",
    "old",
    "old_squares",
    "old_signed",
    "tilt",
    "tilt_squares",
    "tilt_signed",
)
SMALLEST, LARGEST, PER_OCTAVE = -34, 6, 4
NUM_BINS = (LARGEST - SMALLEST) * PER_OCTAVE


@dataclass(frozen=True, slots=True)
class Drift:
    """What the sums of an update say of d, over `tokens` that the step's own weights sampled.

    ``mean``, ``p99`` (rounded up to a quarter octave) and ``largest`` are of abs(d), ``k3`` is the mean of
    exp(-d) - 1 + d (an estimate of the KL from sampler to trainer), ``ess`` the effective share of samples under
    w = exp(-d). ``tilt`` is the slope of d on u, ``tilt_share`` the share of d's variance it explains; ``_error``
    are standard errors. ``missing`` is the share of tokens whose sampler gave no log-prob.
    """

    tokens: int
    missing: float
    mean: float
    p99: float
    largest: float
    k3: float
    ess: float
    signed: float
    weight: float
    weight_error: float
    tilt: float
    tilt_error: float
    tilt_share: float
    correlation: float


def seen(
    sampled_logp_T: Tensor, old_logp_T: Tensor, fresh_T: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(tokens that the trainer could compare, those of them that the sampler gave a log-prob)."""
    known_T = old_logp_T.isfinite() if fresh_T is None else old_logp_T.isfinite() & fresh_T
    return known_T, known_T & sampled_logp_T.isfinite()


def moments(
    sampled_logp_T: Tensor, old_logp_T: Tensor, entropy_T: Tensor, fresh_T: Tensor | None = None
) -> Tensor:
    """The sums named in `MOMENTS`, fp64, of the tokens that are `fresh_T` (None: all) and finite on both sides."""
    known_T, seen_T = seen(sampled_logp_T, old_logp_T, fresh_T)
    d_T = torch.where(seen_T, sampled_logp_T.double() - old_logp_T.double(), 0.0)
    old_T = torch.where(seen_T, old_logp_T.double(), 0.0)
    u_T = torch.where(seen_T & entropy_T.isfinite(), old_T + entropy_T.double(), 0.0)
    back_T = (-d_T).clamp(-LIMIT, LIMIT)
    weight_T = back_T.exp() * seen_T
    return torch.stack(
        [
            seen_T.double(),
            (known_T & ~seen_T).double(),
            d_T.abs(),
            d_T,
            d_T.square(),
            torch.expm1(back_T) - back_T,
            weight_T,
            weight_T.square(),
            old_T,
            old_T.square(),
            old_T * d_T,
            u_T,
            u_T.square(),
            u_T * d_T,
        ]
    ).sum(1)


def distances(
    sampled_logp_T: Tensor, old_logp_T: Tensor, fresh_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(abs(d) of each token, 0 where it cannot be known; how many of those known fall into each bin, fp64).

    Bins are quarter octaves from 2**SMALLEST (and below) to 2**LARGEST (and above).
    """
    _, seen_T = seen(sampled_logp_T, old_logp_T, fresh_T)
    apart_T = torch.where(seen_T, (sampled_logp_T.double() - old_logp_T.double()).abs(), 0.0)
    place_T = ((apart_T.log2() - SMALLEST) * PER_OCTAVE).floor().clamp(0, NUM_BINS - 1).long()
    return apart_T, torch.zeros(NUM_BINS, dtype=torch.float64, device=apart_T.device).index_add_(
        0, place_T, seen_T.double()
    )


def quantile(counts: Sequence[float], share: float) -> float:
    """The upper end of the bin up to which `share` of all values lie; 0 of none."""
    wanted, seen = share * sum(counts), 0.0
    for place, number in enumerate(counts):
        seen += number
        if number and seen >= wanted:
            return 2.0 ** (SMALLEST + (place + 1) / PER_OCTAVE)
    return 0.0


def read(sums: Mapping[str, float], counts: Sequence[float], largest: float) -> Drift | None:
    """What the sums say; None where no token could be compared."""
    n = sums["tokens"]
    if not n:
        return None
    mean = {name: sums[name] / n for name in MOMENTS}
    spread = {
        name: _variance(mean[f"{name}_squares"], mean[name]) for name in ("weight", "old", "tilt")
    }
    variance = _variance(mean["squares"], mean["signed"])
    with_u, with_old = (
        mean[f"{name}_signed"] - mean[name] * mean["signed"] for name in ("tilt", "old")
    )
    tilt = with_u / spread["tilt"] if spread["tilt"] else 0.0
    share = min(1.0, tilt * with_u / variance) if variance else 0.0
    sampled = spread["old"] + 2 * with_old + variance  # the variance of old + d
    product = math.sqrt(spread["old"] * sampled) if sampled > 0 else 0.0
    return Drift(
        tokens=int(n),
        missing=sums["missing"] / (n + sums["missing"]),
        mean=mean["apart"],
        p99=min(quantile(counts, 0.99), largest),
        largest=largest,
        k3=mean["k3"],
        ess=sums["weight"] ** 2 / (n * sums["weight_squares"]),
        signed=mean["signed"],
        weight=mean["weight"],
        weight_error=math.sqrt(spread["weight"] / n),
        tilt=tilt,
        tilt_error=math.sqrt((1 - share) * variance / (spread["tilt"] * n))
        if spread["tilt"]
        else 0.0,
        tilt_share=share,
        correlation=(spread["old"] + with_old) / product if product else 1.0,
    )


def _variance(square: float, mean: float) -> float:
    return max(0.0, square - mean * mean)
