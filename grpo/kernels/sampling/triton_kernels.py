"""Triton kernels of the sampler; ``exact.reference`` states what they compute, to the bit for the token.

Without filters one launch reads the logits once: Gumbel arg-max and online log-sum-exp over chunks of 8,192 ids,
so that 8 rows fill a GPU; a second merges the chunks in a fixed order. top-k and top-p first find their cut by a
radix search over the logits' bits, 4 at a time: each of 8 launches sums counts or fixed-point masses of 16 bins,
and starts from the sums of the one before. No launch waits for the host, and no row depends on another.
The fp32 arithmetic that decides a token must not be contracted: kernels are compiled without FMA fusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.backend import interpreting
from grpo.kernels.sampling.spec import (
    EXP_COEFFICIENTS,
    LN2_HIGH,
    LN2_LOW,
    LOG_COEFFICIENTS,
    MASS_BITS,
    SampledTokens,
    Sampling,
    inverse,
    log_min_p,
    split_top_p,
)

CHUNK = 8192
ROUNDS = 8
BINS: tl.constexpr = tl.constexpr(16)
NO_TOKEN: tl.constexpr = tl.constexpr(2**31 - 1)
LOG = tl.constexpr(tuple(LOG_COEFFICIENTS))
EXP = tl.constexpr(tuple(EXP_COEFFICIENTS))
HIGH: tl.constexpr = tl.constexpr(LN2_HIGH)
LOW: tl.constexpr = tl.constexpr(LN2_LOW)
MASS_UNIT: tl.constexpr = tl.constexpr(2.0**MASS_BITS)


# ---- arithmetic -------------------------------------------------------------------------------------------------


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
    number = tl.where(upper, x ^ 0xFFFFFFFF, x).to(tl.int32, bitcast=True).to(tl.float32) + 0.5
    half = number * 2.3283064365386963e-10
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
    """fp32 logits [RB, VB], -inf outside the vocabulary.

    Columns between VOCAB and ROOM, a multiple of 16, are read but never used: this makes the loads wide.
    """
    offset = at_R.to(tl.int64)[:, None] * stride_row + at_V[None, :]
    mask = (at_R < num_rows)[:, None] & (at_V < ROOM)[None, :]
    x = tl.load(logits + offset, mask=mask, other=float("-inf"))
    return tl.where((at_V < VOCAB)[None, :], x.to(tl.float32), float("-inf"))


# ---- search for a cut -------------------------------------------------------------------------------------------


@triton.jit
def scan_kernel(
    logits, top_RS, num_rows, stride_row, chunks,
    VOCAB: tl.constexpr, ROOM: tl.constexpr, CHUNK: tl.constexpr,
    RB: tl.constexpr, VB: tl.constexpr,
):  # fmt: skip
    """The highest logit of each chunk; +inf for a chunk with NaN, which fails the row as +inf does."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    chunk = tl.program_id(1)
    top_R = tl.full([RB], float("-inf"), tl.float32)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        x = load_logits(logits, at_R, at_V, num_rows, stride_row=stride_row, VOCAB=VOCAB, ROOM=ROOM)
        top_R = tl.maximum(top_R, tl.max(tl.where(x != x, float("inf"), x), 1))
    tl.store(top_RS + at_R * chunks + chunk, top_R, mask=at_R < num_rows)


@triton.jit
def row_top(top_RS, at_R, num_rows, chunks, SB: tl.constexpr):
    at_S = tl.arange(0, SB)
    mask = (at_R < num_rows)[:, None] & (at_S < chunks)[None, :]
    offset = at_R[:, None] * chunks + at_S[None, :]
    return tl.max(tl.load(top_RS + offset, mask=mask, other=float("-inf")), 1)


