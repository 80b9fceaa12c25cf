"""One token a row from raw logits, in arithmetic that is the same to the bit on every device.

`reference` draws from softmax(filter(logits / temperature)), filters in the order top-k, top-p, min-p, ties
keeping the lowest id, as ``grpo.rollout.sampling`` does; but every step that decides a token is fp32 addition and
multiplication in a stated order, or integers: the Gumbel noise is two polynomials, and top-p compares sums of
64-bit fixed-point weights. So the Triton kernels of ``grpo.kernels.sampling.triton_kernels`` draw the same tokens, bit for
bit. `sample` dispatches. Log-probs, which decide nothing, are ordinary fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.kernels.backend import runs_triton
from grpo.rollout.sampling import Sampling, mix32_, splitmix64

MASS_BITS = 44  # of a weight of 1: 24 are the weight's own, 2**18 tokens sum without overflow
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


@dataclass(frozen=True, slots=True, eq=False)
class SampledTokens:
    """What a step of sampling gives, a value a row: -1 and NaN where the row's logits hold NaN, +inf or nothing.

    ``logp_R`` (fp32) is the token's log-probability under the distribution drawn from, ``log_kept_R`` the log of
    the mass that the filters kept (None without filters), ``entropy_R`` that distribution's entropy in nats.
    """

    token_R: Tensor
    logp_R: Tensor
    log_kept_R: Tensor | None
    entropy_R: Tensor | None


def sample(
    logits_RV: Tensor,
    seed_R: Tensor,
    position_R: Tensor,
    sampling: Sampling,
    *,
    vocab_size: int | None = None,
    entropy: bool = False,
) -> SampledTokens:
    """Draw from raw logits [R, V] (fp32, bf16, fp16); ids from `vocab_size` on are padding and never drawn.

    `seed_R` and `position_R` are int64; the draw is a pure function of them, the logits and `sampling`.
    """
    if not runs_triton(logits_RV):
        return reference(
            logits_RV, seed_R, position_R, sampling, vocab_size=vocab_size, entropy=entropy
        )
    from grpo.kernels.sampling import triton_kernels

    return triton_kernels.sample(logits_RV, seed_R, position_R, sampling, vocab_size, entropy)


def reference(
    logits_RV: Tensor,
    seed_R: Tensor,
    position_R: Tensor,
    sampling: Sampling,
    *,
    vocab_size: int | None = None,
    entropy: bool = False,
) -> SampledTokens:
    """The definition, in plain torch."""
    logits_RV = logits_RV[:, :vocab_size].float()
    top_R1 = logits_RV.amax(-1, keepdim=True)
    good_R = top_R1[:, 0].isfinite() & ~logits_RV.isnan().any(-1)
    fall_RV = (logits_RV - top_R1) * inverse(sampling.temperature)  # scaled, 0 at the likeliest
    fall_RV = torch.where(good_R[:, None], fall_RV, 0.0)
    if sampling.temperature == 0:
        score_RV, kept_RV = fall_RV, None
    else:
        kept_RV = (
            keep(logits_RV.masked_fill(~good_R[:, None], 0.0), fall_RV, sampling)
            if sampling.filters
            else None
        )
        score_RV = logits_RV * inverse(sampling.temperature) + gumbel(
            seed_R, position_R, logits_RV.shape[-1]
        )
        score_RV = score_RV if kept_RV is None else score_RV.masked_fill(~kept_RV, float("-inf"))
    token_R = score_RV.argmax(-1)
    left_RV = fall_RV if kept_RV is None else fall_RV.masked_fill(~kept_RV, float("-inf"))
    logp_RV = left_RV.log_softmax(-1)
    log_kept_R = None if kept_RV is None else left_RV.logsumexp(-1) - fall_RV.logsumexp(-1)
    entropy_R = (
        -torch.where(logp_RV > float("-inf"), logp_RV.exp() * logp_RV, 0.0).sum(-1)
        if entropy
        else None
    )
    logp_R = logp_RV.gather(-1, token_R[:, None])[:, 0]
    nan = torch.tensor(torch.nan, device=logits_RV.device)
    return SampledTokens(
        torch.where(good_R, token_R, -1),
        *(
            None if x is None else torch.where(good_R, x, nan)
            for x in (logp_R, log_kept_R, entropy_R)
        ),
    )


def inverse(temperature: float) -> float:
    """1 / temperature as fp32 holds it; greedy sampling has the log-probs of the unscaled distribution."""
    return 1.0 if temperature == 0 else float(torch.tensor(1.0 / temperature, dtype=torch.float32))


def keep(logits_RV: Tensor, fall_RV: Tensor, sampling: Sampling) -> Tensor:
    """Which tokens pass top-k, then top-p of what is left, then min-p; the likeliest always does.

    Tokens are ordered by their raw fp32 logits, equal ones by id, so that rounding makes no ties.
    """
    order_RV = logits_RV.sort(dim=-1, descending=True, stable=True).indices
    kept_RV = torch.ones_like(order_RV, dtype=torch.bool)
    if 0 < sampling.top_k < kept_RV.shape[-1]:
        kept_RV[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        mass_RV = mass(fall_RV).gather(-1, order_RV) * kept_RV
        before_RV = mass_RV.cumsum(-1) - mass_RV
        kept_RV &= before_RV < mass_target(mass_RV.sum(-1, keepdim=True), sampling.top_p)
    kept_RV = torch.zeros_like(kept_RV).scatter_(-1, order_RV, kept_RV)
    return kept_RV & (fall_RV >= log_min_p(sampling.min_p))


def log_min_p(min_p: float) -> float:
    """The lowest scaled logit, less the highest, that min-p keeps, as fp32 holds it."""
    return float(torch.tensor(math.log(min_p), dtype=torch.float32)) if min_p > 0 else float("-inf")


def mass(fall_RV: Tensor) -> Tensor:
    """exp(fall) for fall <= 0 in int64 fixed point: sums do not depend on their order."""
    return (exp32(fall_RV) * 2.0**MASS_BITS).to(torch.int64)


def split_top_p(top_p: float) -> tuple[float, float]:
    """`top_p` as the sum of two fp32 numbers, which is how a kernel is given it."""
    high = float(torch.tensor(top_p, dtype=torch.float32))
    return high, float(torch.tensor(top_p - high, dtype=torch.float32))


def mass_target(total: Tensor, top_p: float) -> Tensor:
    """The mass that the likeliest tokens must reach together: the last one kept is the one that reaches it."""
    high, low = split_top_p(top_p)
    return (total.double() * (high + low)).ceil().to(torch.int64).clamp_min(1)


def exp32(x: Tensor) -> Tensor:
    """exp(x) for x <= 0 to 1e-7 relative, 0 below -60; every operation is rounded on its own."""
    x = x.clamp_min(-61.0)
    turns = torch.floor(x * 1.44269504 + 0.5)
    x = (x - turns * LN2_HIGH) - turns * LN2_LOW
    y = torch.full_like(x, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        y = y * x + coefficient
    y = (y * (x * x) + x) + 1.0
    power = ((turns.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(turns < -86.0, 0.0, y * power)


def log32(x: Tensor) -> Tensor:
    """ln(x) of normal positive x to two units in the last place; every operation is rounded on its own."""
    bits = x.contiguous().view(torch.int32) - 0x3F3504F3  # from sqrt(1/2)
    exponent = (bits >> 23).float()
    x = ((bits & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    z = x * x
    y = torch.full_like(x, LOG_COEFFICIENTS[0])
    for coefficient in LOG_COEFFICIENTS[1:]:
        y = y * x + coefficient
    y = y * x * z
    y = y + exponent * LN2_LOW
    y = y - z * 0.5
    return (x + y) + exponent * LN2_HIGH


def gumbel(seed_R: Tensor, position_R: Tensor, num_tokens: int) -> Tensor:
    """Gumbel noise [R, V], fp32: -log(E) of E = -log(1 - u), u the 32-bit hash of ``grpo.rollout.sampling``.

    Near u = 0, where the winners are, u is used directly; near 1 its complement is, so both ends are fine.
    """
    key_R = splitmix64(seed_R + position_R * -7046029254386353131)
    low_R, high_R = key_R.to(torch.int32), (key_R >> 32).to(torch.int32)
    token_V = torch.arange(num_tokens, device=seed_R.device, dtype=torch.int32)
    return -log32(
        exponential(mix32_(mix32_(token_V[None, :] ^ low_R[:, None]).bitwise_xor_(high_R[:, None])))
    )


def exponential(hash_RV: Tensor) -> Tensor:
    """-log(1 - u), u = (hash + 1/2) / 2**32 of int32 bits, fp32."""
    upper = hash_RV < 0
    number = torch.where(upper, ~hash_RV, hash_RV).float() + 0.5
    half = number * 2.0**-32  # u, or 1 - u in the upper half; at most 1/2
    return -torch.where(upper, log32(half), log1p32(-half))


def log1p32(x: Tensor) -> Tensor:
    """ln(1 + x) for x in [-1/2, 0]: the logarithm of the rounded sum, corrected for what the sum lost."""
    total = 1.0 + x
    lost = x - (total - 1.0)
    return log32(total) + lost * (2.0 - total) * (2.0 - total)
