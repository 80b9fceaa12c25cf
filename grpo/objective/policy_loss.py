"""Policy losses, KL and aggregation: pure functions and their tables, tensors in, tensors out.

Every function works at any float dtype, so that fp64 states the mathematics. Micro-batches return *sums*:
a token's loss is multiplied by its weight, whose denominators belong to the whole update (`Denominators`),
and added up. There is no mean over a micro-batch anywhere, so the gradient cannot depend on how an update
is split: what spans a completion is exact because no completion is ever split, and what spans the update
(`PolicyLoss.select`) is decided once, over all its tokens, before the first backward.

Symbols: D = logp - old_logp, r = exp(D), A the advantage, L the completion's tokens, sg stops the gradient.
How sampler and trainer are reconciled is in ``correction.py``; what is printed, in ``formula.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping, Protocol

import torch
from torch import Tensor

from grpo.types import Denominators, Row

RATIO_LOG_LIMIT = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Completion tokens of some whole rows, end to end, as a policy loss sees them.

    ``logp_T`` carries the gradient, nothing else does. ``row_T`` numbers the row of each token from 0 and
    ``length_R`` holds the rows' lengths. ``flag_T`` is what the loss selected over the whole update.
    """

    logp_T: Tensor
    old_logp_T: Tensor
    sampled_logp_T: Tensor
    advantage_T: Tensor
    row_T: Tensor
    length_R: Tensor
    flag_T: Tensor | None = None

    @property
    def delta_T(self) -> Tensor:
        return log_ratio(self.logp_T, self.old_logp_T)

    @property
    def ratio_T(self) -> Tensor:
        return self.delta_T.exp()

    def row_sum(self, value_T: Tensor) -> Tensor:
        """The sum over each completion, at each of its tokens."""
        return torch.segment_reduce(value_T, "sum", lengths=self.length_R, unsafe=True)[self.row_T]

    def row_mean(self, value_T: Tensor) -> Tensor:
        """The mean over each completion, at each of its tokens."""
        return (
            torch.segment_reduce(value_T, "sum", lengths=self.length_R, unsafe=True) / self.length_R
        )[self.row_T]


class Settings(Protocol):
    """The keys of ``loss`` that policy losses read."""

    epsilon_low: float
    epsilon_high: float
    dual_clip: float
    ratio_cap: float
    sapo_positive: float
    sapo_negative: float
    divergence: float
    regularizer: float
    cov_share: float
    cov_low: float
    cov_high: float
    cov_kl: float
    second_moment: float


def log_ratio(logp_T: Tensor, old_logp_T: Tensor) -> Tensor:
    """logp - old_logp, limited to +-20 so that a ratio is always finite."""
    return (logp_T - old_logp_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)


# ---- policy losses ----------------------------------------------------------------------------------------------


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
    if dual_clip:
        loss_T = torch.where(advantage_T < 0, loss_T.minimum(-dual_clip * advantage_T), loss_T)
    return loss_T


