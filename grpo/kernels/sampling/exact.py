"""One token a row from raw logits, in arithmetic that gives the same bits on every device.

`reference` draws from softmax(filter(logits / temperature)), filters in the order top-k, top-p, min-p, ties keeping the
lowest id, as ``torch_sampler`` does; but every step that decides a token is integer arithmetic, or fp32 addition and
multiplication in a fixed order: the Gumbel noise is two polynomials, and top-p compares sums of 64-bit fixed-point
weights. So the kernels of ``triton_kernels`` draw the same tokens, bit for bit. `sample` dispatches. Log-probs, which
decide nothing, are ordinary fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.kernels.backend import runs_triton
from grpo.kernels.sampling.spec import (
    EXP_COEFFICIENTS,
    LN2_HIGH,
    LN2_LOW,
    LOG_COEFFICIENTS,
    MASS_BITS,
    SampledTokens,
    Sampling,
    hashes,
    inverse,
    log_min_p,
    split_top_p,
)


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
    draw_from = reference
    if runs_triton(logits_RV):
        from grpo.kernels.sampling import triton_kernels  # noqa: PLC0415  triton is optional

        draw_from = triton_kernels.sample
    return draw_from(
        logits_RV, seed_R, position_R, sampling, vocab_size=vocab_size, entropy=entropy
    )


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
    is_valid_R = top_R1[:, 0].isfinite() & ~logits_RV.isnan().any(-1)
    fall_RV = (logits_RV - top_R1) * inverse(sampling.temperature)  # scaled, 0 at the likeliest
    fall_RV = torch.where(is_valid_R[:, None], fall_RV, 0.0)
    left_RV = fall_RV
    log_kept_R = None
    is_kept_RV = None
    if sampling.filters:
        is_kept_RV = keep(logits_RV.masked_fill(~is_valid_R[:, None], 0.0), fall_RV, sampling)
        left_RV = fall_RV.masked_fill(~is_kept_RV, float("-inf"))
        log_kept_R = left_RV.logsumexp(-1) - fall_RV.logsumexp(-1)
    score_RV = fall_RV
    if sampling.temperature != 0:
        noise_RV = gumbel(seed_R, position_R, logits_RV.shape[-1])
        score_RV = logits_RV * inverse(sampling.temperature) + noise_RV
    if is_kept_RV is not None:
        score_RV = score_RV.masked_fill(~is_kept_RV, float("-inf"))
    token_R = score_RV.argmax(-1)
    logp_RV = left_RV.log_softmax(-1)
    entropy_R = _entropy(logp_RV) if entropy else None
    return SampledTokens(
        token_R=torch.where(is_valid_R, token_R, -1),
        logp_R=torch.where(is_valid_R, logp_RV.gather(-1, token_R[:, None])[:, 0], torch.nan),
        log_kept_R=_nan_where_invalid(log_kept_R, is_valid_R),
        entropy_R=_nan_where_invalid(entropy_R, is_valid_R),
    )


def _entropy(logp_RV: Tensor) -> Tensor:
    return -torch.where(logp_RV > float("-inf"), logp_RV.exp() * logp_RV, 0.0).sum(-1)


def _nan_where_invalid(x_R: Tensor | None, is_valid_R: Tensor) -> Tensor | None:
    return None if x_R is None else torch.where(is_valid_R, x_R, torch.nan)


def keep(logits_RV: Tensor, fall_RV: Tensor, sampling: Sampling) -> Tensor:
    """Which tokens pass top-k, then top-p of what is left, then min-p; the likeliest always does.

    Tokens are ordered by their raw fp32 logits, equal ones by id, so that rounding makes no ties.
    """
    order_RV = logits_RV.sort(dim=-1, descending=True, stable=True).indices
    is_kept_RV = torch.ones_like(order_RV, dtype=torch.bool)
    if 0 < sampling.top_k < is_kept_RV.shape[-1]:
        is_kept_RV[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        mass_RV = mass(fall_RV).gather(-1, order_RV) * is_kept_RV
        before_RV = mass_RV.cumsum(-1) - mass_RV
        is_kept_RV &= before_RV < mass_target(mass_RV.sum(-1, keepdim=True), sampling.top_p)
    is_kept_RV = torch.zeros_like(is_kept_RV).scatter_(-1, order_RV, is_kept_RV)
    return is_kept_RV & (fall_RV >= log_min_p(sampling.min_p))


def mass(fall_RV: Tensor) -> Tensor:
    """exp(fall) for fall <= 0 in int64 fixed point: sums do not depend on their order."""
    return (exp32(fall_RV) * 2.0**MASS_BITS).to(torch.int64)


def mass_target(total: Tensor, top_p: float) -> Tensor:
    """The mass that the likeliest tokens must reach together: the last one kept is the one that reaches it."""
    high, low = split_top_p(top_p)
    return (total.double() * (high + low)).ceil().to(torch.int64).clamp_min(1)


def exp32(x: Tensor) -> Tensor:
    """exp(x) for x <= 0 to 1e-7 relative, 0 below -60; every operation is rounded separately."""
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
    """ln(x) of normal positive x to two units in the last place; every operation is rounded separately."""
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
    """Gumbel noise [R, V], fp32: -log(E), E = -log(1 - u), from the same hashes as ``spec.gumbel``."""
    return -log32(exponential(hashes(seed_R, position_R, num_tokens)))


def exponential(hash_RV: Tensor) -> Tensor:
    """-log(1 - u), u = (hash + 1/2) / 2**32 of int32 bits, fp32.

    Near u = 0, where the winners are, u is used directly; near 1 its complement is, so both ends are precise.
    """
    upper = hash_RV < 0
    number = torch.where(upper, ~hash_RV, hash_RV).float() + 0.5
    half = number * 2.0**-32  # u, or 1 - u in the upper half; at most 1/2
    return -torch.where(upper, log32(half), log1p32(-half))


def log1p32(x: Tensor) -> Tensor:
    """ln(1 + x) for x in [-1/2, 0]: the logarithm of the rounded sum, corrected for what rounding lost."""
    total = 1.0 + x
    lost = x - (total - 1.0)
    return log32(total) + lost * (2.0 - total) * (2.0 - total)
