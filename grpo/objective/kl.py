"""The KL to the reference, by several estimators, and the pull towards a teacher; each of them per token."""

from __future__ import annotations

from typing import Callable, Mapping

from torch import Tensor

from grpo.objective.tokens import Tokens, log_ratio
from grpo.recipe.objectives import KL_SPECS


def k1(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """Return logp - ref_logp: unbiased; as a loss its gradient has mean 0 whatever the reference."""
    return log_ratio(logp_T, ref_logp_T)


def k2(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """(logp - ref_logp)^2 / 2: biased in value, but on-policy its gradient is the KL's (joschu.net/blog/kl-approx)."""
    return log_ratio(logp_T, ref_logp_T).square() / 2


def k3(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """Return exp(x) - x - 1, x = ref_logp - logp: never negative, unbiased on-policy (arXiv 2402.03300, eq. 4)."""
    x_T = log_ratio(ref_logp_T, logp_T)
    return x_T.exp() - x_T - 1


def k1_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k1(tokens.logp_T, ref_logp_T)


def k2_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k2(tokens.logp_T, ref_logp_T)


def k3_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k3(tokens.logp_T, ref_logp_T)


def k3_unbiased(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    """Return r k3, r with its gradient: off-policy, too, value and gradient are the KL's (arXiv 2512.02556)."""
    return tokens.ratio_T * k3(tokens.logp_T, ref_logp_T)


KLS: Mapping[str, Callable[[Tokens, Tensor], Tensor]] = {
    "k1": k1_loss,
    "k2": k2_loss,
    "k3": k3_loss,
    "k3_unbiased": k3_unbiased,
}
"""(tokens, ref_logp_T) -> the KL as a term of the loss."""

REWARD_KLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""(logp_T, ref_logp_T) -> the KL that is taken off the reward."""

assert list(KLS) == list(KL_SPECS)
assert list(REWARD_KLS) == [name for name, spec in KL_SPECS.items() if spec.in_reward]


def distillation(tokens: Tokens, teacher_logp_T: Tensor) -> Tensor:
    """Return r (old_logp - teacher_logp): on-policy distillation by the reverse KL (arXiv 2306.13649).

    As a policy loss it is -r A with the token's advantage A = teacher_logp - old_logp.
    """
    return tokens.ratio_T * (tokens.old_logp_T - teacher_logp_T)
