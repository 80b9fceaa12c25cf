"""From whole logits [T, V] to the log-prob of given tokens, and the entropy.

`reference` is the specification; `token_logprob` is the same in less memory: it keeps no second [T, V]
tensor for the backward, and the entropy, a metric, carries no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    logits_TV: Tensor, target_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(logp_T, entropy_T) of softmax(logits / temperature), at the logits' own dtype."""
    logp_TV = (logits_TV / temperature).log_softmax(-1)
    return logp_TV.gather(-1, target_T[:, None])[:, 0], -(logp_TV.exp() * logp_TV).sum(-1)


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scaled_TV: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
        lse_T = scaled_TV.logsumexp(-1)
        prob_TV = (scaled_TV - lse_T[:, None]).exp_()
        finite_TV = scaled_TV.clamp_min(torch.finfo(scaled_TV.dtype).min)
        entropy_T = lse_T - torch.einsum("tv,tv->t", prob_TV, finite_TV)
        logp_T = scaled_TV.gather(-1, target_T[:, None])[:, 0] - lse_T
        ctx.save_for_backward(prob_TV, target_T)
        ctx.mark_non_differentiable(entropy_T)
        return logp_T, entropy_T

    @staticmethod
    def backward(ctx, grad_T: Tensor, _: Tensor) -> tuple[Tensor, None]:
        prob_TV, target_T = ctx.saved_tensors
        grad_TV = prob_TV * -grad_T[:, None]
        grad_TV.scatter_add_(-1, target_T[:, None], grad_T[:, None])
        return grad_TV, None


def token_logprob(
    logits_TV: Tensor, target_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(logp_T with gradient, entropy_T without) of softmax(logits / temperature), fp32 or finer.

    Each row is shifted to a maximum of 0: the digits of logits far from 0 would be lost in their logsumexp.
    """
    logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    scaled_TV = logits_TV / temperature
    top_T1 = scaled_TV.detach().amax(-1, keepdim=True)
    return _TokenLogprob.apply(scaled_TV.sub_(top_T1), target_T)


def entropy(logits_TV: Tensor, temperature: float = 1.0) -> Tensor:
    """The entropy of softmax(logits / temperature) with its gradient, for a loss that uses it, fp32 or finer."""
    logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    scaled_TV = logits_TV / temperature
    top_T1 = scaled_TV.detach().amax(-1, keepdim=True)
    scaled_TV = (scaled_TV - top_T1).clamp_min(torch.finfo(scaled_TV.dtype).min)
    return scaled_TV.logsumexp(-1) - (scaled_TV.softmax(-1) * scaled_TV).sum(-1)
