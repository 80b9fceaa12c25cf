"""Triton kernels of the head: gradients of logits row by row, and a first product that never stores a logit.

U = d(-logp)/d(logits) = p - onehot(target) throughout. `row_gradient_kernel` reads a row of float32 products twice
and leaves U in the row's own memory. `exp_tiles_kernel` is the first product with an epilogue: of each tile it
stores E = 2^(z log2(e) - k) in the weight's dtype, k the ceiling of the row's largest exponent in the tile,
together with k, the sum of E without the target's and the moment; sums are taken from the float32 accumulators.
`merge_tiles_kernel` computes log-probs and entropies from these, `tile_gradient_kernel` turns E into U in place. No
kernel uses atomics: results do not change from run to run.

Rows are read and written up to the next multiple of 16 columns, for which `spec.aligned_rows` leaves room, so that
accesses are 16 bytes wide whatever the vocabulary's size; the contents of the extra columns are never used.
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
def _load_logits(
    z_ptr, bias_ptr, at, size, factor, softcap, temperature,
    BIAS: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """The logits of the columns `at`; those from `size` on mean nothing."""
    inside = at < size
    z = tl.load(z_ptr + at, mask=at < _room(size), other=0.0).to(tl.float32)
    bias = 0.0
    if BIAS:
        bias = tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return _logits(z, bias, factor, softcap, temperature=temperature, BIAS=BIAS, CAP=CAP)


@triton.jit
def _softcap_slope(z, softcap, temperature):
    """The soft-cap's derivative, from the capped logits."""
    tanh = z * temperature / softcap
    return 1.0 - tanh * tanh


