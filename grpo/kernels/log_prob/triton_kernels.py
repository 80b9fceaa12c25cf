"""Triton kernels of the head: logits to unit gradients, row by row, and a first product that never stores a logit.

`unit_rows` reads a row of float32 products twice and leaves the unit gradient in the row's own bytes. `exp_tiles` is
the first product with an epilogue: of each tile it stores E = 2^(z log2(e) - k) in the weight's dtype, k the
ceiling of the row's largest exponent in the tile, beside k, the sum of E without the target's and the moment; sums
are taken from the float32 accumulators. `merge_tiles` makes log-probs and entropies of these, `unit_tiles` turns E into
the unit gradient in place. No kernel uses atomics: results do not change from run to run.

Rows are read and written up to the next multiple of 16 columns, which `spec.aligned_rows` leaves room for, so that
accesses are 16 bytes wide whatever the vocabulary's size; what stands in the columns behind it is never used.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LEAST = tl.constexpr(-1e30)


@triton.jit
def _room(size):
    """The columns that a row of `size` takes: a multiple of 16, which the compiler can see."""
    return (size + 15) // 16 * 16


@triton.jit
def _log1p(x):
    """log(1 + x) to float32's digits, x in (-1, 0] (Kahan)."""
    w = 1.0 + x
    return tl.where(w == 1.0, x, tl.log(w) * x / tl.where(w == 1.0, 1.0, w - 1.0))


@triton.jit
def _tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _logits(z, bias, factor, softcap, temperature, BIAS: tl.constexpr, CAP: tl.constexpr):
    """The logits from products; `factor` is scale / softcap under a cap, else scale / temperature."""
    if BIAS:
        z += bias
    z *= factor
    if CAP:
        z = _tanh(z) * softcap / temperature
    return z


