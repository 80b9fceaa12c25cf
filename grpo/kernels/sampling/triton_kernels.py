"""Triton kernels of the sampler; `grpo.kernels.sampling.exact` states what they compute, to the bit for the token.

Without filters one launch reads the logits once: Gumbel arg-max and online log-sum-exp over chunks of 8,192 ids,
so that 8 rows fill a GPU; a second merges the chunks in a fixed order. top-k and top-p first find their cut by a
radix search over the logits' bits, 4 at a time: each of 8 launches sums counts or fixed-point masses of 16 bins,
and starts from the sums of the one before. No launch waits for the host, none depends on other rows.
The fp32 arithmetic that decides a token must not be contracted: kernels are compiled without FMA fusion.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.backend import interpreting
from grpo.kernels.sampling.exact import (
    EXP_COEFFICIENTS,
    LN2_HIGH,
    LN2_LOW,
    LOG_COEFFICIENTS,
    MASS_BITS,
    SampledTokens,
    inverse,
    log_min_p,
    split_top_p,
)
from grpo.rollout.sampling import Sampling

CHUNK = 8192
ROUNDS = 8
BINS: tl.constexpr = tl.constexpr(16)
LOG = tl.constexpr(tuple(LOG_COEFFICIENTS))
EXP = tl.constexpr(tuple(EXP_COEFFICIENTS))
HIGH: tl.constexpr = tl.constexpr(LN2_HIGH)
LOW: tl.constexpr = tl.constexpr(LN2_LOW)
MASS_UNIT: tl.constexpr = tl.constexpr(2.0**MASS_BITS)


# ------------------------------------------------------------------------------------------- arithmetic


@triton.jit
def log32(x):
    bits = x.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (bits >> 23).to(tl.float32)
    x = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    z = x * x
    y = x * LOG[0] + LOG[1]
    for i in tl.static_range(2, 9):
        y = y * x + LOG[i]
    y = y * x * z
    y = y + exponent * LOW
    y = y - z * 0.5
    return (x + y) + exponent * HIGH


@triton.jit
def exp32(x):
    x = tl.maximum(x, -61.0)
    turns = tl.floor(x * 1.44269504 + 0.5)
    x = (x - turns * HIGH) - turns * LOW
    y = x * EXP[0] + EXP[1]
    for i in tl.static_range(2, 6):
        y = y * x + EXP[i]
    y = (y * (x * x) + x) + 1.0
    power = ((turns.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(turns < -86.0, 0.0, y * power)


@triton.jit
def mix32(x):
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit
def noise_key(seed, position):
    """(low, high) 32 bits of splitmix64(seed + position * c)."""
    x = seed.to(tl.uint64, bitcast=True) + position.to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    return (x & 0xFFFFFFFF).to(tl.uint32), (x >> 32).to(tl.uint32)


@triton.jit
def gumbel(low, high, token):
    x = mix32(mix32(token.to(tl.uint32, bitcast=True) ^ low) ^ high)
    upper = x >= 0x80000000
    half = (
        tl.where(upper, x ^ 0xFFFFFFFF, x).to(tl.int32, bitcast=True).to(tl.float32) + 0.5
    ) * 2.3283064365386963e-10
    total = tl.where(upper, half, 1.0 - half)
    lost = tl.where(upper, 0.0, (total - 1.0) + half)
    return -log32(lost * (2.0 - total) * (2.0 - total) - log32(total))


@triton.jit
def order_key(x):
    """Bits of fp32 numbers, as int64 in 0..2**32, in the order of the numbers."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 0x80000000


@triton.jit
def key_value(key):
    bits = (key - 0x80000000).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def fixed_mass(x, top, inverse_temperature):
    return (exp32((x - top) * inverse_temperature) * MASS_UNIT).to(tl.int64)


@triton.jit
def load_logits(logits, at_R, at_V, num_rows, stride_row, VOCAB: tl.constexpr, ROOM: tl.constexpr):
    """fp32 logits [RB, VB], -inf where there are none. What ROOM, a multiple of 16, lets be read and VOCAB does not
    hold is never used: it makes the reads wide.
    """
    place = at_R.to(tl.int64)[:, None] * stride_row + at_V[None, :]
    x = tl.load(
        logits + place,
        mask=(at_R < num_rows)[:, None] & (at_V < ROOM)[None, :],
        other=float("-inf"),
    )
    return tl.where((at_V < VOCAB)[None, :], x.to(tl.float32), float("-inf"))


