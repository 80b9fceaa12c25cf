"""Policy losses: pure functions of tokens, and their table.

Every function works at any float dtype, so fp64 states the mathematics. A token's loss knows nothing of denominators
(`grpo.objective.aggregation`), so the gradient cannot depend on how an update is split: what spans a completion is
exact because no completion is ever split, and what spans the update (`PolicyLoss.select`) is decided once, over all
its tokens, before the first backward.

Symbols: D = logp - old_logp, r = exp(D), A the advantage, L the completion's tokens, sg stops the gradient. Names and
formulas as text are in ``grpo.recipe.objectives``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

import torch
from torch import Tensor

from grpo.objective.tokens import Tokens
from grpo.recipe import LossSection
from grpo.recipe.objectives import POLICY_LOSS_SPECS

# ---- the losses, each with the tokens whose gradient it limits ------------------------------------------------------


def clip_loss(
    ratio_T: Tensor,
    advantage_T: Tensor,
    epsilon_low: float,
    epsilon_high: float,
    *,
    dual_clip: float = 0.0,
    ratio_cap: float = 0.0,
) -> Tensor:
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) (PPO; DAPO, arXiv 2503.14476, eq. 8).

    ``dual_clip`` c > 1: for A < 0 the loss is at most -c A (arXiv 1912.09729). ``ratio_cap`` d:
    r is at most d before the minimum is taken (INTELLECT-2, arXiv 2505.07291). 0 turns either off.
    """
    clipped_T = ratio_T.clamp(1 - epsilon_low, 1 + epsilon_high)
    if ratio_cap:
        ratio_T = ratio_T.clamp(max=ratio_cap)
    loss_T = -(ratio_T * advantage_T).minimum(clipped_T * advantage_T)
    if not dual_clip:
        return loss_T
    limited_T = loss_T.minimum(-dual_clip * advantage_T)
    return torch.where(advantage_T < 0, limited_T, loss_T)