@triton.jit
def bins_of(part, at_R, num_rows, chunks, before, SB: tl.constexpr, RB: tl.constexpr):
    """Sums [RB, 16] over the chunks below `before`."""
    at_S = tl.arange(0, SB)
    at_B = tl.arange(0, BINS)
    mask_RS = (at_R < num_rows)[:, None, None] & (at_S < before)[None, :, None]
    mask = mask_RS & (at_B >= 0)[None, None, :]
    offset = (at_R[:, None, None] * chunks + at_S[None, :, None]) * BINS + at_B[None, None, :]
    return tl.sum(tl.load(part + offset, mask=mask, other=0), 1)


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
    # adding zeros makes fp32 numbers of the fractions, in the interpreter too
    zeros = tl.zeros(whole.shape, tl.float32)
    fraction = (zeros + high).to(tl.float64) + (zeros + low).to(tl.float64)
    return tl.maximum(tl.ceil(whole.to(tl.float64) * fraction).to(tl.int64), 1)


@triton.jit
def load_state(state, at_R, num_rows, ROUND: tl.constexpr, RB: tl.constexpr):
    """(key, count above, mass above, target) that the round before ROUND started from."""
    real = at_R < num_rows
    base = state + (ROUND - 1) * 4 * num_rows + at_R
    key = tl.load(base, mask=real, other=0)
    count = tl.load(base + num_rows, mask=real, other=0)
    weight = tl.load(base + 2 * num_rows, mask=real, other=0)
    target = tl.load(base + 3 * num_rows, mask=real, other=1)
    return key, count, weight, target


@triton.jit
def store_state(state, at_R, num_rows, key, count, weight, target, ROUND: tl.constexpr):
    real = at_R < num_rows
    base = state + ROUND * 4 * num_rows + at_R
    tl.store(base, key, mask=real)
    tl.store(base + num_rows, count, mask=real)
    tl.store(base + 2 * num_rows, weight, mask=real)
    tl.store(base + 3 * num_rows, target, mask=real)


@triton.jit
def narrow(
    state, counts, masses, at_R, num_rows, chunks, high, low, top_k,
    ROUND: tl.constexpr, BY_MASS: tl.constexpr, COUNTS: tl.constexpr, MASSES: tl.constexpr,
    GIVEN: tl.constexpr, SB: tl.constexpr, RB: tl.constexpr,
):  # fmt: skip
    """(key, count above, mass above, target, bin) after ROUND rounds, from the state and the sums before the last.

    The bin is the highest whose sum, with all above, reaches the target: `top_k` tokens, or the fraction
    high + low of the whole mass; GIVEN takes the target that the state holds.
    """
    key = tl.zeros([RB], tl.int64)
    count = tl.zeros([RB], tl.int64)
    weight = tl.zeros([RB], tl.int64)
    target = tl.zeros([RB], tl.int64)
    at_bin = tl.zeros([RB], tl.int32)
    if GIVEN and ROUND == 1:
        target = tl.load(state + 3 * num_rows + at_R, mask=at_R < num_rows, other=1)
    if ROUND > 1:
        key, count, weight, target = load_state(state, at_R, num_rows, ROUND=ROUND, RB=RB)
    if ROUND > 0:
        count_bins = tl.zeros([RB, BINS], tl.int64)
        mass_bins = tl.zeros([RB, BINS], tl.int64)
        if COUNTS:
            count_bins = bins_of(counts, at_R, num_rows, chunks, before=chunks, SB=SB, RB=RB)
        if MASSES:
            mass_bins = bins_of(masses, at_R, num_rows, chunks, before=chunks, SB=SB, RB=RB)
        if ROUND == 1 and not GIVEN:
            target = tl.zeros([RB], tl.int64) + top_k
            if BY_MASS:
                target = needed_mass(tl.sum(mass_bins, 1), high, low)
        bins = count_bins
        above = count
        if BY_MASS:
            bins = mass_bins
            above = weight
        reached = above[:, None] + tl.cumsum(bins, 1, reverse=True)
        at_B = tl.arange(0, BINS)
        at_bin = tl.max(tl.where(reached >= target[:, None], at_B[None, :], 0), 1)
        key = key + (at_bin.to(tl.int64) << (32 - 4 * ROUND))
        count += above_bin(count_bins, at_bin)
        weight += above_bin(mass_bins, at_bin)
    return key, count, weight, target, at_bin


