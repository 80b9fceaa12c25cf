"""Corrections for a sampler that differs from the trainer: importance weights of the old policy against the sampler.

w_t = exp(old_logp - sampled_logp). A weight is taken per token, per completion (the product of its w_t) or as the
geometric mean of its w_t; it may be truncated, and what lies outside a band may be dropped, each at its own level.
With ``loss.old: forward`` this is decoupled PPO (AReaL, arXiv 2505.24298): clip against the old policy, correct from
the sampler to it. The weights carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

import torch
from torch import Tensor

from grpo.objective.tokens import RATIO_LOG_LIMIT, Tokens, log_ratio
from grpo.recipe import LossSection
from grpo.recipe.objectives import LEVEL_SPECS


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """``weight_T`` multiplies a token's loss; ``raw_T`` is the same before truncation and mask.

    ``unit_T`` is 1 for token weights, 1/L where a completion has one weight, so that sums of it count weights.
    """

    weight_T: Tensor
    raw_T: Tensor
    unit_T: Tensor


def token_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """The token's own w_t: biased beyond the first token, low variance at any length (truncated: TIS)."""
    return log_T


def sequence_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """The log of the product of w_t: unbiased, its variance grows with the completion's length."""
    return tokens.row_sum(log_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)


def geometric_level(log_T: Tensor, tokens: Tokens) -> Tensor:
    """The mean of log w_t: detects completions that are off everywhere, at any length."""
    return tokens.row_mean(log_T)


LEVELS: Mapping[str, Callable[[Tensor, Tokens], Tensor]] = {
    "token": token_level,
    "sequence": sequence_level,
    "geometric": geometric_level,
}
"""(log w_T, tokens) -> the log of each token's weight at this level."""

assert list(LEVELS) == list(LEVEL_SPECS)


def is_on(loss: LossSection) -> bool:
    return loss.correction != "none" or loss.correction_mask != "none"


def couples_tokens(loss: LossSection) -> bool:
    """Whether a token's weight depends on the other tokens of its completion."""
    levels = {loss.correction, loss.correction_mask} - {"none"}
    return any(LEVEL_SPECS[level].couples_tokens for level in levels)


def weights(tokens: Tokens, loss: LossSection) -> Weights:
    """The weights that the recipe asks for, all 1 where it asks for none.

    A token whose sampled log-prob is not finite weighs 0: it is never taken for a ratio of 1.
    """
    if not is_on(loss):
        ones_T = torch.ones_like(tokens.old_logp_T)
        return Weights(weight_T=ones_T, raw_T=ones_T, unit_T=ones_T)
    known_T = tokens.sampled_logp_T.isfinite()
    log_T = torch.where(known_T, log_ratio(tokens.old_logp_T, tokens.sampled_logp_T), 0.0)
    raw_T = torch.ones_like(log_T)
    if loss.correction != "none":
        raw_T = LEVELS[loss.correction](log_T, tokens).exp()
    weight_T = raw_T.clamp(max=loss.correction_cap) if loss.correction_cap else raw_T
    if loss.correction_mask != "none":
        ratio_T = LEVELS[loss.correction_mask](log_T, tokens).exp()
        inside_T = (ratio_T >= loss.correction_low) & (ratio_T <= loss.correction_high)
        weight_T = weight_T * inside_T
    unit_T = _units(raw_T, tokens, loss)
    return Weights(weight_T=weight_T * known_T, raw_T=raw_T, unit_T=unit_T)


def _units(raw_T: Tensor, tokens: Tokens, loss: LossSection) -> Tensor:
    if loss.correction == "none" or not LEVEL_SPECS[loss.correction].couples_tokens:
        return torch.ones_like(raw_T)
    unit_R = 1.0 / tokens.length_R.to(raw_T.dtype)
    return unit_R[tokens.row_T]


def effective_share(total: float, squares: float, number: float) -> float:
    """(sum w)^2 / (n sum w^2): the share of samples that equal weights would need for the same variance."""
    return total * total / (number * squares) if squares else 0.0


def on_policy_enough(tokens: Tokens, limit: float) -> Tensor:
    """Mask [T]: False on every token of a completion with A < 0 and mean_t(sampled_logp - logp) > limit.

    The off-policy mask of DeepSeek-V3.2, arXiv 2512.02556; masked tokens stay in the denominators. A token whose
    sampled log-prob is NaN counts as no distance.
    """
    distance_T = (tokens.sampled_logp_T - tokens.logp_T.detach()).nan_to_num(0.0)
    near_T = tokens.row_mean(distance_T) <= limit
    return (tokens.advantage_T >= 0) | near_T
