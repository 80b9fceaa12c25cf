"""Scores become advantages: one small pure function a rule over the whole step, and their table.

A completion without a score leaves mean, deviation and count, and gets 0. Where a rule compares within a
group, a flat group gets exactly 0, as does a group of one. Statistics that span the step (batch deviations,
the share of groups that teach) are taken over all its completions at once, on every rank alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Callable, Mapping, Protocol, Sequence

import torch
from torch import Tensor

from grpo.types import ScoredGroup
from rewards import Score


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The completions of a step that count, as a rule sees them: all fp64, groups numbered from 0.

    ``part_BK`` holds the rewards one by one, NaN where one does not count for a row, ``weight_K`` their weights.
    ``penalties`` are, for each completion, what is taken off each token's reward (the KL in the reward).
    """

    score_B: Tensor
    group_B: Tensor
    length_B: Tensor
    part_BK: Tensor
    weight_K: Tensor
    spread_B: Tensor
    penalties: tuple[Tensor, ...] = ()

    @property
    def num_groups(self) -> int:
        return int(self.group_B.max()) + 1

    def group_sum(self, value_B: Tensor) -> Tensor:
        """The sum over each completion's group, at each completion."""
        return value_B.new_zeros(self.num_groups).index_add(0, self.group_B, value_B)[self.group_B]

    @property
    def size_B(self) -> Tensor:
        return self.group_sum(torch.ones_like(self.score_B))

    def centred(self, value_B: Tensor) -> Tensor:
        """Each value less the mean of its group."""
        return value_B - self.group_sum(value_B) / self.size_B

    def deviation(self, value_B: Tensor) -> Tensor:
        """The standard deviation of each completion's group, with n - 1."""
        return (
            self.group_sum(self.centred(value_B).square()) / (self.size_B - 1).clamp_min(1)
        ).sqrt()


class Settings(Protocol):
    """The keys of ``advantage`` that rules read."""

    epsilon: float
    k: int


def group_std(scored: Scored, settings: Settings) -> Tensor:
    """(R - mean) / (std + epsilon), std with n - 1 (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    return scored.centred(scored.score_B) / (scored.deviation(scored.score_B) + settings.epsilon)


def center(scored: Scored, settings: Settings) -> Tensor:
    """R - mean (Dr. GRPO, arXiv 2503.20783): dividing by the deviation favours groups that barely spread."""
    return scored.centred(scored.score_B)


def rloo(scored: Scored, settings: Settings) -> Tensor:
    """R_i - mean of the others = G / (G - 1) (R_i - mean) (RLOO, arXiv 2402.14740)."""
    return scored.centred(scored.score_B) * scored.size_B / (scored.size_B - 1).clamp_min(1)


def batch_std(scored: Scored, settings: Settings) -> Tensor:
    """(R - mean of the group) / (std of all R of the step + epsilon) (LitePPO, arXiv 2508.08221)."""
    return scored.centred(scored.score_B) / (deviation(scored.score_B) + settings.epsilon)


def batch_std_centered(scored: Scored, settings: Settings) -> Tensor:
    """(R - mean) / (std of all such differences of the step + epsilon) (ScaleRL, arXiv 2510.13786)."""
    centred_B = scored.centred(scored.score_B)
    return centred_B / (deviation(centred_B) + settings.epsilon)


def reinforce_pp_baseline(scored: Scored, settings: Settings) -> Tensor:
    """R - mean of the group, whitened over the step's completions (REINFORCE++ w/ baseline, arXiv 2501.03262)."""
    return whitened(scored.centred(scored.score_B), settings.epsilon)


def reinforce_pp(scored: Scored, settings: Settings) -> Tensor:
    """R - sum of penalties from the token on, whitened over all tokens of the step (arXiv 2501.03262, eqs. 8-10).

    One advantage a *token*, end to end. No group is compared, so a flat group teaches too.
    """
    parts = scored.penalties or tuple(
        torch.zeros(int(n), dtype=torch.float64) for n in scored.length_B
    )
    returns = [score - part.flip(0).cumsum(0).flip(0) for score, part in zip(scored.score_B, parts)]
    return whitened(torch.cat(returns), settings.epsilon)


def opo(scored: Scored, settings: Settings) -> Tensor:
    """R_i - sum_j L_j R_j / sum_j L_j, the baseline of least variance (OPO, arXiv 2505.23585)."""
    weighted_B = scored.group_sum(scored.length_B * scored.score_B) / scored.group_sum(
        scored.length_B
    )
    return scored.score_B - weighted_B


def gpg(scored: Scored, settings: Settings) -> Tensor:
    """B / (completions of groups that are not flat) (R - mean) (GPG, arXiv 2504.02546)."""
    share = scored.spread_B.to(torch.float64).mean()
    return scored.centred(scored.score_B) / share.clamp_min(1e-300)