@triton.jit
def sum_bins(
    logits, at_R, chunk, key, top_R, num_rows, stride_row, inverse_temperature,
    SHIFT: tl.constexpr, COUNTS: tl.constexpr, MASSES: tl.constexpr, VOCAB: tl.constexpr,
    ROOM: tl.constexpr, CHUNK: tl.constexpr, RB: tl.constexpr, VB: tl.constexpr,
):  # fmt: skip
    """(counts, masses) [RB, 16] of one chunk by the 4 bits at SHIFT, of the logits that share the key's higher bits."""
    at_B = tl.arange(0, BINS)
    count_bins = tl.zeros([RB, VB, BINS], tl.int32)
    mass_bins = tl.zeros([RB, VB, BINS], tl.int64)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        real = (at_R < num_rows)[:, None] & (at_V < VOCAB)[None, :]
        x = load_logits(logits, at_R, at_V, num_rows, stride_row=stride_row, VOCAB=VOCAB, ROOM=ROOM)
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
    return tl.sum(count_bins, 1).to(tl.int64), tl.sum(mass_bins, 1)


@triton.jit
def search_kernel(
    logits, top_RS, state, old_counts, old_masses, counts, masses,
    num_rows, stride_row, chunks, inverse_temperature, high, low, top_k,
    ROUND: tl.constexpr, BY_MASS: tl.constexpr, COUNTS: tl.constexpr, MASSES: tl.constexpr,
    GIVEN: tl.constexpr, VOCAB: tl.constexpr, ROOM: tl.constexpr, CHUNK: tl.constexpr,
    RB: tl.constexpr, VB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Settles bits up to 4 * ROUND of the cut's key, and sums each chunk's 16 bins of the next 4."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    chunk = tl.program_id(1)
    key, count, weight, target, _ = narrow(
        state, old_counts, old_masses, at_R, num_rows=num_rows, chunks=chunks,
        high=high, low=low, top_k=top_k,
        ROUND=ROUND, BY_MASS=BY_MASS, COUNTS=COUNTS, MASSES=MASSES, GIVEN=GIVEN, SB=SB, RB=RB,
    )  # fmt: skip
    if ROUND > 0 and chunk == 0:
        store_state(
            state, at_R, num_rows, key, count=count, weight=weight, target=target, ROUND=ROUND
        )
    top_R = tl.zeros([RB], tl.float32)
    if MASSES:
        top_R = row_top(top_RS, at_R, num_rows, chunks, SB=SB)
    count_bins, mass_bins = sum_bins(
        logits, at_R, chunk, key, top_R=top_R, num_rows=num_rows, stride_row=stride_row,
        inverse_temperature=inverse_temperature, SHIFT=28 - 4 * ROUND, COUNTS=COUNTS, MASSES=MASSES,
        VOCAB=VOCAB, ROOM=ROOM, CHUNK=CHUNK, RB=RB, VB=VB,
    )  # fmt: skip
    at_B = tl.arange(0, BINS)
    offset = (at_R[:, None] * chunks + chunk) * BINS + at_B[None, :]
    mask = (at_R < num_rows)[:, None] & (at_B >= 0)[None, :]
    if COUNTS:
        tl.store(counts + offset, count_bins, mask=mask)
    if MASSES:
        tl.store(masses + offset, mass_bins, mask=mask)


@triton.jit
def target_kernel(
    top_RS, state, counts, masses, new_state, num_rows, chunks,
    inverse_temperature, high, low, top_k,
    RB: tl.constexpr, SB: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """The mass that top-p of what top-k left must reach, for a second search."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    key, count, weight, _, _ = narrow(
        state, counts, masses, at_R, num_rows=num_rows, chunks=chunks,
        high=high, low=low, top_k=top_k,
        ROUND=ROUNDS, BY_MASS=False, COUNTS=True, MASSES=True, GIVEN=False, SB=SB, RB=RB,
    )  # fmt: skip
    top_R = row_top(top_RS, at_R, num_rows, chunks, SB=SB)
    tie = fixed_mass(key_value(key), top_R, inverse_temperature)
    target = needed_mass(weight + (top_k - count) * tie, high, low)
    tl.store(new_state + 3 * num_rows + at_R, target, mask=at_R < num_rows)


# ---- draw -------------------------------------------------------------------------------------------------------


@triton.jit
def cut_of(
    state, counts, masses, row_top_R, at_R, chunk, num_rows, chunks,
    inverse_temperature, high, low, top_k,
    BY_MASS: tl.constexpr, GIVEN: tl.constexpr, ROUNDS: tl.constexpr,
    SB: tl.constexpr, RB: tl.constexpr,
):  # fmt: skip
    """(key of the last logit kept, how many logits equal to it are kept from this chunk on)."""
    cut, count, weight, target, at_bin = narrow(
        state, counts, masses, at_R, num_rows=num_rows, chunks=chunks,
        high=high, low=low, top_k=top_k, ROUND=ROUNDS, BY_MASS=BY_MASS,
        COUNTS=not BY_MASS, MASSES=BY_MASS, GIVEN=GIVEN, SB=SB, RB=RB,
    )  # fmt: skip
    if BY_MASS:
        tie = tl.maximum(fixed_mass(key_value(cut), row_top_R, inverse_temperature), 1)
        ties = (target - weight + tie - 1) // tie
        before = bins_of(masses, at_R, num_rows, chunks, before=chunk, SB=SB, RB=RB)
        ties -= pick(before, at_bin) // tie
    else:
        before = bins_of(counts, at_R, num_rows, chunks, before=chunk, SB=SB, RB=RB)
        ties = target - count - pick(before, at_bin)
    return cut, ties


@triton.jit
def keep_above_cut(kept, x, real, cut, ties):
    """(kept and not below the cut, ties left for the tiles that follow)."""
    key = order_key(x)
    tied = (real & (key == cut[:, None])).to(tl.int64)
    rank = tl.cumsum(tied, 1)
    kept = kept & ((key > cut[:, None]) | ((tied > 0) & (rank <= ties[:, None])))
    return kept, ties - tl.sum(tied, 1)


@triton.jit
def no_winner(RB: tl.constexpr):
    lowest = tl.full([RB], float("-inf"), tl.float32)
    return lowest, tl.full([RB], NO_TOKEN, tl.int32), lowest


@triton.jit
def best_of(best_R, token_R, won_R, score, scaled, kept, at_V):
    """(score, token, scaled logit) of the winner so far; the lowest token of equal scores."""
    best = tl.max(score, 1)
    first = tl.min(tl.where(kept & (score == best[:, None]), at_V[None, :], NO_TOKEN), 1)
    won = tl.max(tl.where(at_V[None, :] == first[:, None], scaled, float("-inf")), 1)
    better = (best > best_R) | ((best == best_R) & (first < token_R))
    token_R = tl.where(better, first, token_R)
    won_R = tl.where(better, won, won_R)
    return tl.maximum(best_R, best), token_R, won_R


@triton.jit
def no_sums(RB: tl.constexpr):
    zeros = tl.zeros([RB], tl.float32)
    return tl.full([RB], float("-inf"), tl.float32), zeros, zeros, zeros


@triton.jit
def softmax_sums(top_R, sum_R, kept_R, mean_R, scaled, kept, ENTROPY: tl.constexpr):
    """The online softmax with one more tile: (top, sum, sum of what is kept, its moment).

    The moment is the sum of (scaled - top) exp(scaled - top).
    """
    higher = tl.maximum(top_R, tl.max(scaled, 1))
    pivot = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(top_R - pivot)
    share = tl.exp(scaled - pivot[:, None])
    if ENTROPY:  # the mean of scaled - top, which moves as the top moves
        away = tl.where(share > 0, scaled - pivot[:, None], 0.0)
        drop = tl.where(top_R == float("-inf"), 0.0, top_R - pivot)
        mean_R = (mean_R + drop * kept_R) * fade + tl.sum(tl.where(kept, share * away, 0.0), 1)
    sum_R = sum_R * fade + tl.sum(share, 1)
    kept_R = kept_R * fade + tl.sum(tl.where(kept, share, 0.0), 1)
    return higher, sum_R, kept_R, mean_R


@triton.jit
def store_sums(part_sums, offset, size, mask, won_R, top_R, sum_R, kept_R, mean_R):
    tl.store(part_sums + offset, won_R, mask=mask)
    tl.store(part_sums + size + offset, top_R, mask=mask)
    tl.store(part_sums + 2 * size + offset, sum_R, mask=mask)
    tl.store(part_sums + 3 * size + offset, kept_R, mask=mask)
    tl.store(part_sums + 4 * size + offset, mean_R, mask=mask)


@triton.jit
def draw_kernel(
    logits, seed_R, position_R, top_RS, state, counts, masses, part_score, part_token, part_sums,
    num_rows, stride_row, chunks, inverse_temperature, high, low, top_k, lowest_fall,
    GREEDY: tl.constexpr, CUT: tl.constexpr, BY_MASS: tl.constexpr, GIVEN: tl.constexpr,
    MIN_P: tl.constexpr, ENTROPY: tl.constexpr, VOCAB: tl.constexpr, ROOM: tl.constexpr,
    CHUNK: tl.constexpr, RB: tl.constexpr, VB: tl.constexpr, SB: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Of each chunk: the winner with its scaled logit, and the sums of the softmax, of all and of what is kept."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    chunk = tl.program_id(1)
    real_R = at_R < num_rows
    seed = tl.load(seed_R + at_R, mask=real_R, other=0)
    position = tl.load(position_R + at_R, mask=real_R, other=0)
    low_R, high_R = noise_key(seed, position)
    row_top_R = tl.zeros([RB], tl.float32)
    if CUT or MIN_P:
        row_top_R = row_top(top_RS, at_R, num_rows, chunks, SB=SB)
    if CUT:
        cut, ties = cut_of(
            state, counts, masses, row_top_R, at_R=at_R, chunk=chunk, num_rows=num_rows,
            chunks=chunks, inverse_temperature=inverse_temperature, high=high, low=low,
            top_k=top_k, BY_MASS=BY_MASS, GIVEN=GIVEN, ROUNDS=ROUNDS, SB=SB, RB=RB,
        )  # fmt: skip
    best_R, token_R, won_R = no_winner(RB)
    top_R, sum_R, kept_R, mean_R = no_sums(RB)
    bad_R = tl.zeros([RB], tl.int32)
    for start in range(0, CHUNK, VB):
        at_V = chunk * CHUNK + start + tl.arange(0, VB)
        real = real_R[:, None] & (at_V < VOCAB)[None, :]
        x = load_logits(logits, at_R, at_V, num_rows, stride_row=stride_row, VOCAB=VOCAB, ROOM=ROOM)
        bad_R = tl.maximum(bad_R, tl.max(((x != x) | (x == float("inf"))).to(tl.int32), 1))
        scaled = x * inverse_temperature
        kept = real
        if CUT:
            kept, ties = keep_above_cut(kept, x, real, cut=cut, ties=ties)
        if MIN_P:
            kept = kept & ((x - row_top_R[:, None]) * inverse_temperature >= lowest_fall)
        score = scaled
        if not GREEDY:
            score = scaled + gumbel(low_R[:, None], high_R[:, None], at_V[None, :])
        score = tl.where(kept, score, float("-inf"))
        best_R, token_R, won_R = best_of(
            best_R, token_R, won_R, score, scaled=scaled, kept=kept, at_V=at_V
        )
        top_R, sum_R, kept_R, mean_R = softmax_sums(
            top_R, sum_R, kept_R, mean_R, scaled=scaled, kept=kept, ENTROPY=ENTROPY
        )
    offset = at_R * chunks + chunk
    tl.store(part_score + offset, best_R, mask=real_R)
    tl.store(part_token + offset, tl.where(bad_R > 0, -1, token_R), mask=real_R)
    store_sums(
        part_sums, offset, num_rows * chunks, real_R,
        won_R=won_R, top_R=top_R, sum_R=sum_R, kept_R=kept_R, mean_R=mean_R,
    )  # fmt: skip


@triton.jit
def finish_kernel(
    part_score, part_token, part_sums, token_R, logp_R, log_kept_R, entropy_R, num_rows, chunks,
    FILTERED: tl.constexpr, ENTROPY: tl.constexpr, RB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """One token a row from the chunks' winners and sums."""
    at_R = tl.program_id(0) * RB + tl.arange(0, RB)
    at_S = tl.arange(0, SB)
    real = (at_R < num_rows)[:, None] & (at_S < chunks)[None, :]
    offset = at_R[:, None] * chunks + at_S[None, :]
    size = num_rows * chunks
    score = tl.load(part_score + offset, mask=real, other=float("-inf"))
    token = tl.load(part_token + offset, mask=real, other=NO_TOKEN)
    won = tl.load(part_sums + offset, mask=real, other=float("-inf"))
    top = tl.load(part_sums + size + offset, mask=real, other=float("-inf"))
    sums = tl.load(part_sums + 2 * size + offset, mask=real, other=0.0)
    kept = tl.load(part_sums + 3 * size + offset, mask=real, other=0.0)
    mean = tl.load(part_sums + 4 * size + offset, mask=real, other=0.0)
    highest = tl.max(top, 1)
    good = (tl.min(token, 1) >= 0) & (highest > float("-inf"))
    best = tl.max(score, 1)
    token_best = tl.min(tl.where(score == best[:, None], token, NO_TOKEN), 1)
    won_best = tl.max(tl.where(token == token_best[:, None], won, float("-inf")), 1)
    fade = tl.where(top == float("-inf"), 0.0, tl.exp(top - highest[:, None]))
    whole = tl.sum(sums * fade, 1)
    left = tl.sum(kept * fade, 1)
    mask = at_R < num_rows
    tl.store(token_R + at_R, tl.where(good, token_best, -1).to(tl.int64), mask=mask)
    logp = (won_best - highest) - tl.log(left)
    tl.store(logp_R + at_R, tl.where(good, logp, float("nan")), mask=mask)
    if FILTERED:
        log_kept = tl.log(left) - tl.log(whole)
        tl.store(log_kept_R + at_R, tl.where(good, log_kept, float("nan")), mask=mask)
    if ENTROPY:
        drop = tl.where(top == float("-inf"), 0.0, top - highest[:, None])
        mean = tl.sum((mean + drop * kept) * fade, 1) / left
        tl.store(entropy_R + at_R, tl.where(good, tl.log(left) - mean, float("nan")), mask=mask)


# ---- launches ---------------------------------------------------------------------------------------------------


def tiles(num_rows: int, vocab: int, *, search: bool = False) -> tuple[int, int]:
    """(rows, ids) of a tile. Rows of a small vocabulary share a program; in the interpreter as many as can."""
    ids = max(16, min(triton.next_power_of_2(vocab), 512 if search else 2048))
    if interpreting():
        return min(triton.next_power_of_2(num_rows), (1 << (16 if search else 19)) // ids), ids
    return (512 // ids if vocab < 512 else 1), ids


def readable_columns(logits_RV: Tensor, vocab: int) -> int:
    """How many columns of each row may be read: `vocab` rounded up to 16, if that memory belongs to the tensor."""
    wide = -(-vocab // 16) * 16
    stride = logits_RV.stride(0)
    end = logits_RV.storage_offset() + (len(logits_RV) - 1) * stride + wide
    allocated = logits_RV.untyped_storage().nbytes() // logits_RV.element_size()
    return wide if wide <= stride and end <= allocated else vocab


def draw_warps(cut: bool) -> int:
    """Behind a cut the draw needs more registers than 4 warps have."""
    return 8 if cut else 4


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """Where a search ended: its state and the last round's sums."""

    state: Tensor
    counts: Tensor
    masses: Tensor
    by_mass: bool = False
    given: bool = False

    def arguments(self) -> dict[str, Any]:
        """As `draw_kernel` takes them."""
        return {
            "state": self.state,
            "counts": self.counts,
            "masses": self.masses,
            "BY_MASS": self.by_mass,
            "GIVEN": self.given,
        }


class _Launch:
    """The sizes that all launches of one call share."""

    def __init__(self, logits_RV: Tensor, sampling: Sampling, vocab: int):
        self.logits = logits_RV
        self.rows = logits_RV.shape[0]
        self.vocab = vocab
        self.sampling = sampling
        self.chunks = -(-vocab // CHUNK)
        self.chunks_padded = triton.next_power_of_2(self.chunks)
        self.room = readable_columns(logits_RV, vocab)
        high, low = split_top_p(sampling.top_p)
        self.numbers = {
            "inverse_temperature": inverse(sampling.temperature),
            "high": high,
            "low": low,
            "top_k": sampling.top_k,
        }

    def tile(self, search: bool = False) -> dict[str, int]:
        """The compile-time sizes of a launch over the logits."""
        rows, ids = tiles(self.rows, self.vocab, search=search)
        chunk = CHUNK if self.chunks > 1 else max(ids, triton.next_power_of_2(self.vocab))
        return {"VOCAB": self.vocab, "ROOM": self.room, "CHUNK": chunk, "RB": rows, "VB": ids}

    def over_logits(self, tile: dict[str, int]) -> tuple[tuple[int, int], dict[str, Any]]:
        """(grid, arguments) of a launch over all chunks of all rows."""
        grid = (triton.cdiv(self.rows, tile["RB"]), self.chunks)
        arguments = {
            "logits": self.logits,
            "num_rows": self.rows,
            "stride_row": self.logits.stride(0),
            "chunks": self.chunks,
            "enable_fp_fusion": False,
            **tile,
        }
        return grid, arguments

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return self.logits.new_empty(shape, dtype=dtype)

    def scan(self) -> Tensor:
        top_RS = self.empty(self.rows, self.chunks, dtype=torch.float32)
        grid, arguments = self.over_logits(self.tile())
        scan_kernel[grid](top_RS=top_RS, num_warps=4, **arguments)
        return top_RS

    def search(
        self, top_RS: Tensor, *, by_mass: bool, masses: bool, state: Tensor | None = None
    ) -> _Cut:
        """All rounds of one search; `state`, if given, holds the target."""
        given = state is not None
        if state is None:
            state = self.empty(ROUNDS, 4, self.rows, dtype=torch.int64)
        sums = self.empty(2, 2, self.rows * self.chunks, 16, dtype=torch.int64)
        grid, arguments = self.over_logits(self.tile(search=True))
        for number in range(ROUNDS):
            old_counts, old_masses = sums[(number - 1) % 2]
            new_counts, new_masses = sums[number % 2]
            search_kernel[grid](
                top_RS=top_RS,
                state=state,
                old_counts=old_counts,
                old_masses=old_masses,
                counts=new_counts,
                masses=new_masses,
                ROUND=number,
                BY_MASS=by_mass,
                COUNTS=not by_mass,
                MASSES=masses,
                GIVEN=given,
                SB=self.chunks_padded,
                num_warps=8,
                **self.numbers,
                **arguments,
            )
        return _Cut(state, new_counts, new_masses, by_mass=by_mass, given=given)

    def target(self, top_RS: Tensor, cut: _Cut) -> Tensor:
        """A new search state that holds the mass top-p needs of what `cut` left."""
        state = self.empty(ROUNDS, 4, self.rows, dtype=torch.int64)
        block = self.tile(search=True)["RB"]
        grid = (triton.cdiv(self.rows, block),)
        target_kernel[grid](
            top_RS=top_RS,
            state=cut.state,
            counts=cut.counts,
            masses=cut.masses,
            new_state=state,
            num_rows=self.rows,
            chunks=self.chunks,
            RB=block,
            SB=self.chunks_padded,
            ROUNDS=ROUNDS,
            num_warps=4,
            enable_fp_fusion=False,
            **self.numbers,
        )
        return state

    def cut(self, top_RS: Tensor) -> _Cut | None:
        """The cut of top-k, of top-p, or of top-p on what top-k left; None if neither filters."""
        by_count = 0 < self.sampling.top_k < self.vocab
        by_mass = self.sampling.top_p < 1
        state = None
        if by_count:
            cut = self.search(top_RS, by_mass=False, masses=by_mass)
            if not by_mass:
                return cut
            state = self.target(top_RS, cut)
        return self.search(top_RS, by_mass=True, masses=True, state=state) if by_mass else None

    def draw(
        self,
        seed_R: Tensor,
        position_R: Tensor,
        top_RS: Tensor | None,
        cut: _Cut | None,
        *,
        entropy: bool,
    ) -> dict[str, Tensor]:
        """Each chunk's winner and sums."""
        parts = self.empty_parts()
        grid, arguments = self.over_logits(self.tile())
        draw_kernel[grid](
            seed_R=seed_R,
            position_R=position_R,
            ENTROPY=entropy,
            SB=self.chunks_padded,
            ROUNDS=ROUNDS,
            num_warps=draw_warps(cut is not None),
            **self.filter_arguments(cut, top_RS, unused=parts["part_score"]),
            **parts,
            **self.numbers,
            **arguments,
        )
        return parts

    def empty_parts(self) -> dict[str, Tensor]:
        """Memory for each chunk's winner and sums."""
        return {
            "part_score": self.empty(self.rows, self.chunks, dtype=torch.float32),
            "part_token": self.empty(self.rows, self.chunks, dtype=torch.int32),
            "part_sums": self.empty(5, self.rows, self.chunks, dtype=torch.float32),
        }

    def filter_arguments(
        self, cut: _Cut | None, top_RS: Tensor | None, *, unused: Tensor
    ) -> dict[str, Any]:
        """What `draw_kernel` needs to know of the filters; `unused` takes the place of absent tensors."""
        min_p = self.sampling.min_p
        return {
            "top_RS": unused if top_RS is None else top_RS,
            "lowest_fall": log_min_p(min_p),
            "GREEDY": self.sampling.temperature == 0,
            "CUT": cut is not None,
            "MIN_P": self.sampling.filters and min_p > 0,
            **(_Cut(unused, unused, unused) if cut is None else cut).arguments(),
        }

    def finish(self, parts: dict[str, Tensor], *, entropy: bool) -> SampledTokens:
        """One token a row from the chunks' winners and sums."""
        filtered = self.sampling.filters
        token_R = self.empty(self.rows, dtype=torch.int64)
        logp_R, log_kept_R, entropy_R = self.empty(3, self.rows, dtype=torch.float32)
        block = self.tile()["RB"]
        grid = (triton.cdiv(self.rows, block),)
        finish_kernel[grid](
            token_R=token_R,
            logp_R=logp_R,
            log_kept_R=log_kept_R,
            entropy_R=entropy_R,
            num_rows=self.rows,
            chunks=self.chunks,
            FILTERED=filtered,
            ENTROPY=entropy,
            RB=block,
            SB=self.chunks_padded,
            num_warps=1,
            enable_fp_fusion=False,
            **parts,
        )
        return SampledTokens(
            token_R=token_R,
            logp_R=logp_R,
            log_kept_R=log_kept_R if filtered else None,
            entropy_R=entropy_R if entropy else None,
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
    """`grpo.kernels.sampling.exact.sample` by the kernels of this file."""
    logits_RV = logits_RV if logits_RV.stride(-1) == 1 else logits_RV.contiguous()
    call = _Launch(logits_RV, sampling, logits_RV.shape[1] if vocab_size is None else vocab_size)
    top_RS = call.scan() if sampling.filters else None
    cut = None if top_RS is None else call.cut(top_RS)
    parts = call.draw(seed_R, position_R, top_RS, cut, entropy=entropy)
    return call.finish(parts, entropy=entropy)