def is_clipped(
    ratio_T: Tensor, advantage_T: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    """Whether the clip took a token's gradient: the ratio left the band in the advantage's direction."""
    return ((ratio_T > 1 + epsilon_high) & (advantage_T > 0)) | (
        (ratio_T < 1 - epsilon_low) & (advantage_T < 0)
    )


def clip(tokens: Tokens, settings: Settings) -> Tensor:
    """`clip_loss` of each token's own ratio."""
    return clip_loss(
        tokens.ratio_T,
        tokens.advantage_T,
        settings.epsilon_low,
        settings.epsilon_high,
        dual_clip=settings.dual_clip,
        ratio_cap=settings.ratio_cap,
    )


def clip_limits(tokens: Tokens, settings: Settings) -> Tensor:
    clipped_T = is_clipped(
        tokens.ratio_T, tokens.advantage_T, settings.epsilon_low, settings.epsilon_high
    )
    tops = [top for top in (settings.dual_clip, settings.ratio_cap) if top]
    return (
        clipped_T | ((tokens.advantage_T < 0) & (tokens.ratio_T > min(tops))) if tops else clipped_T
    )


def reinforce(tokens: Tokens, settings: Settings) -> Tensor:
    """-A logp: the policy gradient itself, no ratio."""
    return -tokens.advantage_T * tokens.logp_T


def gspo(tokens: Tokens, settings: Settings) -> Tensor:
    """-min(s A, clip(s) A), s = exp(mean_t D) of the completion (GSPO, arXiv 2507.18071, eqs. 5 and 7).

    The completion's one loss stands at each of its tokens, so that its mean over them is that loss.
    """
    return clip_loss(
        tokens.row_mean(tokens.delta_T).exp(),
        tokens.advantage_T,
        settings.epsilon_low,
        settings.epsilon_high,
    )


def gspo_token(tokens: Tokens, settings: Settings) -> Tensor:
    """As `gspo` with s_t = sg(s) exp(logp - sg(logp)), which lets advantages differ by token (eqs. 13, 14)."""
    ratio_T = (
        tokens.row_mean(tokens.delta_T).detach().exp()
        * (tokens.logp_T - tokens.logp_T.detach()).exp()
    )
    return clip_loss(ratio_T, tokens.advantage_T, settings.epsilon_low, settings.epsilon_high)


def gspo_limits(tokens: Tokens, settings: Settings) -> Tensor:
    return is_clipped(
        tokens.row_mean(tokens.delta_T).exp(),
        tokens.advantage_T,
        settings.epsilon_low,
        settings.epsilon_high,
    )


def cispo(tokens: Tokens, settings: Settings) -> Tensor:
    """-sg(clip(r, 1 - epsilon_low, 1 + epsilon_high)) A logp (CISPO, arXiv 2506.13585, eqs. 4 and 5).

    Widths, as in the paper: ScaleRL's absolute cap of 5 is ``epsilon_high`` 4, no floor ``epsilon_low`` 1.
    """
    weight_T = tokens.ratio_T.detach().clamp(1 - settings.epsilon_low, 1 + settings.epsilon_high)
    return -weight_T * tokens.advantage_T * tokens.logp_T


def cispo_limits(tokens: Tokens, settings: Settings) -> Tensor:
    return (tokens.ratio_T > 1 + settings.epsilon_high) | (
        tokens.ratio_T < 1 - settings.epsilon_low
    )


def gmpo(tokens: Tokens, settings: Settings) -> Tensor:
    """-A exp(mean_t a min(a D, a clip(D, -epsilon_low, epsilon_high))), a = sign A (GMPO, arXiv 2507.20673).

    The widths are of the log-ratio (0.4 in the paper). The completion's loss stands at each of its tokens.
    """
    sign_T, delta_T = tokens.advantage_T.sign(), tokens.delta_T
    clipped_T = delta_T.clamp(-settings.epsilon_low, settings.epsilon_high)
    inner_T = sign_T * (sign_T * delta_T).minimum(sign_T * clipped_T)
    return -tokens.advantage_T * tokens.row_mean(inner_T).exp()


def gmpo_limits(tokens: Tokens, settings: Settings) -> Tensor:
    delta_T, advantage_T = tokens.delta_T, tokens.advantage_T
    return ((delta_T > settings.epsilon_high) & (advantage_T > 0)) | (
        (delta_T < -settings.epsilon_low) & (advantage_T < 0)
    )


def sapo(tokens: Tokens, settings: Settings) -> Tensor:
    """-(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A (SAPO, arXiv 2511.20347)."""
    tau_T = torch.full_like(tokens.advantage_T, settings.sapo_negative)
    tau_T[tokens.advantage_T > 0] = settings.sapo_positive
    return -(4 / tau_T) * (tau_T * (tokens.ratio_T - 1)).sigmoid() * tokens.advantage_T


def dppo_tv(tokens: Tokens, settings: Settings) -> Tensor:
    """-A r, without the tokens that left the trust region |p - mu| <= divergence (DPPO, arXiv 2602.04879).

    p = exp(logp), mu = exp(sampled_logp): the region is about the policy that sampled, not the old one.
    """
    return -tokens.advantage_T * tokens.ratio_T * ~dppo_tv_limits(tokens, settings)


def dppo_tv_limits(tokens: Tokens, settings: Settings) -> Tensor:
    """Tokens that moved away from mu, in the advantage's direction, by more than the divergence."""
    apart_T = tokens.logp_T.detach().exp() - tokens.sampled_logp_T.exp()
    return _leaves(apart_T, apart_T.abs(), tokens.advantage_T, settings.divergence)


def dppo_kl(tokens: Tokens, settings: Settings) -> Tensor:
    """As `dppo_tv` with the KL of the two outcomes "this token" and "another" (arXiv 2602.04879)."""
    return -tokens.advantage_T * tokens.ratio_T * ~dppo_kl_limits(tokens, settings)


def dppo_kl_limits(tokens: Tokens, settings: Settings) -> Tensor:
    logp_T, sampled_T = tokens.logp_T.detach(), tokens.sampled_logp_T
    mu_T = sampled_T.exp()
    other_T, sampled_other_T = _log_other(logp_T), _log_other(sampled_T)
    kl_T = mu_T * (sampled_T - logp_T) + (1 - mu_T) * (sampled_other_T - other_T)
    return _leaves(logp_T.exp() - mu_T, kl_T, tokens.advantage_T, settings.divergence)


def _log_other(logp_T: Tensor) -> Tensor:
    """log(1 - exp(logp)), finite where a token is all but certain."""
    tiny = torch.finfo(logp_T.dtype).tiny
    return (-torch.expm1(logp_T)).clamp_min(tiny).log()


def _leaves(apart_T: Tensor, distance_T: Tensor, advantage_T: Tensor, limit: float) -> Tensor:
    outwards_T = ((advantage_T > 0) & (apart_T > 0)) | ((advantage_T < 0) & (apart_T < 0))
    return (outwards_T & (distance_T > limit)) | ~distance_T.isfinite()


def topr(tokens: Tokens, settings: Settings) -> Tensor:
    """-A logp for A >= 0, -sg(min(R, 1)) A logp for A < 0, R = exp(sum_t D) (TOPR, arXiv 2503.14286)."""
    return _tapered(tokens, tokens.row_sum(tokens.delta_T))


def topr_token(tokens: Tokens, settings: Settings) -> Tensor:
    """`topr` with each token's own ratio in place of the completion's, as ROLL has it."""
    return _tapered(tokens, tokens.delta_T)


def _tapered(tokens: Tokens, delta_T: Tensor) -> Tensor:
    taper_T = torch.where(tokens.advantage_T < 0, delta_T.detach().clamp(max=0).exp(), 1.0)
    return -taper_T * tokens.advantage_T * tokens.logp_T


def topr_limits(tokens: Tokens, settings: Settings) -> Tensor:
    return (tokens.advantage_T < 0) & (tokens.row_sum(tokens.delta_T) > 0)


def topr_token_limits(tokens: Tokens, settings: Settings) -> Tensor:
    return (tokens.advantage_T < 0) & (tokens.delta_T > 0)


def kimi(tokens: Tokens, settings: Settings) -> Tensor:
    """-A logp + (tau / 2) S D with S = sum_t D (Kimi k1.5, arXiv 2501.12599, eq. 3).

    The paper squares the log-ratio of the whole completion: the sum over its tokens of S D is S^2.
    """
    return (
        -tokens.advantage_T * tokens.logp_T
        + settings.regularizer / 2 * tokens.row_sum(tokens.delta_T) * tokens.delta_T
    )


def kimi_token(tokens: Tokens, settings: Settings) -> Tensor:
    """-A logp + (tau / 2) D^2: `kimi` with the square taken token by token, as ROLL has it."""
    return -tokens.advantage_T * tokens.logp_T + settings.regularizer / 2 * tokens.delta_T.square()


def clip_cov(tokens: Tokens, settings: Settings) -> Tensor:
    """`clip` with the selected tokens detached (Clip-Cov, arXiv 2505.22617)."""
    loss_T = clip(tokens, settings)
    return torch.where(tokens.flag_T, loss_T.detach(), loss_T)


def kl_cov(tokens: Tokens, settings: Settings) -> Tensor:
    """-r A, and cov_kl |D| more on the selected tokens (KL-Cov, arXiv 2505.22617)."""
    return (
        -tokens.ratio_T * tokens.advantage_T
        + settings.cov_kl * tokens.delta_T.abs() * tokens.flag_T
    )


def m2po(tokens: Tokens, settings: Settings) -> Tensor:
    """-r A without the selected tokens, which stay in the denominators (M2PO, arXiv 2510.01161)."""
    return -tokens.ratio_T * tokens.advantage_T * ~tokens.flag_T


def flagged(tokens: Tokens, settings: Settings) -> Tensor:
    return tokens.flag_T


def nothing(tokens: Tokens, settings: Settings) -> Tensor:
    """0: only the other terms of the loss are learnt from."""
    return 0.0 * tokens.logp_T


def no_limits(tokens: Tokens, settings: Settings) -> Tensor:
    return torch.zeros_like(tokens.logp_T, dtype=torch.bool)


# ---- what is selected over the whole update, without gradient ---------------------------------------------------


def covariance(logp_T: Tensor, advantage_T: Tensor) -> Tensor:
    """(A - mean A)(logp - mean logp), means over all tokens of the update (arXiv 2505.22617)."""
    return (advantage_T - advantage_T.mean()) * (logp_T - logp_T.mean())


def select_clip_cov(tokens: Tokens, settings: Settings, seed: int) -> Tensor:
    """A random ``cov_share`` of the update's tokens, at least one, among those of high covariance, unclipped."""
    cov_T = covariance(tokens.logp_T, tokens.advantage_T)
    fit_T = (
        (cov_T > settings.cov_low) & (cov_T < settings.cov_high) & ~clip_limits(tokens, settings)
    )
    number = max(1, int(settings.cov_share * len(cov_T)))
    fit = fit_T.nonzero()[:, 0]
    order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(seed)).to(fit.device)
    return _marked(cov_T, fit[order[:number]])