def maxrl(scored: Scored, settings: Settings) -> Tensor:
    """(R - mean) / mean, 0 where the mean is not positive (MaxRL, arXiv 2602.02710); for rewards >= 0."""
    mean_B = scored.group_sum(scored.score_B) / scored.size_B
    return torch.where(mean_B > 0, scored.centred(scored.score_B) / mean_B, 0.0)


def pass_k(scored: Scored, settings: Settings) -> Tensor:
    """What a completion adds to the best of k, over all subsets, / (std + epsilon) (arXiv 2503.19595).

    mean over subsets S of k completions that hold i of max(S) - max(S without i); with k the group's size
    (the default, ``k: 0``) the best alone gets R_max - R_2nd.
    """
    gain_B = torch.zeros_like(scored.score_B)
    for group in range(scored.num_groups):
        places = (scored.group_B == group).nonzero()[:, 0]
        gain_B[places] = best_of_k_gain(
            scored.score_B[places], min(settings.k or len(places), len(places))
        )
    return gain_B / (scored.deviation(scored.score_B) + settings.epsilon)


def best_of_k_gain(score_G: Tensor, k: int) -> Tensor:
    """For each i: the mean of max(R_i - max of k - 1 others, 0) over all choices of the others."""
    if len(score_G) < 2:
        return torch.zeros_like(score_G)
    result = []
    for i in range(len(score_G)):
        others = torch.cat([score_G[:i], score_G[i + 1 :]]).sort().values
        ways = torch.tensor([comb(rank, k - 2) for rank in range(len(others))], dtype=torch.float64)
        result.append((ways * (score_G[i] - others).clamp_min(0)).sum() / comb(len(others), k - 1))
    return torch.stack(result)


def gdpo(scored: Scored, settings: Settings) -> Tensor:
    """Each reward by its own group's mean and std, then the weighted sum whitened (GDPO, arXiv 2601.05242)."""
    total_B = torch.zeros_like(scored.score_B)
    for part_B, weight in zip(scored.part_BK.T, scored.weight_K):
        counts_B = part_B.isfinite()
        if counts_B.any():
            part = restricted(scored, counts_B)
            values_B = part_B[counts_B]
            total_B[counts_B] += (
                weight * part.centred(values_B) / (part.deviation(values_B) + settings.epsilon)
            )
    return whitened(total_B, settings.epsilon)


def restricted(scored: Scored, counts_B: Tensor) -> Scored:
    """`scored` with only the completions that count, for statistics over them."""
    return replace(scored, score_B=scored.score_B[counts_B], group_B=scored.group_B[counts_B])


def deviation(value_B: Tensor) -> Tensor:
    """Standard deviation with n - 1, 0 of fewer than two values."""
    return value_B.std() if len(value_B) > 1 else value_B.new_zeros(())


def whitened(value_B: Tensor, epsilon: float) -> Tensor:
    """(value - mean) / (std + epsilon), both over the whole step."""
    return (value_B - value_B.mean()) / (deviation(value_B) + epsilon)


@dataclass(frozen=True)
class Rule:
    """One row of the table. ``in_group`` rules compare completions of one prompt, so that flat groups get 0;
    ``by_part`` rules see a spread in any single reward; ``by_token`` rules give one advantage a token."""

    function: Callable[[Scored, Settings], Tensor]
    formula: str
    in_group: bool = True
    by_part: bool = False
    by_token: bool = False


RULES: Mapping[str, Rule] = {
    "group_std": Rule(group_std, "A_i = (R_i - mean_g) / (std_g + {epsilon:g})"),
    "center": Rule(center, "A_i = R_i - mean_g"),
    "rloo": Rule(rloo, "A_i = R_i - mean of the other R_j of the group"),
    "batch_std": Rule(batch_std, "A_i = (R_i - mean_g) / (std of all R of the step + {epsilon:g})"),
    "batch_std_centered": Rule(
        batch_std_centered,
        "A_i = (R_i - mean_g) / (std of all R_j - mean_g of the step + {epsilon:g})",
    ),
    "reinforce_pp": Rule(
        reinforce_pp,
        "A_it = (G_it - mean) / (std + {epsilon:g}) over all tokens of the step, G_it = R_i - penalties from t on",
        in_group=False,
        by_token=True,
    ),
    "reinforce_pp_baseline": Rule(
        reinforce_pp_baseline, "A_i = whiten(R_i - mean_g) over the step, std + {epsilon:g}"
    ),
    "opo": Rule(opo, "A_i = R_i - sum_j L_j R_j / sum_j L_j of the group"),
    "gpg": Rule(gpg, "A_i = (completions / those in groups that spread) (R_i - mean_g)"),
    "maxrl": Rule(maxrl, "A_i = (R_i - mean_g) / mean_g"),
    "pass_k": Rule(
        pass_k,
        "A_i = mean over subsets S of {k_words} of max(S) - max(S without i), / (std_g + {epsilon:g})",
    ),
    "gdpo": Rule(
        gdpo,
        "A_i = whiten(sum_k weight_k (R_ik - mean_gk) / (std_gk + {epsilon:g})) over the step",
        by_part=True,
    ),
}


