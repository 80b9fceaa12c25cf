"""Every name an objective is made of, once: advantage rules, policy losses, aggregations, KLs, correction levels.

A row says what a recipe and a reader need to know: the name, the formula as text, and what it may be combined with.
The functions are bound to these names in ``grpo.objective``; a new loss is a row here and a function there. No torch.

Formulas are templates for ``str.format``; ``grpo.objective.formula`` fills in the recipe's numbers. Symbols: A_i is
the advantage of completion i, r the ratio exp(logp - old_logp), L_i the completion's tokens, B the completions of the
update, Q its prompts, sg stops the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """How scores become advantages.

    ``in_group`` rules compare the completions of one prompt, so a flat group gets 0; ``by_part`` rules look at each
    reward on its own, so a spread in any one counts; ``by_token`` rules give each token its own advantage.
    """

    name: str
    formula: str
    in_group: bool = True
    by_part: bool = False
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class PolicyLossSpec:
    """A policy loss.

    ``reads`` are the keys of ``loss`` that it alone interprets. ``couples_tokens``: a token's loss depends on the
    other tokens of its completion. ``aggregations``: the loss has one ratio for a whole completion, and these
    aggregations keep it; empty for a loss with a ratio per token.
    """

    name: str
    formula: str
    reads: tuple[str, ...] = ()
    couples_tokens: bool = False
    aggregations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AggregationSpec:
    """How the losses l_it of single tokens become one number."""

    name: str
    formula: str


@dataclass(frozen=True, slots=True)
class KLSpec:
    """An estimator of the KL to the reference; ``in_reward``: it may be taken off the reward as well."""

    name: str
    formula: str
    in_reward: bool = True


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """Over what the sampler's correction takes a weight: a token, or a completion (``couples_tokens``)."""

    name: str
    formula: str
    couples_tokens: bool = False


RULE_SPECS = {
    spec.name: spec
    for spec in (
        RuleSpec("group_std", "A_i = (R_i - mean_g) / (std_g + {epsilon:g})"),
        RuleSpec("center", "A_i = R_i - mean_g"),
        RuleSpec("rloo", "A_i = R_i - mean of the other R_j of the group"),
        RuleSpec("batch_std", "A_i = (R_i - mean_g) / (std of all R of the step + {epsilon:g})"),
        RuleSpec(
            "batch_std_centered",
            "A_i = (R_i - mean_g) / (std of all R_j - mean_g of the step + {epsilon:g})",
        ),
        RuleSpec(
            "reinforce_pp",
            "A_it = (G_it - mean) / (std + {epsilon:g}) over all tokens of the step, "
            "G_it = R_i - penalties from t on",
            in_group=False,
            by_token=True,
        ),
        RuleSpec(
            "reinforce_pp_baseline",
            "A_i = whiten(R_i - mean_g) over the step, std + {epsilon:g}",
        ),
        RuleSpec("opo", "A_i = R_i - sum_j L_j R_j / sum_j L_j of the group"),
        RuleSpec("gpg", "A_i = (completions / those in groups that spread) (R_i - mean_g)"),
        RuleSpec("maxrl", "A_i = (R_i - mean_g) / mean_g"),
        RuleSpec(
            "pass_k",
            "A_i = mean over subsets S of {subset_size} of max(S) - max(S without i), "
            "/ (std_g + {epsilon:g})",
        ),
        RuleSpec(
            "gdpo",
            "A_i = whiten(sum_k weight_k (R_ik - mean_gk) / (std_gk + {epsilon:g})) over the step",
            by_part=True,
        ),
    )
}

AGGREGATION_SPECS = {
    spec.name: spec
    for spec in (
        AggregationSpec("sequence_mean", "1/B sum_i 1/L_i sum_t l_it"),
        AggregationSpec("token_mean", "sum_it l_it / sum_i L_i"),
        AggregationSpec("constant", "sum_it l_it / (B x {constant})"),
        AggregationSpec(
            "prompt_mean", "1/Q sum_q (sum_it of q's group l_it / sum_i of it L_i), Q prompts"
        ),
        AggregationSpec("sequence_sum", "1/B sum_it l_it"),
        AggregationSpec("token_sum", "sum_it l_it"),
    )
}
AGGREGATIONS = tuple(AGGREGATION_SPECS)

BAND = ("epsilon_low", "epsilon_high")
CLIP_READS = (*BAND, "dual_clip", "ratio_cap")
CLIP_FORMULA = "-min({capped_ratio} A_i, clip(r, {band}) A_i){dual_clip}"