def select_kl_cov(tokens: Tokens, settings: Settings, seed: int) -> Tensor:
    """The ``cov_share`` of the update's tokens, at least one, whose covariance is largest."""
    cov_T = covariance(tokens.logp_T, tokens.advantage_T)
    return largest(cov_T, max(1, int(settings.cov_share * len(cov_T))))


def select_m2po(tokens: Tokens, settings: Settings, seed: int) -> Tensor:
    """The largest (logp - sampled_logp)^2, until the mean over the others is at most ``second_moment``."""
    square_T = (tokens.logp_T - tokens.sampled_logp_T).square()
    square_T = torch.where(square_T.isfinite(), square_T, 1e30)
    ordered_T = square_T.sort().values
    means_T = ordered_T.cumsum(0) / torch.arange(1, len(ordered_T) + 1, device=ordered_T.device)
    return largest(square_T, int((means_T > settings.second_moment).sum()))


def _marked(like_T: Tensor, places: Tensor) -> Tensor:
    flag_T = torch.zeros_like(like_T, dtype=torch.bool)
    flag_T[places] = True
    return flag_T


def select_top_entropy(entropy_T: Tensor, share: float) -> Tensor:
    """The ``share`` of the update's tokens whose entropy is highest (arXiv 2506.01939)."""
    return largest(entropy_T, max(1, round(share * len(entropy_T))))