@triton.jit
def unit_rows(
    z_ptr,
    bias_ptr,
    unit_ptr,
    target_ptr,
    logp_ptr,
    entropy_ptr,
    size,
    stride_z,
    stride_unit,
    factor,
    softcap,
    temperature,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: logp, entropy, and p - onehot(target) times the cap's slope over the row's own bytes."""
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * stride_z
    unit_ptr += row * stride_unit
    target = tl.load(target_ptr + row)
    lanes = tl.arange(0, BLOCK)
    bias = 0.0
    if BIAS:
        bias = tl.load(bias_ptr + target).to(tl.float32)
    taken = _logits(
        tl.load(z_ptr + target).to(tl.float32), bias, factor, softcap, temperature, BIAS, CAP
    )
    top, others, moment = taken, 0.0, 0.0
    for start in range(0, size, BLOCK):
        at = start + lanes
        inside = at < size
        z, lift = tl.load(z_ptr + at, mask=at < _room(size), other=0.0).to(tl.float32), 0.0
        if BIAS:
            lift = tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        z = _logits(z, lift, factor, softcap, temperature, BIAS, CAP)
        z = tl.where(inside & (at != target), z, LEAST)
        higher = tl.maximum(top, tl.max(z, 0))
        shrink = tl.exp(top - higher)
        e = tl.exp(z - higher)
        moment = (moment + (top - higher) * others) * shrink + tl.sum(
            tl.where(e > 0, (z - higher) * e, 0.0), 0
        )
        others = others * shrink + tl.sum(e, 0)
        top = higher
    own = tl.exp(taken - top)
    total = others + own
    rest = others / total
    logp = tl.where(rest < 0.5, _log1p(-rest), taken - top - tl.log(total))
    tl.store(logp_ptr + row, logp)
    tl.store(entropy_ptr + row, tl.log(total) - (moment + (taken - top) * own) / total)
    if GRADIENT:
        for start in range(0, size, BLOCK):
            at = start + lanes
            inside = at < size
            z, lift = tl.load(z_ptr + at, mask=at < _room(size), other=0.0).to(tl.float32), 0.0
            if BIAS:
                lift = tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
            z = _logits(z, lift, factor, softcap, temperature, BIAS, CAP)
            unit = tl.where(at == target, -rest, tl.exp(z - top) / total)
            if CAP:
                tanh = z * temperature / softcap
                unit *= 1.0 - tanh * tanh
            tl.debug_barrier()  # the bytes written were read in this or an earlier turn
            tl.store(unit_ptr + at, unit.to(unit_ptr.dtype.element_ty), mask=at < _room(size))


@triton.jit
def exp_tiles(
    x_desc,
    w_desc,
    e_ptr,
    bias_ptr,
    target_ptr,
    peak_ptr,
    sum_ptr,
    moment_ptr,
    taken_ptr,
    num_rows,
    size,
    width,
    stride_e,
    factor,
    softcap,
    temperature,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    STORE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the first product; statistics are [vocabulary tiles, rows], the target's exponent in `taken`."""
    tiles_m = tl.cdiv(num_rows, BM)
    tile_m, tile_n = tl.program_id(0) % tiles_m, tl.program_id(0) // tiles_m
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for at in range(0, width, BK):
        x = x_desc.load([tile_m * BM, at])
        w = w_desc.load([tile_n * BN, at])
        acc = tl.dot(x, w.T, acc, input_precision=PRECISION)
    rows, columns = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN)
    within, inside = rows < num_rows, columns < size
    bias = tl.zeros((BN,), dtype=tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    y = _logits(acc, bias[None, :], factor, softcap, temperature, BIAS, CAP) * LOG2E
    y = tl.where(inside[None, :], y, LEAST)
    target = tl.load(target_ptr + rows, mask=within, other=-1)
    is_target = columns[None, :] == target[:, None]
    peak = tl.ceil(tl.max(y, 1))
    y -= peak[:, None]
    e = tl.exp2(y)
    at = tile_n.to(tl.int64) * num_rows + rows
    tl.store(peak_ptr + at, peak, mask=within)
    tl.store(sum_ptr + at, tl.sum(tl.where(is_target, 0.0, e), 1), mask=within)
    tl.store(moment_ptr + at, tl.sum(tl.where(is_target | (e == 0.0), 0.0, y * e), 1), mask=within)
    here = within & (target >= tile_n * BN) & (target < tile_n * BN + BN)
    tl.store(taken_ptr + rows, tl.sum(tl.where(is_target, y, 0.0), 1) + peak, mask=here)
    if STORE:
        place = rows.to(tl.int64)[:, None] * stride_e + columns[None, :]
        room = columns < _room(size)
        tl.store(e_ptr + place, e.to(e_ptr.dtype.element_ty), mask=within[:, None] & room[None, :])


@triton.jit
def merge_tiles(
    peak_ptr,
    sum_ptr,
    moment_ptr,
    taken_ptr,
    logp_ptr,
    entropy_ptr,
    peak_row_ptr,
    total_ptr,
    rest_ptr,
    num_rows,
    num_tiles,
    BM: tl.constexpr,
):
    """Of each row, from its tiles: logp, entropy, the largest exponent, the sum relative to it, the others' mass."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    within = rows < num_rows
    taken = tl.load(taken_ptr + rows, mask=within, other=0.0)
    top = tl.ceil(taken)
    others, moment = tl.zeros((BM,), dtype=tl.float32), tl.zeros((BM,), dtype=tl.float32)
    at = rows.to(tl.int64)
    for _ in range(0, num_tiles):
        peak = tl.load(peak_ptr + at, mask=within, other=LEAST)
        part = tl.load(sum_ptr + at, mask=within, other=0.0)
        lever = tl.load(moment_ptr + at, mask=within, other=0.0)
        higher = tl.maximum(top, peak)
        shrink, grow = tl.exp2(top - higher), tl.exp2(peak - higher)
        drop, lift = tl.maximum(top - higher, -1e4), tl.maximum(peak - higher, -1e4)
        moment = (moment + drop * others) * shrink + (lever + lift * part) * grow
        others = others * shrink + part * grow
        top = higher
        at += num_rows
    own = tl.exp2(taken - top)
    total = others + own
    rest = others / total
    log_total = tl.log(total)
    logp = tl.where(rest < 0.5, _log1p(-rest), (taken - top) * LN2 - log_total)
    tl.store(logp_ptr + rows, logp, mask=within)
    tl.store(
        entropy_ptr + rows, log_total - LN2 * (moment + (taken - top) * own) / total, mask=within
    )
    tl.store(peak_row_ptr + rows, top, mask=within)
    tl.store(total_ptr + rows, total, mask=within)
    tl.store(rest_ptr + rows, rest, mask=within)


@triton.jit
def unit_tiles(
    e_ptr,
    target_ptr,
    peak_ptr,
    peak_row_ptr,
    total_ptr,
    rest_ptr,
    num_rows,
    size,
    stride_e,
    softcap,
    temperature,
    CAP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """E becomes p - onehot(target) in place, times the cap's slope. Tiles are as wide as those of `exp_tiles`."""
    tiles_m = tl.cdiv(num_rows, BM)
    tile_m, tile_n = tl.program_id(0) % tiles_m, tl.program_id(0) // tiles_m
    rows, columns = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN)
    within, inside = rows < num_rows, columns < _room(size)
    peak = tl.load(peak_ptr + tile_n.to(tl.int64) * num_rows + rows, mask=within, other=0.0)
    scale = tl.exp2(peak - tl.load(peak_row_ptr + rows, mask=within, other=0.0))
    scale /= tl.load(total_ptr + rows, mask=within, other=1.0)
    rest = tl.load(rest_ptr + rows, mask=within, other=0.0)
    target = tl.load(target_ptr + rows, mask=within, other=-1)
    place = e_ptr + rows.to(tl.int64)[:, None] * stride_e + columns[None, :]
    seen = within[:, None] & inside[None, :]
    e = tl.load(place, mask=seen, other=0.0).to(tl.float32)
    unit = tl.where(columns[None, :] == target[:, None], -rest[:, None], e * scale[:, None])
    if CAP:
        z = (tl.log2(tl.maximum(e, 1e-38)) + peak[:, None]) * LN2
        tanh = z * temperature / softcap
        unit *= 1.0 - tanh * tanh
    tl.store(place, unit.to(e_ptr.dtype.element_ty), mask=seen)


@triton.jit
def mix_entropy(
    unit_ptr,
    target_ptr,
    g_ptr,
    e_ptr,
    logp_ptr,
    entropy_ptr,
    size,
    stride_unit,
    BLOCK: tl.constexpr,
):
    """unit := g unit + e p (log p + entropy), p from the unit gradient itself; heads without a cap."""
    row = tl.program_id(0).to(tl.int64)
    unit_ptr += row * stride_unit
    target, g, e = tl.load(target_ptr + row), tl.load(g_ptr + row), tl.load(e_ptr + row)
    entropy, taken = tl.load(entropy_ptr + row), tl.load(logp_ptr + row)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < _room(size)
        unit = tl.load(unit_ptr + at, mask=inside, other=0.0).to(tl.float32)
        p = tl.where(at == target, 1.0 + unit, unit)
        logp = tl.where(at == target, taken, tl.log(tl.maximum(p, 1e-38)))
        tl.store(
            unit_ptr + at,
            (g * unit + e * p * (logp + entropy)).to(unit_ptr.dtype.element_ty),
            mask=inside,
        )
