"""The specification of the head: whole logits, one formula a line, gradients by autograd, any float dtype."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from grpo.kernels.log_prob.spec import Coefficients, Gradients, Head, LogProbResult


def logits(hidden_TD: Tensor, head: Head) -> Tensor:
    """[T, V] logits at the inputs' own dtype."""
    z_TV = hidden_TD @ head.weight_VD.T
    if head.bias_V is not None:
        z_TV = z_TV + head.bias_V
    z_TV = head.scale * z_TV
    if head.softcap:
        z_TV = head.softcap * torch.tanh(z_TV / head.softcap)
    return z_TV / head.temperature


def logprob(hidden_TD: Tensor, head: Head, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """(logp_T, entropy_T), both with gradient; a confident token's logp is log1p of minus the mass of all others."""
    z_TV = logits(hidden_TD, head)
    logp_TV = z_TV.log_softmax(-1)
    logp_T = logp_TV.gather(-1, target_T[:, None])[:, 0]
    other_T = logp_TV.exp().scatter(-1, target_T[:, None], 0.0).sum(-1)
    logp_T = torch.where(other_T < 0.5, torch.log1p(-other_T.clamp(max=0.5)), logp_T)
    return logp_T, -(logp_TV.exp() * logp_TV).sum(-1)


def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    spans: Sequence[tuple[int, int]] = (),
) -> LogProbResult:
    """See `grpo.kernels.log_prob.fused_log_prob`; the loss over all tokens at once, whatever `spans` says."""
    hidden_TD = hidden_TD.detach().requires_grad_()
    head = head.without_gradient()
    leaves = [hidden_TD]
    if gradients is not None:
        leaves.append(head.weight_VD.requires_grad_())
        if head.bias_V is not None:
            leaves.append(head.bias_V.requires_grad_())
    with torch.enable_grad():
        logp_T, entropy_T = logprob(hidden_TD, head, target_T)
    if coefficients is None:
        return LogProbResult(logp_T.detach(), entropy_T.detach())
    g_T, e_T = coefficients(0, len(target_T), logp_T.detach(), entropy_T.detach())
    with torch.enable_grad():
        total = (g_T * logp_T).sum()
        if e_T is not None:
            total = total + (e_T * entropy_T).sum()
    grad_TD, *head_grads = torch.autograd.grad(total, leaves)
    if gradients is not None:
        gradients.weight_VD.add_(head_grads[0])
        if gradients.bias_V is not None:
            gradients.bias_V.add_(head_grads[1])
    return LogProbResult(logp_T.detach(), entropy_T.detach(), grad_TD)