def largest(value_T: Tensor, number: int) -> Tensor:
    """The `number` largest values, and all that equal the least of them up to rounding.

    Ties are common: the completions of a group share their first token's distribution. Were one of them taken
    and another left, rounding would decide, and rounding changes with the micro-batch.
    """
    if not number:
        return torch.zeros_like(value_T, dtype=torch.bool)
    least = value_T.sort(descending=True).values[number - 1]
    return value_T >= least - torch.finfo(value_T.dtype).eps ** 0.75 * least.abs().clamp_min(1.0)


Function = Callable[[Tokens, Settings], Tensor]


@dataclass(frozen=True)
class PolicyLoss:
    """One row of the table: a token's loss, where it limits the policy, what it selects over the update.

    ``whole`` says that the loss has one ratio for a whole completion, which a correction of single tokens
    would contradict; ``by_row`` that a token's loss hangs on the other tokens of its completion. ``reads`` are
    the optional keys it takes.
    """

    loss: Function
    limits: Function = no_limits
    select: Callable[[Tokens, Settings, int], Tensor] | None = None
    whole: bool = False
    by_row: bool = False
    reads: tuple[str, ...] = ()


POLICY_LOSSES: Mapping[str, PolicyLoss] = {
    "clip": PolicyLoss(clip, clip_limits, reads=("dual_clip", "ratio_cap")),
    "reinforce": PolicyLoss(reinforce),
    "gspo": PolicyLoss(gspo, gspo_limits, whole=True, by_row=True),
    "gspo_token": PolicyLoss(gspo_token, gspo_limits, by_row=True),
    "cispo": PolicyLoss(cispo, cispo_limits),
    "gmpo": PolicyLoss(gmpo, gmpo_limits, whole=True, by_row=True),
    "sapo": PolicyLoss(sapo),
    "dppo_tv": PolicyLoss(dppo_tv, dppo_tv_limits),
    "dppo_kl": PolicyLoss(dppo_kl, dppo_kl_limits),
    "topr": PolicyLoss(topr, topr_limits, whole=True, by_row=True),
    "topr_token": PolicyLoss(topr_token, topr_token_limits),
    "kimi": PolicyLoss(kimi, whole=True, by_row=True),
    "kimi_token": PolicyLoss(kimi_token),
    "clip_cov": PolicyLoss(clip_cov, flagged, select_clip_cov, reads=("dual_clip", "ratio_cap")),
    "kl_cov": PolicyLoss(kl_cov, flagged, select_kl_cov),
    "m2po": PolicyLoss(m2po, flagged, select_m2po),
    "none": PolicyLoss(nothing),
}