@triton.jit
def _row_sums(
    z_ptr, bias_ptr, target, taken, lanes, size, factor, softcap, temperature,
    BIAS: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(top, sum of exp(z - top), sum of (z - top) exp(z - top)) of a row; the sums leave the target out."""
    top = taken
    others = 0.0
    moment = 0.0
    for start in range(0, size, BLOCK):
        at = start + lanes
        z = _load_logits(
            z_ptr, bias_ptr, at, size, factor=factor, softcap=softcap, temperature=temperature,
            BIAS=BIAS, CAP=CAP,
        )  # fmt: skip
        z = tl.where((at < size) & (at != target), z, LEAST)
        higher = tl.maximum(top, tl.max(z, 0))
        shrink = tl.exp(top - higher)
        e = tl.exp(z - higher)
        moment = (moment + (top - higher) * others) * shrink + tl.sum(
            tl.where(e > 0, (z - higher) * e, 0.0), 0
        )
        others = others * shrink + tl.sum(e, 0)
        top = higher
    return top, others, moment


@triton.jit
def row_gradient_kernel(
    z_ptr, bias_ptr, grad_ptr, target_ptr, logp_ptr, entropy_ptr,
    size, stride_z, stride_grad, factor, softcap, temperature,
    BIAS: tl.constexpr, CAP: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: logp, entropy, and U times the soft-cap's slope over the row's own memory."""
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * stride_z
    grad_ptr += row * stride_grad
    target = tl.load(target_ptr + row)
    lanes = tl.arange(0, BLOCK)  # shared by both passes, which spares registers
    bias = 0.0
    if BIAS:
        bias = tl.load(bias_ptr + target).to(tl.float32)
    taken = tl.load(z_ptr + target).to(tl.float32)
    taken = _logits(taken, bias, factor, softcap, temperature=temperature, BIAS=BIAS, CAP=CAP)
    top, others, moment = _row_sums(
        z_ptr, bias_ptr, target, taken, lanes=lanes, size=size, factor=factor, softcap=softcap,
        temperature=temperature, BIAS=BIAS, CAP=CAP, BLOCK=BLOCK,
    )  # fmt: skip
    e_taken = tl.exp(taken - top)
    total = others + e_taken
    rest = others / total
    logp = tl.where(rest < 0.5, _log1p(-rest), taken - top - tl.log(total))
    tl.store(logp_ptr + row, logp)
    tl.store(entropy_ptr + row, tl.log(total) - (moment + (taken - top) * e_taken) / total)
    if GRADIENT:
        for start in range(0, size, BLOCK):
            at = start + lanes
            z = _load_logits(
                z_ptr, bias_ptr, at, size, factor=factor, softcap=softcap, temperature=temperature,
                BIAS=BIAS, CAP=CAP,
            )  # fmt: skip
            grad = tl.where(at == target, -rest, tl.exp(z - top) / total)
            if CAP:
                grad *= _softcap_slope(z, softcap, temperature)
            tl.debug_barrier()  # the bytes written were read in this or an earlier iteration
            tl.store(grad_ptr + at, grad.to(grad_ptr.dtype.element_ty), mask=at < _room(size))


@triton.jit
def _product_tile(
    x_desc, w_desc, row, column, width,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for at in range(0, width, BK):
        x = x_desc.load([row, at])
        w = w_desc.load([column, at])
        acc = tl.dot(x, w.T, acc, input_precision=PRECISION)
    return acc


@triton.jit
def exp_tiles_kernel(
    x_desc, w_desc, e_ptr, bias_ptr, target_ptr, peak_ptr, sum_ptr, moment_ptr, taken_ptr,
    num_rows, size, width, stride_e, factor, softcap, temperature,
    BIAS: tl.constexpr, CAP: tl.constexpr, STORE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the first product; statistics are [vocabulary tiles, rows], the target's exponent in `taken`."""
    tiles_m = tl.cdiv(num_rows, BM)
    tile_m = tl.program_id(0) % tiles_m
    tile_n = tl.program_id(0) // tiles_m
    acc = _product_tile(
        x_desc, w_desc, tile_m * BM, tile_n * BN, width=width,
        BM=BM, BN=BN, BK=BK, PRECISION=PRECISION,
    )  # fmt: skip
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * BN + tl.arange(0, BN)
    within = rows < num_rows
    inside = columns < size
    bias = tl.zeros((BN,), dtype=tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    y = _logits(acc, bias[None, :], factor, softcap, temperature=temperature, BIAS=BIAS, CAP=CAP)
    y = tl.where(inside[None, :], y * LOG2E, LEAST)
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
        offset = rows.to(tl.int64)[:, None] * stride_e + columns[None, :]
        mask = within[:, None] & (columns < _room(size))[None, :]
        tl.store(e_ptr + offset, e.to(e_ptr.dtype.element_ty), mask=mask)


@triton.jit
def merge_tiles_kernel(
    peak_ptr, sum_ptr, moment_ptr, taken_ptr,
    logp_ptr, entropy_ptr, peak_row_ptr, total_ptr, rest_ptr,
    num_rows, num_tiles, BM: tl.constexpr,
):  # fmt: skip
    """Of each row, from its tiles: logp, entropy, the largest exponent, the sum relative to it, the others' mass."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    within = rows < num_rows
    taken = tl.load(taken_ptr + rows, mask=within, other=0.0)
    top = tl.ceil(taken)
    others = tl.zeros((BM,), dtype=tl.float32)
    moment = tl.zeros((BM,), dtype=tl.float32)
    at = rows.to(tl.int64)
    for _ in range(0, num_tiles):
        peak = tl.load(peak_ptr + at, mask=within, other=LEAST)
        part = tl.load(sum_ptr + at, mask=within, other=0.0)
        lever = tl.load(moment_ptr + at, mask=within, other=0.0)
        higher = tl.maximum(top, peak)
        shrink = tl.exp2(top - higher)
        grow = tl.exp2(peak - higher)
        drop = tl.maximum(top - higher, -1e4)
        lift = tl.maximum(peak - higher, -1e4)
        moment = (moment + drop * others) * shrink + (lever + lift * part) * grow
        others = others * shrink + part * grow
        top = higher
        at += num_rows
    e_taken = tl.exp2(taken - top)
    total = others + e_taken
    rest = others / total
    log_total = tl.log(total)
    logp = tl.where(rest < 0.5, _log1p(-rest), (taken - top) * LN2 - log_total)
    entropy = log_total - LN2 * (moment + (taken - top) * e_taken) / total
    tl.store(logp_ptr + rows, logp, mask=within)
    tl.store(entropy_ptr + rows, entropy, mask=within)
    tl.store(peak_row_ptr + rows, top, mask=within)
    tl.store(total_ptr + rows, total, mask=within)
    tl.store(rest_ptr + rows, rest, mask=within)


@triton.jit
def tile_gradient_kernel(
    e_ptr, target_ptr, peak_ptr, peak_row_ptr, total_ptr, rest_ptr,
    num_rows, size, stride_e, softcap, temperature,
    CAP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """E becomes U in place, times the soft-cap's slope. Tiles are as wide as those of `exp_tiles_kernel`."""
    tiles_m = tl.cdiv(num_rows, BM)
    tile_m = tl.program_id(0) % tiles_m
    tile_n = tl.program_id(0) // tiles_m
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * BN + tl.arange(0, BN)
    within = rows < num_rows
    peak = tl.load(peak_ptr + tile_n.to(tl.int64) * num_rows + rows, mask=within, other=0.0)
    scale = tl.exp2(peak - tl.load(peak_row_ptr + rows, mask=within, other=0.0))
    scale /= tl.load(total_ptr + rows, mask=within, other=1.0)
    rest = tl.load(rest_ptr + rows, mask=within, other=0.0)
    target = tl.load(target_ptr + rows, mask=within, other=-1)
    pointers = e_ptr + rows.to(tl.int64)[:, None] * stride_e + columns[None, :]
    mask = within[:, None] & (columns < _room(size))[None, :]
    e = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    grad = tl.where(columns[None, :] == target[:, None], -rest[:, None], e * scale[:, None])
    if CAP:
        z = (tl.log2(tl.maximum(e, 1e-38)) + peak[:, None]) * LN2
        grad *= _softcap_slope(z, softcap, temperature)
    tl.store(pointers, grad.to(e_ptr.dtype.element_ty), mask=mask)


@triton.jit
def entropy_gradient_kernel(
    grad_ptr, target_ptr, g_ptr, e_ptr, logp_ptr, entropy_ptr, size, stride_grad,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """U := g U + e p (log p + entropy), p from U itself; heads without a soft-cap."""
    row = tl.program_id(0).to(tl.int64)
    grad_ptr += row * stride_grad
    target = tl.load(target_ptr + row)
    g = tl.load(g_ptr + row)
    e = tl.load(e_ptr + row)
    entropy = tl.load(entropy_ptr + row)
    taken = tl.load(logp_ptr + row)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < _room(size)
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
        p = tl.where(at == target, 1.0 + grad, grad)
        logp = tl.where(at == target, taken, tl.log(tl.maximum(p, 1e-38)))
        grad = g * grad + e * p * (logp + entropy)
        tl.store(grad_ptr + at, grad.to(grad_ptr.dtype.element_ty), mask=inside)