POLICY_LOSS_SPECS = {
    spec.name: spec
    for spec in (
        PolicyLossSpec("clip", CLIP_FORMULA, reads=CLIP_READS),
        PolicyLossSpec("reinforce", "-A_i logp"),
        PolicyLossSpec(
            "gspo",
            "-min(s_i A_i, clip(s_i, {band}) A_i),  s_i = exp(mean_t ln r)",
            reads=BAND,
            couples_tokens=True,
            aggregations=("sequence_mean", "sequence_sum"),
        ),
        PolicyLossSpec(
            "gspo_token",
            "-min(s_it A_i, clip(s_it, {band}) A_i),  "
            "s_it = sg(exp(mean_t ln r)) exp(logp - sg(logp))",
            reads=BAND,
            couples_tokens=True,
        ),
        PolicyLossSpec("cispo", "-sg(clip(r, {band})) A_i logp", reads=BAND),
        PolicyLossSpec(
            "gmpo",
            "-A_i exp(mean_t a min(a ln r, a clip(ln r, -{loss.epsilon_low:g}, "
            "{loss.epsilon_high:g}))),  a = sign A_i",
            reads=BAND,
            couples_tokens=True,
            aggregations=("sequence_mean",),
        ),
        PolicyLossSpec(
            "sapo",
            "-(4 / tau) sigmoid(tau (r - 1)) A_i,  tau = {loss.sapo_positive:g} where A_i > 0, "
            "else {loss.sapo_negative:g}",
            reads=("sapo_positive", "sapo_negative"),
        ),
        PolicyLossSpec(
            "dppo_tv",
            "-A_i r, 0 where p - mu has A_i's sign and |p - mu| > {loss.divergence:g},  "
            "p = exp(logp), mu = exp(sampled_logp)",
            reads=("divergence",),
        ),
        PolicyLossSpec(
            "dppo_kl",
            "-A_i r, 0 where p - mu has A_i's sign and the KL of (mu, 1 - mu) to (p, 1 - p) > "
            "{loss.divergence:g},  p = exp(logp), mu = exp(sampled_logp)",
            reads=("divergence",),
        ),
        PolicyLossSpec(
            "topr",
            "-A_i logp, times sg(min(R_i, 1)) where A_i < 0,  R_i = exp(sum_t ln r)",
            couples_tokens=True,
            aggregations=AGGREGATIONS,
        ),
        PolicyLossSpec("topr_token", "-A_i logp, times sg(min(r, 1)) where A_i < 0"),
        PolicyLossSpec(
            "kimi",
            "-A_i logp + {half_regularizer:g} ln r sum_t ln r",
            reads=("regularizer",),
            couples_tokens=True,
            aggregations=AGGREGATIONS,
        ),
        PolicyLossSpec(
            "kimi_token", "-A_i logp + {half_regularizer:g} (ln r)^2", reads=("regularizer",)
        ),
        PolicyLossSpec(
            "clip_cov",
            CLIP_FORMULA + ", detached on a random {loss.cov_share:g} of the update's tokens, "
            "unclipped, with (A - mean)(logp - mean) in ({loss.cov_low:g}, {loss.cov_high:g})",
            reads=(*CLIP_READS, "cov_share", "cov_low", "cov_high"),
        ),
        PolicyLossSpec(
            "kl_cov",
            "-r A_i, and {loss.cov_kl:g} |ln r| on the {loss.cov_share:g} of the update's tokens "
            "with the largest (A - mean)(logp - mean)",
            reads=("cov_share", "cov_kl"),
        ),
        PolicyLossSpec(
            "m2po",
            "-r A_i, 0 on the tokens of the largest (logp - sampled_logp)^2 until its mean over "
            "the others is at most {loss.second_moment:g}",
            reads=("second_moment",),
        ),
        PolicyLossSpec("none", "0"),
    )
}

KL_SPECS = {
    spec.name: spec
    for spec in (
        KLSpec("k1", "(-x)"),
        KLSpec("k2", "(x^2 / 2)"),
        KLSpec("k3", "(exp(x) - x - 1)"),
        KLSpec("k3_unbiased", "r (exp(x) - x - 1)", in_reward=False),
    )
}

LEVEL_SPECS = {
    spec.name: spec
    for spec in (
        LevelSpec("token", "rho_it"),
        LevelSpec("sequence", "prod_t rho_it", couples_tokens=True),
        LevelSpec("geometric", "(prod_t rho_it)^(1/L_i)", couples_tokens=True),
    )
}

RULES = tuple(RULE_SPECS)
POLICY_LOSSES = tuple(POLICY_LOSS_SPECS)
KLS = tuple(KL_SPECS)
LEVELS = ("none", *LEVEL_SPECS)
WHOLE_POLICY_LOSSES = {
    spec.name: spec.aggregations for spec in POLICY_LOSS_SPECS.values() if spec.aggregations
}
"""Policy losses with one ratio for a whole completion, and the aggregations that keep it."""