def needs_whole_update(loss: Any) -> bool:
    """Whether something in the loss is selected over all tokens of an update."""
    return (
        POLICY_LOSSES[loss.policy].select is not None
        or loss.top_entropy < 1
        or loss.entropy_target > 0
    )


def forwards_flat_groups(loss: Any) -> bool:
    """Whether something in the loss acts on flat groups too, or counts their tokens, so that they are forwarded."""
    return bool(
        (loss.beta and loss.kl_in == "loss")
        or loss.entropy
        or loss.teacher
        or needs_whole_update(loss)
    )


# ---- KL to the reference, and to a teacher ----------------------------------------------------------------------


def k1(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """logp - ref_logp: unbiased; as a loss its gradient has mean 0 whatever the reference."""
    return log_ratio(logp_T, ref_logp_T)


def k2(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """(logp - ref_logp)^2 / 2: biased in value, but on-policy its gradient is the KL's (joschu.net/blog/kl-approx)."""
    return log_ratio(logp_T, ref_logp_T).square() / 2


def k3(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """exp(x) - x - 1 with x = ref_logp - logp: never negative, unbiased on-policy (arXiv 2402.03300, eq. 4)."""
    x_T = log_ratio(ref_logp_T, logp_T)
    return x_T.exp() - x_T - 1


def k1_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k1(tokens.logp_T, ref_logp_T)


def k2_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k2(tokens.logp_T, ref_logp_T)


def k3_loss(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    return k3(tokens.logp_T, ref_logp_T)


def k3_unbiased(tokens: Tokens, ref_logp_T: Tensor) -> Tensor:
    """r k3, r with its gradient: value and gradient are the KL's off-policy too (DeepSeek-V3.2, arXiv 2512.02556)."""
    return tokens.ratio_T * k3(tokens.logp_T, ref_logp_T)


KLS: Mapping[str, Callable[[Tokens, Tensor], Tensor]] = {
    "k1": k1_loss,
    "k2": k2_loss,
    "k3": k3_loss,
    "k3_unbiased": k3_unbiased,
}
REWARD_KLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def distillation(tokens: Tokens, teacher_logp_T: Tensor) -> Tensor:
    """r (old_logp - teacher_logp): on-policy distillation, the reverse KL's policy gradient (arXiv 2306.13649).

    As a policy loss it is -r A with the token's advantage A = teacher_logp - old_logp.
    """
    return tokens.ratio_T * (tokens.old_logp_T - teacher_logp_T)


def off_policy_kept(tokens: Tokens, limit: float) -> Tensor:
    """False on every token of a completion with A < 0 and mean_t(sampled_logp - logp) > limit.

    DeepSeek-V3.2, arXiv 2512.02556; the tokens stay in the denominators. A token whose sampler's
    log-prob is NaN says nothing.
    """
    apart_T = (tokens.sampled_logp_T - tokens.logp_T.detach()).nan_to_num(0.0)
    return (tokens.advantage_T >= 0) | (tokens.row_mean(apart_T) <= limit)


# ---- aggregation ------------------------------------------------------------------------------------------------

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


def prompt_mean(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1 / (groups x tokens of its group): each prompt counts the same (ScaleRL; DAPO as printed)."""
    return 1.0 / (denominators.num_groups * denominators.group_tokens[row.group])


def sequence_sum(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1 / completions: mean over completions of their sums (RLOO, LUSPO)."""
    return 1.0 / denominators.num_completions


def token_sum(row: Row, denominators: Denominators, constant: int | None) -> float:
    """1: the plain sum over the update's tokens."""
    return 1.0


AGGREGATIONS: Mapping[str, Weight] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant": constant,
    "prompt_mean": prompt_mean,
    "sequence_sum": sequence_sum,
    "token_sum": token_sum,
}
