"""The objective that settings resolve to, as text: printed before a run, so that a name never hides a gradient."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping

from grpo.objective.advantage import RULES
from grpo.recipe import Recipe
from grpo.recipe.presets import PRESETS

Text = Callable[[Any], str]


def _band(loss: Any) -> str:
    return f"{1 - loss.epsilon_low:g}, {1 + loss.epsilon_high:g}"


def _clip(loss: Any) -> str:
    ratio = f"min(r, {loss.ratio_cap:g})" if loss.ratio_cap else "r"
    text = f"-min({ratio} A_i, clip(r, {_band(loss)}) A_i)"
    return text + (f", at most {loss.dual_clip:g} |A_i| where A_i < 0" if loss.dual_clip else "")


TOTALS: Mapping[str, Callable[[Any, int], str]] = {
    "sequence_mean": lambda loss, cap: "1/B sum_i 1/L_i sum_t l_it",
    "token_mean": lambda loss, cap: "sum_it l_it / sum_i L_i",
    "constant": lambda loss, cap: f"sum_it l_it / (B x {loss.constant or cap})",
    "prompt_mean": lambda loss, cap: (
        "1/Q sum_q (sum_it of q's group l_it / sum_i of it L_i), Q prompts"
    ),
    "sequence_sum": lambda loss, cap: "1/B sum_it l_it",
    "token_sum": lambda loss, cap: "sum_it l_it",
}

POLICY_TEXTS: Mapping[str, Text] = {
    "clip": _clip,
    "reinforce": lambda loss: "-A_i logp",
    "gspo": lambda loss: f"-min(s_i A_i, clip(s_i, {_band(loss)}) A_i),  s_i = exp(mean_t ln r)",
    "gspo_token": lambda loss: (
        f"-min(s_it A_i, clip(s_it, {_band(loss)}) A_i),  s_it = sg(exp(mean_t ln r)) exp(logp - sg(logp))"
    ),
    "cispo": lambda loss: f"-sg(clip(r, {_band(loss)})) A_i logp",
    "gmpo": lambda loss: (
        f"-A_i exp(mean_t a min(a ln r, a clip(ln r, {-loss.epsilon_low:g}, {loss.epsilon_high:g}))),  a = sign A_i"
    ),
    "sapo": lambda loss: (
        f"-(4 / tau) sigmoid(tau (r - 1)) A_i,  tau = {loss.sapo_positive:g} where A_i > 0, else {loss.sapo_negative:g}"
    ),
    "dppo_tv": lambda loss: (
        f"-A_i r, 0 where p - mu has A_i's sign and |p - mu| > {loss.divergence:g},  "
        "p = exp(logp), mu = exp(sampled_logp)"
    ),
    "dppo_kl": lambda loss: (
        f"-A_i r, 0 where p - mu has A_i's sign and the KL of (mu, 1 - mu) to (p, 1 - p) > "
        f"{loss.divergence:g},  p = exp(logp), mu = exp(sampled_logp)"
    ),
    "topr": lambda loss: "-A_i logp, times sg(min(R_i, 1)) where A_i < 0,  R_i = exp(sum_t ln r)",
    "topr_token": lambda loss: "-A_i logp, times sg(min(r, 1)) where A_i < 0",
    "kimi": lambda loss: f"-A_i logp + {loss.regularizer / 2:g} ln r sum_t ln r",
    "kimi_token": lambda loss: f"-A_i logp + {loss.regularizer / 2:g} (ln r)^2",
    "clip_cov": lambda loss: (
        f"{_clip(loss)}, detached on a random {loss.cov_share:g} of the update's tokens, unclipped, "
        f"with (A - mean)(logp - mean) in ({loss.cov_low:g}, {loss.cov_high:g})"
    ),
    "kl_cov": lambda loss: (
        f"-r A_i, and {loss.cov_kl:g} |ln r| on the {loss.cov_share:g} of the update's tokens with the "
        "largest (A - mean)(logp - mean)"
    ),
    "m2po": lambda loss: (
        "-r A_i, 0 on the tokens of the largest (logp - sampled_logp)^2 until its mean over the "
        f"others is at most {loss.second_moment:g}"
    ),
    "none": lambda loss: "0",
}

KL_TEXTS: Mapping[str, str] = {
    "k1": "(-x)",
    "k2": "(x^2 / 2)",
    "k3": "(exp(x) - x - 1)",
    "k3_unbiased": "r (exp(x) - x - 1)",
}
LEVEL_TEXTS: Mapping[str, str] = {
    "token": "rho_it",
    "sequence": "prod_t rho_it",
    "geometric": "(prod_t rho_it)^(1/L_i)",
}


def formula(advantage: Any, loss: Any, max_tokens: int) -> str:
    """The objective that the recipe's ``advantage`` and ``loss`` sections resolve to, in one readable paragraph."""
    masked = (
        "; truncated completions leave all sums and denominators"
        if advantage.mask_truncated
        else ""
    )
    inner = f"w [{_terms(loss)}]" if weight_text(loss) else _terms(loss)
    rule = RULES[advantage.rule]
    words = rule.formula.format(
        epsilon=advantage.epsilon, k_words=f"{advantage.k}" if advantage.k else "the whole group"
    )
    zero = ",  0 in a flat group" if rule.in_group else ""
    return "\n".join(
        (
            f"loss = {TOTALS[loss.aggregation](loss, max_tokens)}{_entropy(loss)}   "
            f"(B completions and L_i tokens of one update, over all ranks{masked})",
            f"l_it = {inner}",
            f"r = exp(logp - old_logp),  {words}{zero}",
            *_further(advantage, loss),
        )
    )


