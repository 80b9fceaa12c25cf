"""Inputs of the log-prob head at odd shapes, and the comparison of a back-end with the specification in float64."""

from __future__ import annotations

import torch

from grpo.kernels.log_prob import Gradients, Head, reference

HEADS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "bias and scale": {"bias": True, "scale": 0.4, "temperature": 1.3},
    "soft-cap": {"softcap": 7.0, "bias": True, "temperature": 0.8},
}


def problem(
    rows: int, width: int, size: int, dtype=torch.float32, *, bias=False, peak=3.0, **numbers
):
    """(hidden_TD, head, target_T, g_T, e_T); in a third of the rows the target is almost certain."""
    weight_VD = peak * torch.randn(size, width) / width**0.5
    target_T = torch.randint(size, (rows,))
    hidden_TD = torch.randn(rows, width)
    sure = rows // 3
    hidden_TD[:sure] += 30 * weight_VD[target_T[:sure]] / peak**2
    head = Head(weight_VD.to(dtype), torch.randn(size).to(dtype) if bias else None, **numbers)
    return hidden_TD.to(dtype), head, target_T, torch.randn(rows), torch.randn(rows)


def doubled(head: Head) -> Head:
    bias_V = None if head.bias_V is None else head.bias_V.double()
    return Head(head.weight_VD.double(), bias_V, head.scale, head.softcap, head.temperature)


def computed(function, hidden_TD, head, target_T, g_T, e_T, spans):
    """(logp, entropy, dL/dh, dL/dW, dL/db or None) in float64."""
    dtype = torch.promote_types(head.weight_VD.dtype, torch.float32)
    made = Gradients(
        torch.ones_like(head.weight_VD, dtype=dtype),  # gradients are added to these
        None if head.bias_V is None else torch.ones_like(head.bias_V, dtype=dtype),
    )

    def coefficients(start, end, logp_R, entropy_R):
        assert len(logp_R) == end - start == len(entropy_R)
        return g_T[start:end].to(logp_R.dtype), None if e_T is None else e_T[start:end].to(
            logp_R.dtype
        )

    found = function(hidden_TD, head, target_T, coefficients, made, spans)
    parts = (
        found.logp_T,
        found.entropy_T,
        found.hidden_TD,
        made.weight_VD - 1,
        None if made.bias_V is None else made.bias_V - 1,
    )
    return [None if part is None else part.double() for part in parts]


def compared(function, inputs, spans, *, logp: float, gradient: float) -> None:
    """`function` on the inputs against the specification on the same inputs in float64."""
    hidden_TD, head, target_T, g_T, e_T = inputs
    found = computed(function, hidden_TD, head, target_T, g_T, e_T, spans)
    expected = computed(
        reference.fused_log_prob, hidden_TD.double(), doubled(head), target_T, g_T, e_T, spans
    )
    for i, (one, other) in enumerate(zip(found, expected)):
        if other is None:
            continue
        assert one.isfinite().all()
        apart = (one - other).abs().max() if i < 2 else (one - other).norm() / other.norm()
        assert apart <= (logp if i < 2 else gradient), f"part {i}: {float(apart):.1e}"
