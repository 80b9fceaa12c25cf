"""One token for each row: temperature, filters, and noise that depends on nothing but the row's own seed.

The sampling distribution is softmax(filter(logits / temperature)), filters in the order top-k, top-p, min-p;
ties keep the lowest id. Noise is a counter-based hash of (seed, position, token) turned into a Gumbel
variable, so a completion does not depend on batch, row, order or what was drawn before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.kernels.cpu import native

CACHED = 2**17  # logits whose noise is computed at a time on a CPU


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy, with the log-probs of the unscaled distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def filters(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


def completion_seed(*parts: object) -> int:
    """A signed 64-bit seed from (run seed, step, prompt id, sample index)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def sample(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(token_R, sampled_logp_R, log_kept_R) from raw logits; log_kept_R is None without filters.

    Log-probs are fp32, under the distribution that was drawn from. A row whose logits hold NaN, or nothing
    finite, gets token -1 and log-prob NaN; the other rows are not touched.
    """
    if logits_RV.device.type == "cpu" and not sampling.filters and native.available():
        return *native.sample(logits_RV.float(), seed_R, position_R, sampling.temperature), None
    rows = max(1, CACHED // logits_RV.shape[-1])
    if (
        logits_RV.device.type == "cpu" and len(logits_RV) > rows
    ):  # many passes over what fits a cache
        found = [
            sample(*part, sampling)
            for part in zip(*(x.split(rows) for x in (logits_RV, seed_R, position_R)))
        ]
        return tuple(None if column[0] is None else torch.cat(column) for column in zip(*found))
    logits_RV = logits_RV.float()
    good_R = logits_RV.amax(-1).isfinite()  # NaN too is the largest
    if sampling.temperature == 0:
        logp_RV = logits_RV.log_softmax(-1)
        token_R, log_kept_R = logits_RV.argmax(-1), None
    else:
        logp_RV = (
            logits_RV if sampling.temperature == 1 else logits_RV / sampling.temperature
        ).log_softmax(-1)
        log_kept_R = None
        if sampling.filters:
            kept_RV = logp_RV.masked_fill(~keep(logp_RV, sampling), float("-inf"))
            log_kept_R = kept_RV.logsumexp(-1)
            logp_RV = kept_RV - log_kept_R[:, None]
        token_R = draw(logp_RV, seed_R, position_R)
    sampled_logp_R = logp_RV.gather(-1, token_R[:, None])[:, 0]
    token_R = torch.where(good_R, token_R, -1)
    return token_R, torch.where(good_R, sampled_logp_R, torch.nan), log_kept_R


def keep(logp_RV: Tensor, sampling: Sampling) -> Tensor:
    """Which tokens pass top-k, then top-p of what is left, then min-p; the likeliest token always does."""
    sorted_RV, order_RV = logp_RV.sort(dim=-1, descending=True, stable=True)
    kept_RV = torch.ones_like(sorted_RV, dtype=torch.bool)
    if 0 < sampling.top_k < kept_RV.shape[-1]:
        kept_RV[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        prob_RV = sorted_RV.double().exp() * kept_RV
        before_RV = prob_RV.cumsum(-1) - prob_RV
        kept_RV &= before_RV < sampling.top_p * prob_RV.sum(-1, keepdim=True)
    if sampling.min_p > 0:
        kept_RV &= sorted_RV.exp() >= sampling.min_p * sorted_RV[:, :1].exp()
    kept_RV[:, 0] = True
    return torch.zeros_like(kept_RV).scatter_(-1, order_RV, kept_RV)


def draw(logp_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """The token of each row with the largest log-prob + Gumbel noise; of equal ones the lowest.

    The noise is -log(E), E = -log(1 - u) >= u. So a token beats one whose score is `bar` only if u <= exp(logp - bar):
    a comparison with its hash. The logarithms are computed for the few tokens that pass. The bar is the better of
    the likeliest token and, where many are about as likely, the one with the most noise.
    """
    hash_RV, top_R1 = (
        hashes(seed_R, position_R, logp_RV.shape[-1]),
        logp_RV.argmax(-1, keepdim=True),
    )
    half_RV = (hash_RV >> 1).bitwise_and_(0x7FFFFFFF)
    bar_R1 = logp_RV.gather(-1, top_R1) + gumbel_of(hash_RV.gather(-1, top_R1))
    noisy_R1 = half_RV.argmin(-1, keepdim=True)
    bar_R1 = bar_R1.fmax(logp_RV.gather(-1, noisy_R1) + gumbel_of(hash_RV.gather(-1, noisy_R1)))
    limit_RV = (
        (logp_RV - bar_R1).exp_().mul_(2.0**31 * (1 + 1e-5)).clamp_(0, 2.0**31 - 128).nan_to_num_()
    )
    passes_RV = (half_RV <= limit_RV.to(torch.int32)).scatter_(
        -1, torch.cat([top_R1, noisy_R1], -1), True
    )
    row_C, token_C = passes_RV.nonzero(as_tuple=True)
    score_C = gumbel_of(hash_RV[row_C, token_C]) + logp_RV[row_C, token_C]
    best_R = score_C.new_full((len(logp_RV),), float("-inf")).scatter_reduce_(
        0, row_C, score_C, "amax"
    )
    wins_C = score_C == best_R[row_C]
    return top_R1[:, 0].scatter_reduce(
        0, row_C[wins_C], token_C[wins_C], "amin", include_self=False
    )


def hashes(seed_R: Tensor, position_R: Tensor, num_tokens: int) -> Tensor:
    """32 random bits [R, V] as int32, a pure function of (seed, position, token)."""
    key_R = splitmix64(seed_R + position_R * -7046029254386353131)
    low_R, high_R = key_R.to(torch.int32), (key_R >> 32).to(torch.int32)
    token_V = torch.arange(num_tokens, device=seed_R.device, dtype=torch.int32)
    return mix32_(mix32_(token_V[None, :] ^ low_R[:, None]).bitwise_xor_(high_R[:, None]))


def gumbel(seed_R: Tensor, position_R: Tensor, num_tokens: int) -> Tensor:
    """Gumbel noise [R, V], fp32, a pure function of (seed, position, token)."""
    return gumbel_of(hashes(seed_R, position_R, num_tokens))


def gumbel_of(hash_: Tensor) -> Tensor:
    """Gumbel noise, fp32, of 32 random bits each."""
    # u in (0, 1): fine near 0, where the exponential variable -log(1 - u) decides which token wins
    u = hash_.view(torch.uint32).double().add_(0.5).mul_(2.0**-32)
    return u.neg_().log1p_().neg_().log_().float().neg_()


def splitmix64(x: Tensor) -> Tensor:
    """Steele et al.'s 64-bit mixer on int64 tensors, arithmetic modulo 2**64."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix32_(x: Tensor) -> Tensor:
    """A 32-bit mixer (xor-shift, multiply, twice) on int32 tensors, in place; products wrap modulo 2**32."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x21F0AAAD)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(0x735A2D97)
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