# --------------------------------------------------------------------------------------- search for a cut


@triton.jit
def scan_kernel(
    logits,
    top_RS,
    num_rows,
    stride_row,
    chunks,
    VOCAB: tl.constexpr,
    ROOM: tl.constexpr,
    CHUNK: tl.constexpr,
    RB: tl.constexpr,
    VB: tl.constexpr,
):
    """The highest logit of each chunk; +inf where there is a NaN, which fails the row as +inf does."""
    at_R, chunk = tl.program_id(0) * RB + tl.arange(0, RB), tl.program_id(1)
    top_R = tl.full([RB], float("-inf"), tl.float32)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        x = load_logits(logits, at_R, at_V, num_rows, stride_row, VOCAB, ROOM)
        top_R = tl.maximum(top_R, tl.max(tl.where(x != x, float("inf"), x), 1))
    tl.store(top_RS + at_R * chunks + chunk, top_R, mask=at_R < num_rows)


@triton.jit
def row_top(top_RS, at_R, num_rows, chunks, SB: tl.constexpr):
    at_S = tl.arange(0, SB)
    real = (at_R < num_rows)[:, None] & (at_S < chunks)[None, :]
    return tl.max(
        tl.load(top_RS + at_R[:, None] * chunks + at_S[None, :], mask=real, other=float("-inf")), 1
    )


@triton.jit
def bins_of(part, at_R, num_rows, chunks, before, SB: tl.constexpr, RB: tl.constexpr):
    """Sums [RB, 16] over the chunks below `before`."""
    at_S, at_B = tl.arange(0, SB), tl.arange(0, BINS)
    real = (
        (at_R < num_rows)[:, None, None]
        & (at_S < before)[None, :, None]
        & (at_B >= 0)[None, None, :]
    )
    place = (at_R[:, None, None] * chunks + at_S[None, :, None]) * BINS + at_B[None, None, :]
    return tl.sum(tl.load(part + place, mask=real, other=0), 1)


@triton.jit
def pick(bins, at_bin):
    """bins[r, at_bin[r]]"""
    at_B = tl.arange(0, BINS)
    return tl.sum(tl.where(at_B[None, :] == at_bin[:, None], bins, 0), 1)


@triton.jit
def above_bin(bins, at_bin):
    at_B = tl.arange(0, BINS)
    return tl.sum(tl.where(at_B[None, :] > at_bin[:, None], bins, 0), 1)


@triton.jit
def needed_mass(whole, high, low):
    """ceil(whole * (high + low)) in fp64, at least 1."""
    nothing = tl.zeros(
        whole.shape, tl.float32
    )  # makes of the fractions fp32 numbers, in the interpreter too
    fraction = (nothing + high).to(tl.float64) + (nothing + low).to(tl.float64)
    return tl.maximum(tl.ceil(whole.to(tl.float64) * fraction).to(tl.int64), 1)


