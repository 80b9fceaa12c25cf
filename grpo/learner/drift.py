"""How far the sampler's log-probs are from the trainer's on the same tokens, and what kind of difference it is.

d = sampled_logp - old_logp. Everything is a sum over tokens, so micro-batches and ranks add up and the host waits once
per update; quantiles come from a histogram. In addition to the size of d, three statistics point to its cause:

* the mean of w = exp(-d), which is 1 whenever both sides give every token a probability, and below 1 by the mass
  that a filter (top-p, top-k, min-p) removed on the sampler's side alone;
* the slope of d on u = old_logp + entropy. To first order a sampler whose temperature is (1 + slope)^-1 times the
  trainer's has d = slope u, so the slope measures a different temperature, and its share of d's variance says
  whether that is the cause. Other weights, or rounding, explain next to nothing of it;
* the correlation of both log-probs, which is near 1 unless they belong to different tokens.
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
SMALLEST = -34
LARGEST = 6
PER_OCTAVE = 4
NUM_BINS = (LARGEST - SMALLEST) * PER_OCTAVE


@dataclass(frozen=True, slots=True)
class Drift:
    """What the sums of an update say about d, over `tokens` that the step's own weights sampled.

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


def comparable(
    sampled_logp_T: Tensor, old_logp_T: Tensor, fresh_T: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Masks: (tokens that the trainer has a log-prob of, those of them that the sampler has one of as well)."""
    known_T = old_logp_T.isfinite() if fresh_T is None else old_logp_T.isfinite() & fresh_T
    return known_T, known_T & sampled_logp_T.isfinite()


def moments(
    sampled_logp_T: Tensor, old_logp_T: Tensor, entropy_T: Tensor, fresh_T: Tensor | None = None
) -> Tensor:
    """The sums named in `MOMENTS`, fp64, over the tokens that are `fresh_T` (None: all) and finite on both sides."""
    known_T, both_T = comparable(sampled_logp_T, old_logp_T, fresh_T)
    d_T = torch.where(both_T, sampled_logp_T.double() - old_logp_T.double(), 0.0)
    old_T = torch.where(both_T, old_logp_T.double(), 0.0)
    u_T = torch.where(both_T & entropy_T.isfinite(), old_T + entropy_T.double(), 0.0)
    log_weight_T = (-d_T).clamp(-LIMIT, LIMIT)
    weight_T = log_weight_T.exp() * both_T
    values = {
        "tokens": both_T.double(),
        "missing": (known_T & ~both_T).double(),
        "apart": d_T.abs(),
        "signed": d_T,
        "squares": d_T.square(),
        "k3": torch.expm1(log_weight_T) - log_weight_T,
        "weight": weight_T,
        "weight_squares": weight_T.square(),
        "old": old_T,
        "old_squares": old_T.square(),
        "old_signed": old_T * d_T,
        "tilt": u_T,
        "tilt_squares": u_T.square(),
        "tilt_signed": u_T * d_T,
    }
    return torch.stack([values[name] for name in MOMENTS]).sum(1)


def distances(
    sampled_logp_T: Tensor, old_logp_T: Tensor, fresh_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(abs(d) of each token, 0 where it is unknown; how many of the known ones are in each bin, fp64).

    Bins are quarter octaves from 2**SMALLEST (and below) to 2**LARGEST (and above).
    """
    _, both_T = comparable(sampled_logp_T, old_logp_T, fresh_T)
    d_T = sampled_logp_T.double() - old_logp_T.double()
    distance_T = torch.where(both_T, d_T.abs(), 0.0)
    bin_T = ((distance_T.log2() - SMALLEST) * PER_OCTAVE).floor().clamp(0, NUM_BINS - 1).long()
    counts = torch.zeros(NUM_BINS, dtype=torch.float64, device=distance_T.device)
    return distance_T, counts.index_add_(0, bin_T, both_T.double())


def quantile(counts: Sequence[float], share: float) -> float:
    """The upper end of the bin up to which `share` of all values lie; 0 if there are none."""
    wanted = share * sum(counts)
    below = 0.0
    for index, number in enumerate(counts):
        below += number
        if number and below >= wanted:
            return 2.0 ** (SMALLEST + (index + 1) / PER_OCTAVE)
    return 0.0


def read(sums: Mapping[str, float], counts: Sequence[float], largest: float) -> Drift | None:
    """The drift that sums (by the names in `MOMENTS`), bins and largest distance amount to; None of no tokens."""
    n = sums["tokens"]
    if not n:
        return None
    mean = {name: sums[name] / n for name in MOMENTS}
    d_variance = _variance(mean["squares"], mean["signed"])
    weight_variance = _variance(mean["weight_squares"], mean["weight"])
    u_variance = _variance(mean["tilt_squares"], mean["tilt"])
    with_u = mean["tilt_signed"] - mean["tilt"] * mean["signed"]
    tilt = with_u / u_variance if u_variance else 0.0
    tilt_share = min(1.0, tilt * with_u / d_variance) if d_variance else 0.0
    tilt_error = 0.0
    if u_variance:
        tilt_error = math.sqrt((1 - tilt_share) * d_variance / (u_variance * n))
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
        weight_error=math.sqrt(weight_variance / n),
        tilt=tilt,
        tilt_error=tilt_error,
        tilt_share=tilt_share,
        correlation=_correlation(mean, d_variance),
    )


def _correlation(mean: Mapping[str, float], d_variance: float) -> float:
    """The correlation of old_logp and sampled_logp = old_logp + d; 1 where either does not vary."""
    old_variance = _variance(mean["old_squares"], mean["old"])
    with_old = mean["old_signed"] - mean["old"] * mean["signed"]
    sampled_variance = old_variance + 2 * with_old + d_variance
    product = math.sqrt(old_variance * sampled_variance) if sampled_variance > 0 else 0.0
    return (old_variance + with_old) / product if product else 1.0


def _variance(mean_square: float, mean: float) -> float:
    return max(0.0, mean_square - mean * mean)
