"""The head as torch operators with fakes and autograd, so that compile and checkpointing see through it.

A frozen head keeps the gradient d logp / dh of each token: its backward is one multiplication (two products in all). A
trainable head recomputes its logits in the backward (four); `grpo.kernels.log_prob.fused_log_prob` needs three, but has
to know the loss.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from grpo.kernels.log_prob.dispatch import fused_log_prob
from grpo.kernels.log_prob.spec import Gradients, Head, statistics_dtype


@torch.library.custom_op("grpo::head_logprob", mutates_args=())
def head_logprob(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],  # noqa: UP045  torch infers the schema from this form
    target_T: Tensor,
    scale: float,
    softcap: float,
    temperature: float,
    unit: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp_T, entropy_T, d logp / dh [T, D] if `unit`, else empty)."""
    head = Head(weight_VD, bias_V, scale=scale, softcap=softcap, temperature=temperature)
    result = fused_log_prob(hidden_TD, head, target_T, _ones if unit else None)
    grad_TD = hidden_TD.new_empty(0) if result.hidden_TD is None else result.hidden_TD
    return result.logp_T, result.entropy_T, grad_TD


def _ones(start: int, end: int, logp_R: Tensor, entropy_R: Tensor) -> tuple[Tensor, None]:
    return torch.ones_like(logp_R), None


@head_logprob.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, scale, softcap, temperature, unit):
    dtype = statistics_dtype(hidden_TD.dtype)
    logp_T = hidden_TD.new_empty(target_T.shape, dtype=dtype)
    entropy_T = torch.empty_like(logp_T)
    return logp_T, entropy_T, torch.empty_like(hidden_TD) if unit else hidden_TD.new_empty(0)


@torch.library.custom_op("grpo::head_gradient", mutates_args=())
def head_gradient(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],  # noqa: UP045  torch infers the schema from this form
    target_T: Tensor,
    g_T: Tensor,
    e_T: Optional[Tensor],  # noqa: UP045  torch infers the schema from this form
    scale: float,
    softcap: float,
    temperature: float,
    trainable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dh, dL/dW, dL/db) from g = dL/dlogp and e = dL/dentropy; the last two fp32, empty if not `trainable`."""
    head = Head(weight_VD, bias_V, scale=scale, softcap=softcap, temperature=temperature)
    gradients = _zeros_like(head) if trainable else None

    def coefficients(start: int, end: int, *_: Tensor) -> tuple[Tensor, Tensor | None]:
        return g_T[start:end], None if e_T is None else e_T[start:end]

    result = fused_log_prob(hidden_TD, head, target_T, coefficients, gradients=gradients)
    assert result.hidden_TD is not None, "there are coefficients"
    empty = hidden_TD.new_empty(0)
    if gradients is None:
        return result.hidden_TD, empty, empty.clone()
    bias_V = empty if gradients.bias_V is None else gradients.bias_V
    return result.hidden_TD, gradients.weight_VD, bias_V


def _zeros_like(head: Head) -> Gradients:
    weight_VD = torch.zeros_like(head.weight_VD, dtype=statistics_dtype(head.weight_VD.dtype))
    if head.bias_V is None:
        return Gradients(weight_VD)
    bias_V = torch.zeros_like(head.bias_V, dtype=statistics_dtype(head.bias_V.dtype))
    return Gradients(weight_VD, bias_V)


@head_gradient.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, g_T, e_T, scale, softcap, temperature, trainable):
    weight = hidden_TD.new_empty(0)
    bias = hidden_TD.new_empty(0)
    if trainable:
        weight = torch.empty_like(weight_VD, dtype=statistics_dtype(weight_VD.dtype))
        if bias_V is not None:
            bias = torch.empty_like(bias_V, dtype=statistics_dtype(bias_V.dtype))
    return torch.empty_like(hidden_TD), weight, bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, ctx.softcap, ctx.temperature, ctx.unit = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, g_T: Tensor | None, e_T: Tensor | None, _: Any) -> tuple[Any, ...]:
    hidden_TD, weight_VD, bias_V, target_T, unit_TD = ctx.saved_tensors
    no_grads = (None,) * 5
    if g_T is None:
        if e_T is None:
            return None, None, None, *no_grads
        g_T = torch.zeros_like(e_T)
    if ctx.unit and e_T is None:
        grad_TD = (unit_TD.to(g_T.dtype) * g_T[:, None]).to(hidden_TD.dtype)
        return grad_TD, None, None, *no_grads
    trainable = ctx.needs_input_grad[1]
    numbers = {"scale": ctx.scale, "softcap": ctx.softcap, "temperature": ctx.temperature}
    hidden, weight, bias = head_gradient(
        hidden_TD,
        weight_VD,
        bias_V,
        target_T,
        g_T=g_T,
        e_T=e_T,
        trainable=trainable,
        **numbers,
    )
    grad_VD = weight.to(weight_VD.dtype) if trainable else None
    grad_V = bias.to(bias_V.dtype) if trainable and bias_V is not None else None
    return hidden, grad_VD, grad_V, *no_grads


head_logprob.register_autograd(_backward, setup_context=_save)


def logprob(hidden_TD: Tensor, head: Head, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """(logp_T, entropy_T), both with gradient to the hidden states and to a head that requires one."""
    is_frozen = not head.weight_VD.requires_grad
    logp_T, entropy_T, _ = head_logprob(
        hidden_TD,
        head.weight_VD,
        head.bias_V,
        target_T,
        scale=float(head.scale),
        softcap=float(head.softcap),
        temperature=float(head.temperature),
        unit=torch.is_grad_enabled() and hidden_TD.requires_grad and is_frozen,
    )
    return logp_T, entropy_T