@triton.jit
def narrow(
    state,
    counts,
    masses,
    at_R,
    num_rows,
    chunks,
    high,
    low,
    top_k,
    ROUND: tl.constexpr,
    BY_MASS: tl.constexpr,
    COUNTS: tl.constexpr,
    MASSES: tl.constexpr,
    GIVEN: tl.constexpr,
    SB: tl.constexpr,
    RB: tl.constexpr,
):
    """(key, count above, mass above, target, bin) after ROUND rounds, from the state and the sums before the last.

    The bin is the highest whose sum, with all above, reaches the target: `top_k` tokens, or the fraction
    high + low of the whole mass; GIVEN takes the target that the state holds.
    """
    real = at_R < num_rows
    key = tl.zeros([RB], tl.int64)
    count, weight, target = (
        tl.zeros([RB], tl.int64),
        tl.zeros([RB], tl.int64),
        tl.zeros([RB], tl.int64),
    )
    at_bin = tl.zeros([RB], tl.int32)
    if GIVEN and ROUND == 1:
        target = tl.load(state + 3 * num_rows + at_R, mask=real, other=1)
    if ROUND > 1:
        base = state + (ROUND - 1) * 4 * num_rows + at_R
        key = tl.load(base, mask=real, other=0)
        count = tl.load(base + num_rows, mask=real, other=0)
        weight = tl.load(base + 2 * num_rows, mask=real, other=0)
        target = tl.load(base + 3 * num_rows, mask=real, other=1)
    if ROUND > 0:
        count_bins, mass_bins = tl.zeros([RB, BINS], tl.int64), tl.zeros([RB, BINS], tl.int64)
        if COUNTS:
            count_bins = bins_of(counts, at_R, num_rows, chunks, chunks, SB, RB)
        if MASSES:
            mass_bins = bins_of(masses, at_R, num_rows, chunks, chunks, SB, RB)
        if ROUND == 1 and not GIVEN:
            target = tl.zeros([RB], tl.int64) + top_k
            if BY_MASS:
                target = needed_mass(tl.sum(mass_bins, 1), high, low)
        bins, above = count_bins, count
        if BY_MASS:
            bins, above = mass_bins, weight
        at_B = tl.arange(0, BINS)
        reached = above[:, None] + tl.cumsum(bins, 1, reverse=True)
        at_bin = tl.max(tl.where(reached >= target[:, None], at_B[None, :], 0), 1)
        key = key + (at_bin.to(tl.int64) << (32 - 4 * ROUND))
        count += above_bin(count_bins, at_bin)
        weight += above_bin(mass_bins, at_bin)
    return key, count, weight, target, at_bin


@triton.jit
def search_kernel(
    logits,
    top_RS,
    state,
    old_counts,
    old_masses,
    counts,
    masses,
    num_rows,
    stride_row,
    chunks,
    inverse_temperature,
    high,
    low,
    top_k,
    ROUND: tl.constexpr,
    BY_MASS: tl.constexpr,
    COUNTS: tl.constexpr,
    MASSES: tl.constexpr,
    GIVEN: tl.constexpr,
    VOCAB: tl.constexpr,
    ROOM: tl.constexpr,
    CHUNK: tl.constexpr,
    RB: tl.constexpr,
    VB: tl.constexpr,
    SB: tl.constexpr,
):
    """Settles bits up to 4 * ROUND of the cut's key, and sums each chunk's 16 bins of the next 4."""
    at_R, chunk = tl.program_id(0) * RB + tl.arange(0, RB), tl.program_id(1)
    real_R = at_R < num_rows
    key, count, weight, target, _ = narrow(
        state,
        old_counts,
        old_masses,
        at_R,
        num_rows,
        chunks,
        high,
        low,
        top_k,
        ROUND,
        BY_MASS,
        COUNTS,
        MASSES,
        GIVEN,
        SB,
        RB,
    )
    if ROUND > 0 and chunk == 0:
        base = state + ROUND * 4 * num_rows + at_R
        tl.store(base, key, mask=real_R)
        tl.store(base + num_rows, count, mask=real_R)
        tl.store(base + 2 * num_rows, weight, mask=real_R)
        tl.store(base + 3 * num_rows, target, mask=real_R)
    top_R = tl.zeros([RB], tl.float32)
    if MASSES:
        top_R = row_top(top_RS, at_R, num_rows, chunks, SB)
    SHIFT: tl.constexpr = 28 - 4 * ROUND
    at_B = tl.arange(0, BINS)
    count_bins, mass_bins = tl.zeros([RB, VB, BINS], tl.int32), tl.zeros([RB, VB, BINS], tl.int64)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        real = real_R[:, None] & (at_V < VOCAB)[None, :]
        x = load_logits(logits, at_R, at_V, num_rows, stride_row, VOCAB, ROOM)
        offset = order_key(x) - key[:, None]
        inside = real & (offset >= 0) & ((offset >> (SHIFT + 4)) == 0)
        if tl.max(tl.max(inside.to(tl.int32), 1), 0) > 0:
            at_bin = tl.where(inside, (offset >> SHIFT).to(tl.int32), -1)
            here = at_bin[:, :, None] == at_B[None, None, :]
            if COUNTS:
                count_bins += here.to(tl.int32)
            if MASSES:
                mass = fixed_mass(x, top_R[:, None], inverse_temperature)
                mass_bins += tl.where(here, mass[:, :, None], 0)
    place = (at_R[:, None] * chunks + chunk) * BINS + at_B[None, :]
    mask = real_R[:, None] & (at_B >= 0)[None, :]
    if COUNTS:
        tl.store(counts + place, tl.sum(count_bins, 1).to(tl.int64), mask=mask)
    if MASSES:
        tl.store(masses + place, tl.sum(mass_bins, 1), mask=mask)


