"""The head as torch operators with fakes and autograd, so that compile and checkpointing see through it.

A frozen head keeps the unit gradient d logp / dh of each token: its backward is one multiplication (two products
in all). A trainable head computes its logits again in the backward (four); `grpo.kernels.log_prob.fused_log_prob` needs
three, but wants to know the loss.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from grpo.kernels import log_prob
from grpo.kernels.log_prob.spec import Gradients, Head, statistics_dtype


@torch.library.custom_op("grpo::head_logprob", mutates_args=())
def head_logprob(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],
    target_T: Tensor,
    scale: float,  # noqa: UP045
    softcap: float,
    temperature: float,
    unit: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp_T, entropy_T, d logp / dh [T, D] if `unit`, else empty)."""
    head = Head(weight_VD, bias_V, scale, softcap, temperature)
    swept = log_prob.fused_log_prob(hidden_TD, head, target_T, _ones if unit else None)
    return swept.logp_T, swept.entropy_T, swept.hidden_TD if unit else hidden_TD.new_empty(0)


def _ones(start: int, end: int, logp_R: Tensor, entropy_R: Tensor) -> tuple[Tensor, None]:
    return torch.ones_like(logp_R), None


@head_logprob.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, scale, softcap, temperature, unit):
    dtype = statistics_dtype(hidden_TD.dtype)
    logp_T, entropy_T = (hidden_TD.new_empty(target_T.shape, dtype=dtype) for _ in range(2))
    return logp_T, entropy_T, torch.empty_like(hidden_TD) if unit else hidden_TD.new_empty(0)


@torch.library.custom_op("grpo::head_gradient", mutates_args=())
def head_gradient(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],
    target_T: Tensor,
    g_T: Tensor,  # noqa: UP045
    e_T: Optional[Tensor],
    scale: float,
    softcap: float,
    temperature: float,  # noqa: UP045
    trainable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dh, dL/dW, dL/db) from g = dL/dlogp and e = dL/dentropy; the last two fp32, empty if not `trainable`."""
    head, gradients = Head(weight_VD, bias_V, scale, softcap, temperature), None
    if trainable:
        gradients = Gradients(
            *(
                None if part is None else torch.zeros_like(part, dtype=statistics_dtype(part.dtype))
                for part in (weight_VD, bias_V)
            )
        )
    swept = log_prob.fused_log_prob(
        hidden_TD,
        head,
        target_T,
        lambda a, b, *_: (g_T[a:b], None if e_T is None else e_T[a:b]),
        gradients,
    )
    found = (None, None) if gradients is None else (gradients.weight_VD, gradients.bias_V)
    return swept.hidden_TD, *(hidden_TD.new_empty(0) if part is None else part for part in found)


@head_gradient.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, g_T, e_T, scale, softcap, temperature, trainable):
    weight, bias = hidden_TD.new_empty(0), hidden_TD.new_empty(0)
    if trainable:
        weight = torch.empty_like(weight_VD, dtype=statistics_dtype(weight_VD.dtype))
        bias = (
            bias
            if bias_V is None
            else torch.empty_like(bias_V, dtype=statistics_dtype(bias_V.dtype))
        )
    return torch.empty_like(hidden_TD), weight, bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden_TD, weight_VD, bias_V, target_T, *ctx.numbers, ctx.unit = inputs
    ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T, output[2])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, g_T: Tensor | None, e_T: Tensor | None, _: Any) -> tuple[Any, ...]:
    hidden_TD, weight_VD, bias_V, target_T, unit_TD = ctx.saved_tensors
    if g_T is None and e_T is None:
        return (None,) * 8
    if ctx.unit and e_T is None:
        grad_TD = (unit_TD.to(g_T.dtype) * g_T[:, None]).to(hidden_TD.dtype)
        return grad_TD, *(None,) * 7
    trainable = ctx.needs_input_grad[1]
    g_T = torch.zeros_like(e_T) if g_T is None else g_T
    hidden, weight, bias = head_gradient(
        hidden_TD, weight_VD, bias_V, target_T, g_T, e_T, *ctx.numbers, trainable
    )
    grad_VD = weight.to(weight_VD.dtype) if trainable else None
    grad_V = bias.to(bias_V.dtype) if trainable and bias_V is not None else None
    return hidden, grad_VD, grad_V, *(None,) * 5


head_logprob.register_autograd(_backward, setup_context=_keep)


def logprob(hidden_TD: Tensor, head: Head, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """(logp_T, entropy_T), both with gradient to the hidden states and, if it wants one, to the head."""
    unit = torch.is_grad_enabled() and hidden_TD.requires_grad and not head.weight_VD.requires_grad
    logp_T, entropy_T, _ = head_logprob(
        hidden_TD,
        head.weight_VD,
        head.bias_V,
        target_T,
        float(head.scale),
        float(head.softcap),
        float(head.temperature),
        unit,
    )
    return logp_T, entropy_T