def _terms(loss: Any) -> str:
    text = POLICY_TEXTS[loss.policy](loss)
    if loss.beta and loss.kl_in == "loss":
        text += f" + {loss.beta:g} {KL_TEXTS[loss.kl]}"
    if loss.teacher:
        text += f" + {loss.teacher_weight:g} r (old_logp - teacher_logp)"
    return text


def _entropy(loss: Any) -> str:
    if loss.entropy_target:
        return (
            f" - c mean entropy (c from {loss.entropy:g}, +-{loss.entropy_step:g} an update towards entropy "
            f"{loss.entropy_target:g}, 0 above it)"
        )
    return f" - {loss.entropy:g} mean entropy" if loss.entropy else ""


def weight_text(loss: Any) -> str:
    """The sampler's correction, empty where there is none."""
    if loss.correction == "none" and loss.correction_mask == "none":
        return ""
    text = LEVEL_TEXTS.get(loss.correction, "1")
    if loss.correction_cap and loss.correction != "none":
        text = f"min({text}, {loss.correction_cap:g})"
    if loss.correction_mask != "none":
        text += (
            f", 0 where {LEVEL_TEXTS[loss.correction_mask]} is outside [{loss.correction_low:g}, "
            f"{loss.correction_high:g}]"
        )
    return text


def _further(advantage: Any, loss: Any) -> Iterator[str]:
    if weight_text(loss):
        yield f"w = {weight_text(loss)},  rho = exp(old_logp - sampled_logp), no gradient"
    if loss.beta and loss.kl_in == "reward":
        sums = "" if advantage.rule == "reinforce_pp" else ", R_i less their sum"
        yield f"penalties = {loss.beta:g} {KL_TEXTS[loss.kl]} a token,  x = ref_logp - old_logp{sums}"
    if loss.beta and loss.kl_in == "loss":
        yield "x = ref_logp - logp"
    if loss.beta and loss.kl_in == "loss" and loss.kl == "k1":
        yield "k1 in the loss: its gradient is 0 on average whatever the reference; k2 or k3_unbiased pull back to it"
    if loss.top_entropy < 1:
        yield (
            f"the policy's term acts on the {loss.top_entropy:g} of the update's tokens with the highest entropy; the "
            "others stay in the denominators"
        )
    if loss.off_policy_mask:
        yield (
            f"completions with A_i < 0 and mean_t(sampled_logp - logp) > {loss.off_policy_mask:g} weigh 0 and stay in "
            "the denominators"
        )
    if advantage.flat != "keep":
        again = (
            f"; other prompts are sampled in their place, up to {advantage.refills} times"
            if advantage.flat == "refill"
            else ""
        )
        yield f"groups flat by {advantage.flat_by} leave all denominators{again}"
    if advantage.retire_at:
        yield f"a prompt passed at a rate of {advantage.retire_at:g} or more so far is not sampled again"


def describe_objective(recipe: Recipe) -> Iterator[str]:
    """The loss as a formula, where it is from, its paper's own scale, and what we chose where the paper is silent."""
    preset = PRESETS[recipe.loss.preset]
    yield formula(recipe.advantage, recipe.loss, recipe.sample.max_tokens)
    yield f"preset {recipe.loss.preset}: {preset.source}"
    changed = [
        f"{section}.{name} = {getattr(getattr(recipe, section), name)}"
        for section in ("advantage", "loss")
        for name, value in getattr(preset, section).items()
        if getattr(getattr(recipe, section), name) != value
    ]
    if changed:
        yield f"  changed by this recipe: {', '.join(changed)}"
    yield f"  the paper's scale, not applied: {preset.paper_scale}"
    for choice in preset.choices:
        yield f"  our choice: {choice}"
