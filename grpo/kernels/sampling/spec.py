"""What all samplers share: the sampling options, the noise, and the constants of the device-independent arithmetic.

The noise of a token is a counter-based hash of (seed, position, token) turned into a Gumbel variable, so a completion
does not depend on its batch, its row, the order of rows, or earlier draws.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Of a weight of 1: 24 hold the weight's own digits, and 2**18 tokens sum without overflow.
MASS_BITS = 44
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy, with log-probs under the unscaled distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def filters(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass(frozen=True, slots=True, eq=False)
class SampledTokens:
    """One sampling step, a value per row: -1 and NaN where a row's logits hold NaN, +inf or nothing finite.

    ``logp_R`` (fp32) is the token's log-probability under the distribution it was drawn from, ``log_kept_R`` the log of
    the mass that the filters keep (None without filters), ``entropy_R`` that distribution's entropy in nats.
    """

    token_R: Tensor
    logp_R: Tensor
    log_kept_R: Tensor | None
    entropy_R: Tensor | None


# ---- options as kernels take them -------------------------------------------------------------------------------


def inverse(temperature: float) -> float:
    """1 / temperature rounded to fp32; 1 for greedy sampling, whose log-probs are unscaled."""
    return 1.0 if temperature == 0 else float(torch.tensor(1.0 / temperature, dtype=torch.float32))


def log_min_p(min_p: float) -> float:
    """The lowest scaled logit that min-p keeps, relative to the highest, rounded to fp32."""
    return float(torch.tensor(math.log(min_p), dtype=torch.float32)) if min_p > 0 else float("-inf")


def split_top_p(top_p: float) -> tuple[float, float]:
    """`top_p` as the sum of two fp32 numbers, the form in which kernels take it."""
    high = float(torch.tensor(top_p, dtype=torch.float32))
    return high, float(torch.tensor(top_p - high, dtype=torch.float32))


# ---- noise ------------------------------------------------------------------------------------------------------


def completion_seed(*parts: object) -> int:
    """A signed 64-bit seed from (run seed, step, prompt id, sample index)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def hashes(seed_R: Tensor, position_R: Tensor, num_tokens: int) -> Tensor:
    """32 random bits [R, V] as int32, a pure function of (seed, position, token)."""
    key_R = splitmix64(seed_R + position_R * -7046029254386353131)
    low_R = key_R.to(torch.int32)
    high_R = (key_R >> 32).to(torch.int32)
    token_V = torch.arange(num_tokens, device=seed_R.device, dtype=torch.int32)
    mixed_RV = mix32_(token_V[None, :] ^ low_R[:, None])
    return mix32_(mixed_RV.bitwise_xor_(high_R[:, None]))


def gumbel(seed_R: Tensor, position_R: Tensor, num_tokens: int) -> Tensor:
    """Gumbel noise [R, V], fp32, a pure function of (seed, position, token)."""
    return gumbel_of(hashes(seed_R, position_R, num_tokens))


def gumbel_of(hash_: Tensor) -> Tensor:
    """Gumbel noise, fp32, from 32 random bits each."""
    # u in (0, 1): fine near 0, where the exponential variable -log(1 - u) decides which token wins
    u = hash_.view(torch.uint32).double().add_(0.5).mul_(2.0**-32)
    return u.neg_().log1p_().neg_().log_().float().neg_()


def splitmix64(x: Tensor) -> Tensor:
    """Steele et al.'s 64-bit mixer on int64 tensors, arithmetic modulo 2**64."""
    x = (x ^ _logical_shift(x, 30)) * -4658895280553007687
    x = (x ^ _logical_shift(x, 27)) * -7723592293110705685
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix32_(x: Tensor) -> Tensor:
    """A 32-bit mixer (xor-shift, multiply, twice) on int32 tensors, in place; products wrap modulo 2**32."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x21F0AAAD)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(0x735A2D97)
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
