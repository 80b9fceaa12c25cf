"""Policy losses, KL and aggregation: pure functions, tensors in, tensors out.

Every function works at any float dtype, so that fp64 states the mathematics. Micro-batches return *sums*:
a token's loss is multiplied by its weight, whose denominators belong to the whole update (`Denominators`),
and added up. There is no mean anywhere else, so the gradient cannot depend on how an update is split.
"""

from __future__ import annotations

from typing import Callable, Mapping

from torch import Tensor

from grpo.types import Denominators, Row

RATIO_LOG_LIMIT = 20.0


def log_ratio(logp_T: Tensor, old_logp_T: Tensor) -> Tensor:
    """logp - old_logp, limited to +-20 so that a ratio is always finite."""
    return (logp_T - old_logp_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)


def clip_loss(ratio_T: Tensor, advantage_T: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) (PPO; DAPO, arXiv 2503.14476, eq. 8)."""
    clipped_T = ratio_T.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -(ratio_T * advantage_T).minimum(clipped_T * advantage_T)


def is_clipped(ratio_T: Tensor, advantage_T: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """Whether the clip took a token's gradient: the ratio left the band in the advantage's direction."""
    return ((ratio_T > 1 + epsilon_high) & (advantage_T > 0)) | ((ratio_T < 1 - epsilon_low) & (advantage_T < 0))


def k3(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """exp(x) - x - 1 with x = ref_logp - logp: never negative, unbiased on-policy (arXiv 2402.03300, eq. 4)."""
    x_T = (ref_logp_T - logp_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)
    return x_T.exp() - x_T - 1


Weight = Callable[[Row, Denominators, "int | None"], float]


def sequence_mean(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1 / (completions x own tokens): each completion counts the same (GRPO as printed)."""
    return 1.0 / (denominators.num_completions * row.num_tokens)


def token_mean(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1 / all tokens of the update: each token counts the same (DAPO)."""
    return 1.0 / denominators.num_tokens


def constant(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1 / (completions x constant): no completion's length enters (Dr. GRPO)."""
    return 1.0 / (denominators.num_completions * (constant or denominators.max_tokens))


AGGREGATIONS: Mapping[str, Weight] = {"sequence_mean": sequence_mean, "token_mean": token_mean, "constant": constant}


def formula(advantage: object, loss: object, max_tokens: int) -> str:
    """The objective that the settings resolve to, in one readable paragraph."""
    rule = {"group_std": "A_i = (R_i - mean_g) / (std_g + {:g})", "center": "A_i = R_i - mean_g"}[advantage.rule]
    total = {"sequence_mean": "1/B sum_i 1/L_i sum_t l_it", "token_mean": "sum_it l_it / sum_i L_i",
             "constant": f"sum_it l_it / (B x {loss.constant or max_tokens})"}[loss.aggregation]
    kl = f" + {loss.beta:g} (exp(x) - x - 1),  x = ref_logp - logp" if loss.beta else ""
    masked = "; truncated completions leave all sums and denominators" if advantage.mask_truncated else ""
    return "\n".join((
        f"loss = {total}   (B completions and L_i tokens of one update, over all ranks{masked})",
        f"l_it = -min(r A_i, clip(r, {1 - loss.epsilon_low:g}, {1 + loss.epsilon_high:g}) A_i){kl}",
        f"r = exp(logp - old_logp),  {rule.format(getattr(advantage, 'epsilon', 0))},  0 in a flat group",
    ))