# ---- from groups to rows and back -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What the rules read, where no recipe is at hand."""

    rule: str = "group_std"
    epsilon: float = 1e-4
    mask_truncated: bool = False
    k: int = 0


def advantages(
    groups: Sequence[ScoredGroup],
    settings: RuleSettings,
    weights: Mapping[str, float] | None = None,
    penalties: Mapping[tuple[int, int], Tensor] | None = None,
    left_out: Sequence[int] = (),
) -> list[list[float | Tensor]]:
    """One advantage for each completion of each group, computed in fp64; 0 where a completion does not count.

    `settings` is the recipe's ``advantage`` section. `weights` are those of the rewards, `penalties` by (group,
    completion) what a token's reward loses. Groups `left_out` of the step are in no statistic.
    """
    rule = RULES[settings.rule]
    result: list[list[float | Tensor]] = [[0.0] * len(group.completions) for group in groups]
    members = [
        [i for i, counts in enumerate(_counts(group, settings.mask_truncated)) if counts]
        if g not in left_out
        else []
        for g, group in enumerate(groups)
    ]
    places = [
        (g, i)
        for g, chosen in enumerate(members)
        for i in chosen
        if not rule.in_group or len(chosen) > 1
    ]
    if not places:
        return result
    scored = _scored(groups, places, weights or {}, penalties or {}, rule)
    values = rule.function(scored, settings)
    if rule.by_token:
        for (g, i), part in zip(places, values.split([int(n) for n in scored.length_B])):
            result[g][i] = part if penalties else float(part[0]) if len(part) else 0.0
        return result
    zero_B = ~scored.spread_B if rule.in_group else torch.zeros_like(scored.spread_B)
    for (g, i), value in zip(places, torch.where(zero_B, 0.0, values).tolist()):
        result[g][i] = value
    return result


def _scored(
    groups: Sequence[ScoredGroup],
    places: Sequence[tuple[int, int]],
    weights: Mapping[str, float],
    penalties: Mapping[tuple[int, int], Tensor],
    rule: Rule,
) -> Scored:
    numbers = {g: number for number, g in enumerate(dict.fromkeys(g for g, _ in places))}
    names = [name for name, weight in weights.items() if weight]
    off = (
        [
            penalties.get(
                place, torch.zeros(len(groups[place[0]].completions[place[1]].token_ids))
            ).double()
            for place in places
        ]
        if penalties
        else []
    )
    score = torch.tensor([groups[g].scores[i].value for g, i in places], dtype=torch.float64)
    if off and not rule.by_token:
        score = score - torch.stack([part.sum() for part in off])
    parts = torch.tensor(
        [[_part(groups[g], i, name) for name in names] for g, i in places], dtype=torch.float64
    )
    group_B = torch.tensor([numbers[g] for g, _ in places])
    spread = _spreads(parts if rule.by_part and names else score[:, None], group_B)
    return Scored(
        score,
        group_B,
        torch.tensor(
            [len(groups[g].completions[i].token_ids) for g, i in places], dtype=torch.float64
        ),
        parts.reshape(len(places), len(names)),
        torch.tensor([weights[n] for n in names], dtype=torch.float64),
        spread,
        tuple(off),
    )


def _part(group: ScoredGroup, i: int, name: str) -> float:
    part: Score | None = group.verdicts[i].get(name) if group.verdicts else None
    return part.value if part is not None and part.value is not None else float("nan")


def _spreads(value_BK: Tensor, group_B: Tensor) -> Tensor:
    """Whether the values of a completion's group differ by more than rounding, in any column."""
    spread = torch.zeros(len(group_B), dtype=torch.bool)
    for group in group_B.unique():
        mine = group_B == group
        for column in value_BK[mine].T:
            known = column[column.isfinite()]
            if len(known) and known.max() - known.min() > 1e-9 * max(1.0, float(known.abs().max())):
                spread |= mine
    return spread


def _counts(group: ScoredGroup, mask_truncated: bool) -> list[bool]:
    return [
        score.value is not None
        and completion.finish != "cancelled"
        and not (mask_truncated and completion.truncated)
        for score, completion in zip(group.scores, group.completions)
    ]


def step_advantages(
    groups: Sequence[ScoredGroup], rule: str, epsilon: float, mask_truncated: bool = False
) -> list[list[float | Tensor]]:
    """`advantages` by a rule's name."""
    return advantages(groups, RuleSettings(rule, epsilon, mask_truncated))


def group_advantages(
    group: ScoredGroup, rule: str, epsilon: float, mask_truncated: bool = False
) -> list[float]:
    """The advantages of a step that is this one group."""
    return step_advantages([group], rule, epsilon, mask_truncated)[0]
