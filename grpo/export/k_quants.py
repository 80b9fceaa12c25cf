"""Weights as blocks of 256 in llama.cpp's formats Q4_K and Q6_K, which the package gguf reads but does not write.

A block of Q4_K has eight parts of 32 values, x = d * scale * q - dmin * minimum, with q of 4 bits and scale and minimum
of 6; one of Q6_K has sixteen parts of 16, x = d * scale * q, with q of 6 bits and scale of 8. The scales are fitted: of
several roundings of a part to q, that one is kept whose least-squares scale leaves the smallest weighted error. Which
tensors get which format is up to ``precision``.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

BLOCK = 256
Q4_K_BYTES = 144
Q6_K_BYTES = 210
BLOCKS_AT_ONCE = 1024
"""Blocks that are fitted together: 1 MB of fp32 values, which stays in a processor's cache."""
OFFSETS = torch.linspace(-1.0, 1.0, 11)
"""A part's range is spread over so many steps beyond those that there are, one try each."""
TINY = 1e-30


def quantize_q4_k(rows: Tensor) -> Tensor:
    """Rows [N, K] of fp32, K a multiple of 256, as bytes [N, K / 256 * 144] of Q4_K."""
    return _by_blocks(rows, _q4_k_blocks, Q4_K_BYTES)


def quantize_q6_k(rows: Tensor) -> Tensor:
    """Rows [N, K] of fp32, K a multiple of 256, as bytes [N, K / 256 * 210] of Q6_K."""
    return _by_blocks(rows, _q6_k_blocks, Q6_K_BYTES)


def _by_blocks(rows: Tensor, quantize: Callable[[Tensor], Tensor], num_bytes: int) -> Tensor:
    assert rows.shape[-1] % BLOCK == 0, "a row is whole blocks"
    blocks = rows.reshape(-1, BLOCK).float()
    parts = [quantize(part) for part in blocks.split(BLOCKS_AT_ONCE)]
    return torch.cat(parts).reshape(rows.shape[0], -1, num_bytes).flatten(1)


def _importance(x: Tensor) -> Tensor:
    """The weight of each value's error: large values count more, as in llama.cpp without an importance matrix."""
    return x.pow(2).mean(-1, keepdim=True).sqrt() + x.abs()