@triton.jit
def target_kernel(
    top_RS,
    state,
    counts,
    masses,
    new_state,
    num_rows,
    chunks,
    inverse_temperature,
    high,
    low,
    top_k,
    RB: tl.constexpr,
    SB: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """The mass that top-p of what top-k left must reach, for a second search."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    key, count, weight, _, _ = narrow(
        state,
        counts,
        masses,
        at_R,
        num_rows,
        chunks,
        high,
        low,
        top_k,
        ROUNDS,
        False,
        True,
        True,
        False,
        SB,
        RB,
    )
    tie = fixed_mass(
        key_value(key), row_top(top_RS, at_R, num_rows, chunks, SB), inverse_temperature
    )
    target = needed_mass(weight + (top_k - count) * tie, high, low)
    tl.store(new_state + 3 * num_rows + at_R, target, mask=at_R < num_rows)


# --------------------------------------------------------------------------------------------------- draw


@triton.jit
def draw_kernel(
    logits,
    seed_R,
    position_R,
    top_RS,
    state,
    counts,
    masses,
    part_score,
    part_token,
    part_sums,
    num_rows,
    stride_row,
    chunks,
    inverse_temperature,
    high,
    low,
    top_k,
    lowest_fall,
    GREEDY: tl.constexpr,
    CUT: tl.constexpr,
    BY_MASS: tl.constexpr,
    GIVEN: tl.constexpr,
    MIN_P: tl.constexpr,
    ENTROPY: tl.constexpr,
    VOCAB: tl.constexpr,
    ROOM: tl.constexpr,
    CHUNK: tl.constexpr,
    RB: tl.constexpr,
    VB: tl.constexpr,
    SB: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Of each chunk: the winner with its scaled logit, and the sums of the softmax, of all and of what is kept."""
    at_R, chunk = tl.program_id(0) * RB + tl.arange(0, RB), tl.program_id(1)
    real_R = at_R < num_rows
    seed = tl.load(seed_R + at_R, mask=real_R, other=0)
    position = tl.load(position_R + at_R, mask=real_R, other=0)
    low_R, high_R = noise_key(seed, position)
    row_top_R = tl.zeros([RB], tl.float32)
    if CUT or MIN_P:
        row_top_R = row_top(top_RS, at_R, num_rows, chunks, SB)
    cut, ties = tl.zeros([RB], tl.int64), tl.zeros([RB], tl.int64)
    if CUT:
        cut, count, weight, target, at_bin = narrow(
            state,
            counts,
            masses,
            at_R,
            num_rows,
            chunks,
            high,
            low,
            top_k,
            ROUNDS,
            BY_MASS,
            not BY_MASS,
            BY_MASS,
            GIVEN,
            SB,
            RB,
        )
        if BY_MASS:
            tie = tl.maximum(fixed_mass(key_value(cut), row_top_R, inverse_temperature), 1)
            ties = (target - weight + tie - 1) // tie
            ties -= pick(bins_of(masses, at_R, num_rows, chunks, chunk, SB, RB), at_bin) // tie
        else:
            ties = (
                target
                - count
                - pick(bins_of(counts, at_R, num_rows, chunks, chunk, SB, RB), at_bin)
            )
    best_R = tl.full([RB], float("-inf"), tl.float32)
    token_R = tl.full([RB], 2147483647, tl.int32)
    won_R = tl.full([RB], float("-inf"), tl.float32)
    top_R = tl.full([RB], float("-inf"), tl.float32)
    sum_R, kept_R = tl.zeros([RB], tl.float32), tl.zeros([RB], tl.float32)
    mean_R = tl.zeros([RB], tl.float32)
    bad_R = tl.zeros([RB], tl.int32)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        real = real_R[:, None] & (at_V < VOCAB)[None, :]
        x = load_logits(logits, at_R, at_V, num_rows, stride_row, VOCAB, ROOM)
        bad_R = tl.maximum(bad_R, tl.max(((x != x) | (x == float("inf"))).to(tl.int32), 1))
        scaled = x * inverse_temperature
        kept = real
        if CUT:
            key = order_key(x)
            tied = (real & (key == cut[:, None])).to(tl.int64)
            rank = tl.cumsum(tied, 1)
            kept = kept & ((key > cut[:, None]) | ((tied > 0) & (rank <= ties[:, None])))
            ties -= tl.sum(tied, 1)
        if MIN_P:
            kept = kept & ((x - row_top_R[:, None]) * inverse_temperature >= lowest_fall)
        score = scaled
        if not GREEDY:
            score = scaled + gumbel(low_R[:, None], high_R[:, None], at_V[None, :])
        score = tl.where(kept, score, float("-inf"))
        best = tl.max(score, 1)
        first = tl.min(tl.where(kept & (score == best[:, None]), at_V[None, :], 2147483647), 1)
        won = tl.max(tl.where(at_V[None, :] == first[:, None], scaled, float("-inf")), 1)
        better = (best > best_R) | ((best == best_R) & (first < token_R))
        token_R, won_R = tl.where(better, first, token_R), tl.where(better, won, won_R)
        best_R = tl.maximum(best_R, best)
        higher = tl.maximum(top_R, tl.max(scaled, 1))
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp(top_R - pivot)
        share = tl.exp(scaled - pivot[:, None])
        if ENTROPY:  # of what is kept: the mean of scaled - top, moved along as the top moves
            away = tl.where(share > 0, scaled - pivot[:, None], 0.0)
            drop = tl.where(top_R == float("-inf"), 0.0, top_R - pivot)
            mean_R = (mean_R + drop * kept_R) * fade + tl.sum(tl.where(kept, share * away, 0.0), 1)
        sum_R = sum_R * fade + tl.sum(share, 1)
        kept_R = kept_R * fade + tl.sum(tl.where(kept, share, 0.0), 1)
        top_R = higher
    place = at_R * chunks + chunk
    tl.store(part_score + place, best_R, mask=real_R)
    tl.store(part_token + place, tl.where(bad_R > 0, -1, token_R), mask=real_R)
    size = num_rows * chunks
    tl.store(part_sums + place, won_R, mask=real_R)
    tl.store(part_sums + size + place, top_R, mask=real_R)
    tl.store(part_sums + 2 * size + place, sum_R, mask=real_R)
    tl.store(part_sums + 3 * size + place, kept_R, mask=real_R)
    tl.store(part_sums + 4 * size + place, mean_R, mask=real_R)


@triton.jit
def finish_kernel(
    part_score,
    part_token,
    part_sums,
    token_R,
    logp_R,
    log_kept_R,
    entropy_R,
    num_rows,
    chunks,
    FILTERED: tl.constexpr,
    ENTROPY: tl.constexpr,
    RB: tl.constexpr,
    SB: tl.constexpr,
):
    """One token a row from the chunks' winners and sums."""
    at_R, at_S = tl.program_id(0) * RB + tl.arange(0, RB), tl.arange(0, SB)
    real = (at_R < num_rows)[:, None] & (at_S < chunks)[None, :]
    place, size = at_R[:, None] * chunks + at_S[None, :], num_rows * chunks
    score = tl.load(part_score + place, mask=real, other=float("-inf"))
    token = tl.load(part_token + place, mask=real, other=2147483647)
    won = tl.load(part_sums + place, mask=real, other=float("-inf"))
    top = tl.load(part_sums + size + place, mask=real, other=float("-inf"))
    sums = tl.load(part_sums + 2 * size + place, mask=real, other=0.0)
    kept = tl.load(part_sums + 3 * size + place, mask=real, other=0.0)
    mean = tl.load(part_sums + 4 * size + place, mask=real, other=0.0)
    highest = tl.max(top, 1)
    good = (tl.min(token, 1) >= 0) & (highest > float("-inf"))
    best = tl.max(score, 1)
    token_best = tl.min(tl.where(score == best[:, None], token, 2147483647), 1)
    won_best = tl.max(tl.where(token == token_best[:, None], won, float("-inf")), 1)
    fade = tl.where(top == float("-inf"), 0.0, tl.exp(top - highest[:, None]))
    whole, left = tl.sum(sums * fade, 1), tl.sum(kept * fade, 1)
    mask = at_R < num_rows
    tl.store(token_R + at_R, tl.where(good, token_best, -1).to(tl.int64), mask=mask)
    logp = (won_best - highest) - tl.log(left)
    tl.store(logp_R + at_R, tl.where(good, logp, float("nan")), mask=mask)
    if FILTERED:
        tl.store(
            log_kept_R + at_R, tl.where(good, tl.log(left) - tl.log(whole), float("nan")), mask=mask
        )
    if ENTROPY:
        drop = tl.where(top == float("-inf"), 0.0, top - highest[:, None])
        mean = tl.sum((mean + drop * kept) * fade, 1) / left
        tl.store(entropy_R + at_R, tl.where(good, tl.log(left) - mean, float("nan")), mask=mask)


# ------------------------------------------------------------------------------------------------ launches


def tiles(num_rows: int, vocab: int, *, search: bool = False) -> tuple[int, int]:
    """(rows, ids) of a tile. Rows of a small vocabulary share a program; in the interpreter as many as can."""
    ids = max(16, min(triton.next_power_of_2(vocab), 512 if search else 2048))
    if interpreting():
        return min(triton.next_power_of_2(num_rows), (1 << (16 if search else 19)) // ids), ids
    return (512 // ids if vocab < 512 else 1), ids


def room(logits_RV: Tensor, vocab: int) -> int:
    """How many columns of each row may be read: `vocab` up to a multiple of 16, where the memory behind is theirs."""
    wide, (rows, _), stride = -(-vocab // 16) * 16, logits_RV.shape, logits_RV.stride(0)
    end = logits_RV.storage_offset() + (rows - 1) * stride + wide
    held = logits_RV.untyped_storage().nbytes() // logits_RV.element_size()
    return wide if wide <= stride and end <= held else vocab


def draw_warps(cut: bool) -> int:
    """With 4 warps the draw behind a cut holds more than its registers."""
    return 8 if cut else 4


class _Launch:
    """The sizes that all launches of one call share."""

    def __init__(self, logits_RV: Tensor, sampling: Sampling, vocab: int):
        self.logits, self.rows, self.vocab, self.sampling = (
            logits_RV,
            logits_RV.shape[0],
            vocab,
            sampling,
        )
        self.chunks = -(-vocab // CHUNK)
        self.scale = inverse(sampling.temperature)
        self.high, self.low = split_top_p(sampling.top_p)
        self.sb = triton.next_power_of_2(self.chunks)
        self.room = room(logits_RV, vocab)

    def fixed(self, search: bool = False) -> dict[str, int]:
        rb, vb = tiles(self.rows, self.vocab, search=search)
        chunk = CHUNK if self.chunks > 1 else max(vb, triton.next_power_of_2(self.vocab))
        return {"VOCAB": self.vocab, "ROOM": self.room, "CHUNK": chunk, "RB": rb, "VB": vb}

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return self.logits.new_empty(shape, dtype=dtype)

    def scan(self) -> Tensor:
        top_RS, fixed = self.empty(self.rows, self.chunks, dtype=torch.float32), self.fixed()
        scan_kernel[(triton.cdiv(self.rows, fixed["RB"]), self.chunks)](
            self.logits,
            top_RS,
            self.rows,
            self.logits.stride(0),
            self.chunks,
            **fixed,
            num_warps=4,
            enable_fp_fusion=False,
        )
        return top_RS

    def search(
        self, top_RS: Tensor, *, by_mass: bool, masses: bool, state: Tensor | None = None
    ) -> _Cut:
        """All rounds of one search; `state` holds the target where it is given."""
        given, fixed = state is not None, self.fixed(search=True)
        state = self.empty(ROUNDS, 4, self.rows, dtype=torch.int64) if state is None else state
        sums = self.empty(2, 2, self.rows, self.chunks, 16, dtype=torch.int64)
        for number in range(ROUNDS):
            search_kernel[(triton.cdiv(self.rows, fixed["RB"]), self.chunks)](
                self.logits,
                top_RS,
                state,
                *sums[(number - 1) % 2],
                *sums[number % 2],
                self.rows,
                self.logits.stride(0),
                self.chunks,
                self.scale,
                self.high,
                self.low,
                self.sampling.top_k,
                ROUND=number,
                BY_MASS=by_mass,
                COUNTS=not by_mass,
                MASSES=masses,
                GIVEN=given,
                SB=self.sb,
                **fixed,
                num_warps=8,
                enable_fp_fusion=False,
            )
        return _Cut(state, *sums[(ROUNDS - 1) % 2], by_mass, given)

    def target(self, top_RS: Tensor, cut: _Cut) -> Tensor:
        state, rb = (
            self.empty(ROUNDS, 4, self.rows, dtype=torch.int64),
            self.fixed(search=True)["RB"],
        )
        target_kernel[(triton.cdiv(self.rows, rb),)](
            top_RS,
            cut.state,
            cut.counts,
            cut.masses,
            state,
            self.rows,
            self.chunks,
            self.scale,
            self.high,
            self.low,
            self.sampling.top_k,
            RB=rb,
            SB=self.sb,
            ROUNDS=ROUNDS,
            num_warps=4,
            enable_fp_fusion=False,
        )
        return state

    def cut(self, top_RS: Tensor) -> _Cut | None:
        by_count, by_mass = 0 < self.sampling.top_k < self.vocab, self.sampling.top_p < 1
        state = None
        if by_count:
            found = self.search(top_RS, by_mass=False, masses=by_mass)
            if not by_mass:
                return found
            state = self.target(top_RS, found)
        return self.search(top_RS, by_mass=True, masses=True, state=state) if by_mass else None


class _Cut:
    """Where a search ended: its state and the last round's sums."""

    def __init__(self, state: Tensor, counts: Tensor, masses: Tensor, by_mass: bool, given: bool):
        self.state, self.counts, self.masses, self.by_mass, self.given = (
            state,
            counts,
            masses,
            by_mass,
            given,
        )


def sample(
    logits_RV: Tensor,
    seed_R: Tensor,
    position_R: Tensor,
    sampling: Sampling,
    vocab_size: int | None,
    entropy: bool,
) -> SampledTokens:
    """`grpo.kernels.sampling.exact.sample` by the kernels of this file."""
    logits_RV = logits_RV if logits_RV.stride(-1) == 1 else logits_RV.contiguous()
    call = _Launch(logits_RV, sampling, logits_RV.shape[1] if vocab_size is None else vocab_size)
    greedy, filtered = sampling.temperature == 0, sampling.filters
    top_RS = call.scan() if filtered else None
    cut = call.cut(top_RS) if filtered else None
    score_RS = call.empty(call.rows, call.chunks, dtype=torch.float32)
    token_RS = call.empty(call.rows, call.chunks, dtype=torch.int32)
    sums = call.empty(5, call.rows, call.chunks, dtype=torch.float32)
    nothing, fixed = score_RS, call.fixed()
    found = (cut.state, cut.counts, cut.masses) if cut else (nothing,) * 3
    draw_kernel[(triton.cdiv(call.rows, fixed["RB"]), call.chunks)](
        logits_RV,
        seed_R,
        position_R,
        nothing if top_RS is None else top_RS,
        *found,
        score_RS,
        token_RS,
        sums,
        call.rows,
        logits_RV.stride(0),
        call.chunks,
        call.scale,
        call.high,
        call.low,
        sampling.top_k,
        log_min_p(sampling.min_p),
        GREEDY=greedy,
        CUT=cut is not None,
        BY_MASS=cut is not None and cut.by_mass,
        GIVEN=cut is not None and cut.given,
        MIN_P=filtered and sampling.min_p > 0,
        ENTROPY=entropy,
        SB=call.sb,
        ROUNDS=ROUNDS,
        **fixed,
        num_warps=draw_warps(cut is not None),
        enable_fp_fusion=False,
    )
    token_R = call.empty(call.rows, dtype=torch.int64)
    logp_R, log_kept_R, entropy_R = call.empty(3, call.rows, dtype=torch.float32)
    finish_kernel[(triton.cdiv(call.rows, fixed["RB"]),)](
        score_RS,
        token_RS,
        sums,
        token_R,
        logp_R,
        log_kept_R,
        entropy_R,
        call.rows,
        call.chunks,
        FILTERED=filtered,
        ENTROPY=entropy,
        RB=fixed["RB"],
        SB=call.sb,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return SampledTokens(
        token_R, logp_R, log_kept_R if filtered else None, entropy_R if entropy else None
    )
