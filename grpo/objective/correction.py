"""Sampler and trainer reconciled: importance weights of the old policy against the one that sampled.

w_t = exp(old_logp - sampled_logp). A weight is taken per token, per completion (the product of its w_t) or as
the geometric mean of its w_t; it may be truncated, and what lies outside a band may be dropped, each at a
level of its own. With ``loss.old: forward`` this is decoupled PPO (AReaL, arXiv 2505.24298): clip against the
old policy, correct from the sampler to it. The weights carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Protocol

import torch
from torch import Tensor

from grpo.objective.policy_loss import RATIO_LOG_LIMIT, Tokens, log_ratio


class Settings(Protocol):
    """The keys of ``loss`` that decide the weights."""

    correction: str
    correction_cap: float
    correction_mask: str
    correction_low: float
    correction_high: float


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """``weight_T`` multiplies a token's loss; ``raw_T`` is the same before truncation and mask.

    ``unit_T`` is 1 for token weights, 1/L where a completion has one weight, so that sums of it count them.
    """

    weight_T: Tensor
    raw_T: Tensor
    unit_T: Tensor


def token_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """w_t: biased beyond the first token, calm at any length (truncated: TIS)."""
    return log_T


def sequence_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """ln of the product of w_t: unbiased, its variance grows with the completion's length."""
    return tokens.row_sum(log_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)


def geometric_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """The mean of ln w_t: finds completions that are off everywhere, at any length."""
    return tokens.row_mean(log_T)


LEVELS: Mapping[str, Callable[[Tensor, Tokens], Tensor]] = {
    "token": token_level,
    "sequence": sequence_level,
    "geometric": geometric_level,
}


def is_on(settings: Settings) -> bool:
    return settings.correction != "none" or settings.correction_mask != "none"


def weights(tokens: Tokens, settings: Settings) -> Weights:
    """The weights that `settings` ask for, all 1 where they ask for none.

    A token whose sampler's log-prob is not a number weighs 0: it is never taken for a ratio of 1.
    """
    if not is_on(settings):
        ones_T = torch.ones_like(tokens.old_logp_T)
        return Weights(ones_T, ones_T, ones_T)
    seen_T = tokens.sampled_logp_T.isfinite()
    log_T = torch.where(seen_T, log_ratio(tokens.old_logp_T, tokens.sampled_logp_T), 0.0)
    raw_T = torch.ones_like(log_T)
    if settings.correction != "none":
        raw_T = LEVELS[settings.correction](log_T, tokens).exp()
    weight_T = raw_T.clamp(max=settings.correction_cap) if settings.correction_cap else raw_T
    if settings.correction_mask != "none":
        ratio_T = LEVELS[settings.correction_mask](log_T, tokens).exp()
        weight_T = weight_T * (
            (ratio_T >= settings.correction_low) & (ratio_T <= settings.correction_high)
        )
    by_row = settings.correction in ("sequence", "geometric")
    unit_T = (
        (1.0 / tokens.length_R.to(raw_T.dtype))[tokens.row_T] if by_row else torch.ones_like(raw_T)
    )
    return Weights(weight_T * seen_T, raw_T, unit_T)


def effective_share(total: float, squares: float, number: float) -> float:
    """(sum w)^2 / (n sum w^2): the share of samples that equal weights would need for the same variance."""
    return total * total / (number * squares) if squares else 0.0
