"""The objective that settings resolve to, as text: printed before a run, so that a name never hides a gradient.

The formulas of single terms are in ``grpo.recipe.objectives``; here they are filled in and put together.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from grpo.objective import correction
from grpo.recipe import AdvantageSection, LossSection, Recipe
from grpo.recipe.objectives import (
    AGGREGATION_SPECS,
    KL_SPECS,
    LEVEL_SPECS,
    POLICY_LOSS_SPECS,
    RULE_SPECS,
)
from grpo.recipe.presets import PRESETS
from rewards.spelling import many


def formula(advantage: AdvantageSection, loss: LossSection, max_tokens: int) -> str:
    """The objective that the recipe's ``advantage`` and ``loss`` sections resolve to, in one readable paragraph."""
    weight = weight_text(loss)
    terms = _terms(loss)
    aggregation = AGGREGATION_SPECS[loss.aggregation].formula
    total = aggregation.format(constant=loss.constant or max_tokens)
    total += _entropy(loss) + _load_balance(loss)
    lines = [
        f"loss = {total}   (B completions and L_i tokens of one update, over all ranks"
        f"{_masked(advantage)})",
        f"l_it = w [{terms}]" if weight else f"l_it = {terms}",
        f"r = exp(logp - old_logp){_rule(advantage, loss)}",
    ]
    if weight:
        lines.append(f"w = {weight},  rho = exp(old_logp - sampled_logp), no gradient")
    lines += _reference(advantage, loss)
    lines += _left_out(advantage, loss)
    return "\n".join(lines)


def _masked(advantage: AdvantageSection) -> str:
    if not advantage.mask_truncated:
        return ""
    return "; truncated completions leave all sums and denominators"


def _rule(advantage: AdvantageSection, loss: LossSection) -> str:
    """What the advantage is, after a comma; nothing where no policy loss reads it."""
    if loss.policy == "none":
        return ""
    spec = RULE_SPECS[advantage.rule]
    text = spec.formula.format(
        epsilon=advantage.epsilon,
        subset_size=f"{advantage.k}" if advantage.k else "the whole group",
    )
    return f",  {text},  0 in a flat group" if spec.in_group else f",  {text}"


def _terms(loss: LossSection) -> str:
    text = _policy(loss)
    if loss.beta and loss.kl_in == "loss":
        text += f" + {loss.beta:g} {KL_SPECS[loss.kl].formula}"
    if loss.teacher:
        text += f" + {loss.teacher_weight:g} r (old_logp - teacher_logp)"
    return text


def _policy(loss: LossSection) -> str:
    dual_clip = f", at most {loss.dual_clip:g} |A_i| where A_i < 0" if loss.dual_clip else ""
    return POLICY_LOSS_SPECS[loss.policy].formula.format(
        loss=loss,
        band=f"{1 - loss.epsilon_low:g}, {1 + loss.epsilon_high:g}",
        capped_ratio=f"min(r, {loss.ratio_cap:g})" if loss.ratio_cap else "r",
        dual_clip=dual_clip,
        half_regularizer=loss.regularizer / 2,
    )


def _entropy(loss: LossSection) -> str:
    if loss.entropy_target:
        return (
            f" - c mean entropy (c from {loss.entropy:g}, +-{loss.entropy_step:g} an update "
            f"towards entropy {loss.entropy_target:g}, 0 above it)"
        )
    return f" - {loss.entropy:g} mean entropy" if loss.entropy else ""


def _load_balance(loss: LossSection) -> str:
    return f" + {loss.load_balance:g} E sum_e f_e P_e" if loss.load_balance else ""


def weight_text(loss: LossSection) -> str:
    """The sampler's correction; empty if there is none."""
    if not correction.is_on(loss):
        return ""
    text = "1"
    if loss.correction != "none":
        text = LEVEL_SPECS[loss.correction].formula
        if loss.correction_cap:
            text = f"min({text}, {loss.correction_cap:g})"
    if loss.correction_mask != "none":
        level = LEVEL_SPECS[loss.correction_mask].formula
        band = f"[{loss.correction_low:g}, {loss.correction_high:g}]"
        text += f", 0 where {level} is outside {band}"
    return text


def _reference(advantage: AdvantageSection, loss: LossSection) -> Iterator[str]:
    if loss.beta and loss.kl_in == "reward":
        sums = "" if advantage.rule == "reinforce_pp" else ", R_i less their sum"
        penalty = f"{loss.beta:g} {KL_SPECS[loss.kl].formula}"
        yield f"penalties = {penalty} a token,  x = ref_logp - old_logp{sums}"
    if loss.beta and loss.kl_in == "loss":
        yield "x = ref_logp - logp"
        if loss.kl == "k1":
            yield (
                "k1 in the loss: its gradient is 0 on average whatever the reference; k2 or "
                "k3_unbiased pull back to it"
            )


def _left_out(advantage: AdvantageSection, loss: LossSection) -> Iterator[str]:
    """What tokens, completions and prompts are left out, and of what."""
    if loss.top_entropy < 1:
        yield (
            f"the policy's term acts on the {loss.top_entropy:g} of the update's tokens with the "
            "highest entropy; the others stay in the denominators"
        )
    if loss.off_policy_mask:
        yield (
            f"completions with A_i < 0 and mean_t(sampled_logp - logp) > {loss.off_policy_mask:g} "
            "weigh 0 and stay in the denominators"
        )
    if advantage.flat != "keep":
        refill = ""
        if advantage.flat == "refill":
            refill = f"; other prompts are sampled instead, up to {many(advantage.refills, 'time')}"
        yield f"groups flat by {advantage.flat_by} leave all denominators{refill}"
    if advantage.retire_at:
        yield (
            f"a prompt with a pass rate of {advantage.retire_at:g} or more so far is not sampled "
            "again"
        )


def describe_objective(recipe: Recipe) -> Iterator[str]:
    """The loss as a formula, its source, its paper's own scale, and what we chose where the paper is silent."""
    preset = PRESETS[recipe.loss.preset]
    yield formula(recipe.advantage, recipe.loss, recipe.sample.max_tokens)
    if recipe.stage == "distill":
        yield "on-policy distillation: in expectation the gradient of each token's KL to the teacher (arXiv 2306.13649)"
        return
    yield f"preset {recipe.loss.preset}: {preset.source}"
    changed = [
        *_changed("advantage", recipe.advantage, preset.advantage),
        *_changed("loss", recipe.loss, preset.loss),
    ]
    if changed:
        yield f"  changed by this recipe: {', '.join(changed)}"
    yield f"  the paper's scale, not applied: {preset.paper_scale}"
    for choice in preset.choices:
        yield f"  our choice: {choice}"


def _changed(name: str, section: object, preset: Mapping[str, Any]) -> Iterator[str]:
    """``section.key = value`` for each of the preset's values that the recipe changes."""
    for key, value in preset.items():
        chosen = getattr(section, key)
        if chosen != value:
            yield f"{name}.{key} = {chosen}"