def _half(values: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 values [N] as bytes [N, 2] of fp16, and what those bytes mean."""
    rounded = values.half()
    return rounded[:, None].view(torch.uint8), rounded.float()


# ---- Q4_K -------------------------------------------------------------------------------------------------------


def _q4_k_blocks(blocks: Tensor) -> Tensor:
    x = blocks.view(-1, 8, 32)
    scale, minimum = _fit_scale_and_minimum(x)
    d_bytes, d = _half(scale.amax(-1) / 63)
    dmin_bytes, dmin = _half(minimum.amax(-1) / 63)
    scale_6 = _steps(scale, d, 63)
    minimum_6 = _steps(minimum, dmin, 63)
    whole_scale = (d[:, None] * scale_6)[..., None]
    whole_minimum = (dmin[:, None] * minimum_6)[..., None]
    q = _divided(x + whole_minimum, whole_scale).round().clamp(0, 15).to(torch.uint8)
    pairs = q.view(-1, 4, 2, 32)
    nibbles = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    parts = [d_bytes, dmin_bytes, _packed_scales(scale_6, minimum_6), nibbles.flatten(1)]
    return torch.cat(parts, dim=1)


def _fit_scale_and_minimum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum [N, 8], both at least 0, with x about scale * q - minimum for a q from 0 to 15."""
    weight = _importance(x)
    low = x.amin(-1, keepdim=True).clamp_max(0)
    span = x.amax(-1, keepdim=True).clamp_min(0) - low
    best_error = torch.full_like(span, float("inf"))
    best_scale = torch.zeros_like(span)
    best_minimum = torch.zeros_like(span)
    for offset in OFFSETS.tolist():
        q = ((x - low) * _divided(torch.full_like(span, 15 + offset), span)).round().clamp(0, 15)
        scale, minimum = _least_squares(x, q, weight)
        rounded = _divided(x + minimum, scale).round().clamp(0, 15)
        error = (weight * (scale * rounded - minimum - x).pow(2)).sum(-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale = torch.where(is_better, scale, best_scale)
        best_minimum = torch.where(is_better, minimum, best_minimum)
    return best_scale[..., 0], best_minimum[..., 0]


def _least_squares(x: Tensor, q: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and minimum [.., 1], at least 0, that minimise sum weight (x - scale q + minimum)^2."""
    sum_w = weight.sum(-1, keepdim=True)
    mean_q = (weight * q).sum(-1, keepdim=True) / sum_w.clamp_min(TINY)
    mean_x = (weight * x).sum(-1, keepdim=True) / sum_w.clamp_min(TINY)
    centred_q = q - mean_q
    covariance = (weight * centred_q * (x - mean_x)).sum(-1, keepdim=True)
    scale = _divided(covariance, (weight * centred_q.pow(2)).sum(-1, keepdim=True))
    minimum = scale * mean_q - mean_x
    plain = _divided(
        (weight * q * x).sum(-1, keepdim=True), (weight * q.pow(2)).sum(-1, keepdim=True)
    )
    scale = torch.where(minimum < 0, plain, scale)
    return scale.clamp_min(0), minimum.clamp_min(0)


def _steps(values: Tensor, unit: Tensor, largest: int) -> Tensor:
    """`values` [N, P] in whole multiples of `unit` [N], as fp32."""
    return _divided(values, unit[:, None].expand_as(values)).round().clamp(0, largest)


def _divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; 0 where the denominator is."""
    is_zero = denominator.abs() < TINY
    return torch.where(is_zero, 0.0, numerator / torch.where(is_zero, 1.0, denominator))


def _packed_scales(scale: Tensor, minimum: Tensor) -> Tensor:
    """Eight scales and minima of 6 bits in 12 bytes: the first four carry the upper bits of the last four."""
    s = scale.to(torch.uint8)
    m = minimum.to(torch.uint8)
    first = s[:, :4] | ((s[:, 4:] >> 4) << 6)
    second = m[:, :4] | ((m[:, 4:] >> 4) << 6)
    third = (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)
    return torch.cat([first, second, third], dim=1)


# ---- Q6_K -------------------------------------------------------------------------------------------------------


def _q6_k_blocks(blocks: Tensor) -> Tensor:
    x = blocks.view(-1, 16, 16)
    scale = _fit_scale(x)
    largest = scale.gather(1, scale.abs().argmax(1, keepdim=True))[:, 0]
    d_bytes, d = _half(largest / -128)
    scale_8 = _divided(scale, d[:, None].expand_as(scale)).round().clamp(-128, 127)
    q = _divided(x, (d[:, None] * scale_8)[..., None].expand_as(x)).round().clamp(-32, 31) + 32
    groups = q.to(torch.uint8).view(-1, 2, 4, 32)
    low = groups & 15
    low_bytes = torch.cat(
        [low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], -1
    )
    high = groups >> 4
    high_bytes = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    scale_bytes = scale_8.to(torch.int8).view(torch.uint8)
    return torch.cat([low_bytes.flatten(1), high_bytes.flatten(1), scale_bytes, d_bytes], dim=1)


def _fit_scale(x: Tensor) -> Tensor:
    """The scale [N, 16] with x about scale * q for a q from -32 to 31; its sign takes the largest value to -32."""
    weight = x.pow(2)
    peak = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    best_gain = torch.zeros_like(peak)
    best_scale = torch.zeros_like(peak)
    for offset in OFFSETS.tolist():
        q = (x * _divided(torch.full_like(peak, -32 - offset), peak)).round().clamp(-32, 31)
        product = (weight * q * x).sum(-1, keepdim=True)
        square = (weight * q.pow(2)).sum(-1, keepdim=True)
        gain = _divided(product.pow(2), square)
        is_better = gain > best_gain
        best_gain = torch.where(is_better, gain, best_gain)
        best_scale = torch.where(is_better, _divided(product, square), best_scale)
    return best_scale[..., 0]