def is_clipped(
    ratio_T: Tensor, advantage_T: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    """Whether the clip took a token's gradient: the ratio left the band in the advantage's direction."""
    above_T = (ratio_T > 1 + epsilon_high) & (advantage_T > 0)
    below_T = (ratio_T < 1 - epsilon_low) & (advantage_T < 0)
    return above_T | below_T


def clip(tokens: Tokens, loss: LossSection) -> Tensor:
    """`clip_loss` of each token's own ratio."""
    return clip_loss(
        tokens.ratio_T,
        tokens.advantage_T,
        loss.epsilon_low,
        loss.epsilon_high,
        dual_clip=loss.dual_clip,
        ratio_cap=loss.ratio_cap,
    )


def clip_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    clipped_T = is_clipped(tokens.ratio_T, tokens.advantage_T, loss.epsilon_low, loss.epsilon_high)
    bounds = [bound for bound in (loss.dual_clip, loss.ratio_cap) if bound]
    if not bounds:
        return clipped_T
    beyond_T = (tokens.advantage_T < 0) & (tokens.ratio_T > min(bounds))
    return clipped_T | beyond_T


def reinforce(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A logp: the policy gradient itself, no ratio."""
    return -tokens.advantage_T * tokens.logp_T


def gspo(tokens: Tokens, loss: LossSection) -> Tensor:
    """-min(s A, clip(s) A), s = exp(mean_t D) of the completion (GSPO, arXiv 2507.18071, eqs. 5 and 7).

    Each token has the completion's one loss, so that the mean over them is that loss.
    """
    ratio_T = tokens.sequence_ratio_T
    return clip_loss(ratio_T, tokens.advantage_T, loss.epsilon_low, loss.epsilon_high)


def gspo_token(tokens: Tokens, loss: LossSection) -> Tensor:
    """As `gspo` with s_t = sg(s) exp(logp - sg(logp)), which lets advantages differ by token (eqs. 13, 14)."""
    own_ratio_T = (tokens.logp_T - tokens.logp_T.detach()).exp()
    ratio_T = tokens.sequence_ratio_T.detach() * own_ratio_T
    return clip_loss(ratio_T, tokens.advantage_T, loss.epsilon_low, loss.epsilon_high)


def gspo_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    ratio_T = tokens.sequence_ratio_T
    return is_clipped(ratio_T, tokens.advantage_T, loss.epsilon_low, loss.epsilon_high)


def cispo(tokens: Tokens, loss: LossSection) -> Tensor:
    """-sg(clip(r, 1 - epsilon_low, 1 + epsilon_high)) A logp (CISPO, arXiv 2506.13585, eqs. 4 and 5).

    The epsilons are widths, as in the paper: ScaleRL's absolute cap of 5 is ``epsilon_high`` 4, and ``epsilon_low``
    1 sets no floor.
    """
    low = 1 - loss.epsilon_low
    high = 1 + loss.epsilon_high
    weight_T = tokens.ratio_T.detach().clamp(low, high)
    return -weight_T * tokens.advantage_T * tokens.logp_T


def cispo_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    above_T = tokens.ratio_T > 1 + loss.epsilon_high
    below_T = tokens.ratio_T < 1 - loss.epsilon_low
    return above_T | below_T


def gmpo(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A exp(mean_t a min(a D, a clip(D, -epsilon_low, epsilon_high))), a = sign A (GMPO, arXiv 2507.20673).

    The epsilons are widths of the log-ratio (0.4 in the paper). Each token has the completion's loss.
    """
    sign_T = tokens.advantage_T.sign()
    delta_T = tokens.delta_T
    clipped_T = delta_T.clamp(-loss.epsilon_low, loss.epsilon_high)
    signed_T = sign_T * delta_T
    inner_T = sign_T * signed_T.minimum(sign_T * clipped_T)
    return -tokens.advantage_T * tokens.row_mean(inner_T).exp()


def gmpo_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    delta_T = tokens.delta_T
    above_T = (delta_T > loss.epsilon_high) & (tokens.advantage_T > 0)
    below_T = (delta_T < -loss.epsilon_low) & (tokens.advantage_T < 0)
    return above_T | below_T


def sapo(tokens: Tokens, loss: LossSection) -> Tensor:
    """-(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A (SAPO, arXiv 2511.20347)."""
    tau_T = torch.full_like(tokens.advantage_T, loss.sapo_negative)
    tau_T[tokens.advantage_T > 0] = loss.sapo_positive
    gate_T = (tau_T * (tokens.ratio_T - 1)).sigmoid()
    return -(4 / tau_T) * gate_T * tokens.advantage_T


def dppo_tv(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A r, without the tokens that left the trust region |p - mu| <= divergence (DPPO, arXiv 2602.04879).

    p = exp(logp), mu = exp(sampled_logp): the region is around the policy that sampled, not the old one.
    """
    inside_T = ~dppo_tv_limits(tokens, loss)
    return -tokens.advantage_T * tokens.ratio_T * inside_T


def dppo_tv_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    """Tokens that moved away from mu, in the advantage's direction, by more than the divergence."""
    change_T = tokens.logp_T.detach().exp() - tokens.sampled_logp_T.exp()
    return _leaves_region(change_T, change_T.abs(), tokens.advantage_T, loss.divergence)


def dppo_kl(tokens: Tokens, loss: LossSection) -> Tensor:
    """As `dppo_tv` with the KL of the two outcomes "this token" and "another" (arXiv 2602.04879)."""
    inside_T = ~dppo_kl_limits(tokens, loss)
    return -tokens.advantage_T * tokens.ratio_T * inside_T


def dppo_kl_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    logp_T = tokens.logp_T.detach()
    sampled_T = tokens.sampled_logp_T
    mu_T = sampled_T.exp()
    other_gap_T = _log_complement(sampled_T) - _log_complement(logp_T)
    kl_T = mu_T * (sampled_T - logp_T) + (1 - mu_T) * other_gap_T
    return _leaves_region(logp_T.exp() - mu_T, kl_T, tokens.advantage_T, loss.divergence)


def _log_complement(logp_T: Tensor) -> Tensor:
    """Return log(1 - exp(logp)), finite where a token is all but certain."""
    tiny = torch.finfo(logp_T.dtype).tiny
    return (-torch.expm1(logp_T)).clamp_min(tiny).log()


def _leaves_region(
    change_T: Tensor, distance_T: Tensor, advantage_T: Tensor, limit: float
) -> Tensor:
    """Whether a token's probability moved in its advantage's direction, further than the limit or not measurably."""
    up_T = (advantage_T > 0) & (change_T > 0)
    down_T = (advantage_T < 0) & (change_T < 0)
    left_T = (up_T | down_T) & (distance_T > limit)
    return left_T | ~distance_T.isfinite()


def topr(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A logp for A >= 0, -sg(min(R, 1)) A logp for A < 0, R = exp(sum_t D) (TOPR, arXiv 2503.14286)."""
    return _tapered(tokens, tokens.row_sum(tokens.delta_T))


def topr_token(tokens: Tokens, loss: LossSection) -> Tensor:
    """`topr` with each token's own ratio instead of the completion's, as in ROLL."""
    return _tapered(tokens, tokens.delta_T)


def _tapered(tokens: Tokens, delta_T: Tensor) -> Tensor:
    ratio_T = delta_T.detach().clamp(max=0).exp()
    taper_T = torch.where(tokens.advantage_T < 0, ratio_T, 1.0)
    return -taper_T * tokens.advantage_T * tokens.logp_T


def topr_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    completion_delta_T = tokens.row_sum(tokens.delta_T)
    return (tokens.advantage_T < 0) & (completion_delta_T > 0)


def topr_token_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    return (tokens.advantage_T < 0) & (tokens.delta_T > 0)


def kimi(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A logp + (tau / 2) S D with S = sum_t D (Kimi k1.5, arXiv 2501.12599, eq. 3).

    The paper squares the log-ratio of the whole completion: the sum over its tokens of S D is S^2.
    """
    policy_T = -tokens.advantage_T * tokens.logp_T
    completion_delta_T = tokens.row_sum(tokens.delta_T)
    half_tau = loss.regularizer / 2
    return policy_T + half_tau * completion_delta_T * tokens.delta_T


def kimi_token(tokens: Tokens, loss: LossSection) -> Tensor:
    """-A logp + (tau / 2) D^2: `kimi` with the square taken token by token, as in ROLL."""
    policy_T = -tokens.advantage_T * tokens.logp_T
    half_tau = loss.regularizer / 2
    return policy_T + half_tau * tokens.delta_T.square()


def clip_cov(tokens: Tokens, loss: LossSection) -> Tensor:
    """`clip` with the selected tokens detached (Clip-Cov, arXiv 2505.22617)."""
    loss_T = clip(tokens, loss)
    return torch.where(tokens.selected_T, loss_T.detach(), loss_T)


def kl_cov(tokens: Tokens, loss: LossSection) -> Tensor:
    """-r A, and cov_kl |D| more on the selected tokens (KL-Cov, arXiv 2505.22617)."""
    policy_T = -tokens.ratio_T * tokens.advantage_T
    distance_T = tokens.delta_T.abs()
    return policy_T + loss.cov_kl * distance_T * tokens.selected_T


def m2po(tokens: Tokens, loss: LossSection) -> Tensor:
    """-r A without the selected tokens, which stay in the denominators (M2PO, arXiv 2510.01161)."""
    return -tokens.ratio_T * tokens.advantage_T * ~tokens.selected_T


def selected(tokens: Tokens, loss: LossSection) -> Tensor:
    return tokens.selected_T


def nothing(tokens: Tokens, loss: LossSection) -> Tensor:
    """0: only the other terms of the loss train the policy."""
    return 0.0 * tokens.logp_T


def no_limits(tokens: Tokens, loss: LossSection) -> Tensor:
    return torch.zeros_like(tokens.logp_T, dtype=torch.bool)


# ---- what is selected over the whole update, without gradient ---------------------------------------------------


def covariance(logp_T: Tensor, advantage_T: Tensor) -> Tensor:
    """(A - mean A)(logp - mean logp), means over all tokens of the update (arXiv 2505.22617)."""
    centred_advantage_T = advantage_T - advantage_T.mean()
    centred_logp_T = logp_T - logp_T.mean()
    return centred_advantage_T * centred_logp_T


def select_clip_cov(tokens: Tokens, loss: LossSection, seed: int) -> Tensor:
    """A random ``cov_share`` of the update's tokens, at least one, among unclipped ones of high covariance."""
    cov_T = covariance(tokens.logp_T, tokens.advantage_T)
    between_T = (cov_T > loss.cov_low) & (cov_T < loss.cov_high)
    unclipped_T = ~clip_limits(tokens, loss)
    candidates = (between_T & unclipped_T).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(candidates), generator=generator).to(candidates.device)
    number = max(1, int(loss.cov_share * len(cov_T)))
    chosen = candidates[order[:number]]
    flag_T = torch.zeros_like(cov_T, dtype=torch.bool)
    flag_T[chosen] = True
    return flag_T


def select_kl_cov(tokens: Tokens, loss: LossSection, seed: int) -> Tensor:
    """The ``cov_share`` of the update's tokens, at least one, whose covariance is largest."""
    cov_T = covariance(tokens.logp_T, tokens.advantage_T)
    number = max(1, int(loss.cov_share * len(cov_T)))
    return largest(cov_T, number)


def select_m2po(tokens: Tokens, loss: LossSection, seed: int) -> Tensor:
    """The largest (logp - sampled_logp)^2, until the mean over the others is at most ``second_moment``."""
    distance_T = tokens.logp_T - tokens.sampled_logp_T
    square_T = distance_T.square()
    square_T = torch.where(square_T.isfinite(), square_T, 1e30)
    ordered_T = square_T.sort().values
    count_T = torch.arange(1, len(ordered_T) + 1, device=ordered_T.device)
    mean_T = ordered_T.cumsum(0) / count_T
    number = int((mean_T > loss.second_moment).sum())
    return largest(square_T, number)


def select_top_entropy(entropy_T: Tensor, share: float) -> Tensor:
    """The ``share`` of the update's tokens whose entropy is highest (arXiv 2506.01939)."""
    number = max(1, round(share * len(entropy_T)))
    return largest(entropy_T, number)


def largest(value_T: Tensor, number: int) -> Tensor:
    """Mask [T] of the `number` largest values, and of all that equal the least of them up to rounding.

    Ties are common: the completions of a group share their first token's distribution. If one of them were selected
    and another not, rounding would decide, and rounding changes with the micro-batch.
    """
    if not number:
        return torch.zeros_like(value_T, dtype=torch.bool)
    least = value_T.sort(descending=True).values[number - 1]
    precision = torch.finfo(value_T.dtype).eps ** 0.75
    tolerance = precision * least.abs().clamp_min(1.0)
    return value_T >= least - tolerance


# ---- the table ------------------------------------------------------------------------------------------------------

Loss = Callable[[Tokens, LossSection], Tensor]
Select = Callable[[Tokens, LossSection, int], Tensor]


@dataclass(frozen=True)
class PolicyLoss:
    """The functions of one row of `POLICY_LOSS_SPECS`, each with a result per token [T].

    ``loss`` is the token's loss, ``limits`` says where it limits the policy, ``select`` takes all tokens of an update
    and a seed and says which of them are selected.
    """

    loss: Loss
    limits: Loss = no_limits
    select: Select | None = None


POLICY_LOSSES: Mapping[str, PolicyLoss] = {
    "clip": PolicyLoss(clip, clip_limits),
    "reinforce": PolicyLoss(reinforce),
    "gspo": PolicyLoss(gspo, gspo_limits),
    "gspo_token": PolicyLoss(gspo_token, gspo_limits),
    "cispo": PolicyLoss(cispo, cispo_limits),
    "gmpo": PolicyLoss(gmpo, gmpo_limits),
    "sapo": PolicyLoss(sapo),
    "dppo_tv": PolicyLoss(dppo_tv, dppo_tv_limits),
    "dppo_kl": PolicyLoss(dppo_kl, dppo_kl_limits),
    "topr": PolicyLoss(topr, topr_limits),
    "topr_token": PolicyLoss(topr_token, topr_token_limits),
    "kimi": PolicyLoss(kimi),
    "kimi_token": PolicyLoss(kimi_token),
    "clip_cov": PolicyLoss(clip_cov, selected, select_clip_cov),
    "kl_cov": PolicyLoss(kl_cov, selected, select_kl_cov),
    "m2po": PolicyLoss(m2po, selected, select_m2po),
    "none": PolicyLoss(nothing),
}

assert list(POLICY_LOSSES) == list(POLICY_LOSS_SPECS)


def needs_whole_update(loss: LossSection) -> bool:
    """Whether something in the loss is selected over all tokens of an update."""
    selects = POLICY_LOSSES[loss.policy].select is not None
    return selects or loss.top_entropy < 1 or loss.entropy_target > 0


def forwards_flat_groups(loss: LossSection) -> bool:
    """Whether something in the loss acts on flat groups too, or counts their tokens, so that they are forwarded."""
    kl_in_loss = bool(loss.beta) and loss.kl_in == "loss"
    has_term = bool(loss.entropy or loss.load_balance or loss.teacher)
    return kl_in_loss or has_term or needs_whole_update(loss)
