"""Scores become advantages: one small pure function per rule, over the whole step, and their table.

A completion without a score leaves mean, deviation and count, and gets 0. Where a rule compares within a group, a
flat group gets exactly 0, as does a group of one. Statistics that span the step (batch deviations, the share of
groups that teach) are taken over all its completions at once, the same on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from grpo.recipe import AdvantageSection
from grpo.recipe.objectives import RULE_SPECS, RuleSpec
from grpo.types import ScoredGroup, spread

Member = tuple[int, int]
"""(index of a group, index of a completion in it)."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredStep:
    """The completions of a step that count, as a rule sees them: all fp64, groups numbered from 0.

    ``part_BK`` holds the rewards one by one, NaN where one does not count for a row, ``weight_K`` their weights.
    ``penalties`` are, for each completion, what is taken off each token's reward (the KL in the reward), [T] each.
    ``spread_B`` says whether the scores of a completion's group differ.
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
        sums = value_B.new_zeros(self.num_groups).index_add(0, self.group_B, value_B)
        return sums[self.group_B]

    @property
    def size_B(self) -> Tensor:
        return self.group_sum(torch.ones_like(self.score_B))

    def centred(self, value_B: Tensor) -> Tensor:
        """Each value less the mean of its group."""
        return value_B - self.group_sum(value_B) / self.size_B

    def deviation(self, value_B: Tensor) -> Tensor:
        """The standard deviation of each completion's group, with n - 1."""
        squares_B = self.group_sum(self.centred(value_B).square())
        num_others_B = (self.size_B - 1).clamp_min(1)
        return (squares_B / num_others_B).sqrt()


def group_std(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """(R - mean) / (std + epsilon), std with n - 1 (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    scale_B = scored.deviation(scored.score_B) + settings.epsilon
    return scored.centred(scored.score_B) / scale_B


def center(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """R - mean (Dr. GRPO, arXiv 2503.20783): dividing by the std would favour groups that barely spread."""
    return scored.centred(scored.score_B)


def rloo(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """R_i - mean of the others = G / (G - 1) (R_i - mean) (RLOO, arXiv 2402.14740)."""
    num_others_B = (scored.size_B - 1).clamp_min(1)
    return scored.centred(scored.score_B) * scored.size_B / num_others_B


def batch_std(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """(R - mean of the group) / (std of all R of the step + epsilon) (LitePPO, arXiv 2508.08221)."""
    scale = deviation(scored.score_B) + settings.epsilon
    return scored.centred(scored.score_B) / scale


def batch_std_centered(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """(R - mean) / (std of all such differences of the step + epsilon) (ScaleRL, arXiv 2510.13786)."""
    centred_B = scored.centred(scored.score_B)
    return centred_B / (deviation(centred_B) + settings.epsilon)


def reinforce_pp_baseline(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """R - mean of the group, whitened over the step's completions (REINFORCE++ w/ baseline, arXiv 2501.03262)."""
    return whitened(scored.centred(scored.score_B), settings.epsilon)


def reinforce_pp(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """R - sum of penalties from the token on, whitened over all tokens of the step (arXiv 2501.03262, eqs. 8-10).

    One advantage per *token*, end to end. Nothing is compared within a group, so a flat group teaches too.
    """
    penalties = scored.penalties
    if not penalties:
        lengths = scored.length_B.tolist()
        penalties = tuple(torch.zeros(int(length), dtype=torch.float64) for length in lengths)
    returns = []
    for score, penalty_T in zip(scored.score_B, penalties):
        remaining_T = penalty_T.flip(0).cumsum(0).flip(0)
        returns.append(score - remaining_T)
    return whitened(torch.cat(returns), settings.epsilon)


def opo(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """R_i - sum_j L_j R_j / sum_j L_j, the baseline of least variance (OPO, arXiv 2505.23585)."""
    tokens_B = scored.group_sum(scored.length_B)
    baseline_B = scored.group_sum(scored.length_B * scored.score_B) / tokens_B
    return scored.score_B - baseline_B


def gpg(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """B / (completions of groups that are not flat) (R - mean) (GPG, arXiv 2504.02546)."""
    share = scored.spread_B.to(torch.float64).mean().clamp_min(1e-300)
    return scored.centred(scored.score_B) / share


def maxrl(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """(R - mean) / mean, 0 where the mean is not positive (MaxRL, arXiv 2602.02710); for rewards >= 0."""
    mean_B = scored.group_sum(scored.score_B) / scored.size_B
    relative_B = scored.centred(scored.score_B) / mean_B
    return torch.where(mean_B > 0, relative_B, 0.0)


def pass_k(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """What a completion adds to the best of k, over all subsets, / (std + epsilon) (arXiv 2503.19595).

    The mean over subsets S of k completions that contain i of max(S) - max(S without i); with k the group's size (the
    default, ``k: 0``) only the best gets something, R_max - R_2nd.
    """
    gain_B = torch.zeros_like(scored.score_B)
    for group in range(scored.num_groups):
        members = (scored.group_B == group).nonzero()[:, 0]
        k = min(settings.k or len(members), len(members))
        gain_B[members] = best_of_k_gain(scored.score_B[members], k)
    scale_B = scored.deviation(scored.score_B) + settings.epsilon
    return gain_B / scale_B


def best_of_k_gain(score_G: Tensor, k: int) -> Tensor:
    """For each i: the mean of max(R_i - max of k - 1 others, 0) over all choices of the others."""
    if len(score_G) < 2:
        return torch.zeros_like(score_G)
    num_others = len(score_G) - 1
    ways = _fp64([comb(rank, k - 2) for rank in range(num_others)])
    gains = []
    for i, score in enumerate(score_G):
        others = torch.cat([score_G[:i], score_G[i + 1 :]])
        others = others.sort().values
        gain_of_others = (score - others).clamp_min(0)
        gain = (ways * gain_of_others).sum()
        gains.append(gain / comb(num_others, k - 1))
    return torch.stack(gains)


def gdpo(scored: ScoredStep, settings: AdvantageSection) -> Tensor:
    """Each reward by its own group's mean and std, then the weighted sum whitened (GDPO, arXiv 2601.05242)."""
    total_B = torch.zeros_like(scored.score_B)
    for part_B, weight in zip(scored.part_BK.T, scored.weight_K):
        counts_B = part_B.isfinite()
        if not counts_B.any():
            continue
        part = restricted(scored, counts_B)
        value_B = part_B[counts_B]
        scale_B = part.deviation(value_B) + settings.epsilon
        gain_B = weight * part.centred(value_B) / scale_B
        spread_B = _spreads(value_B[:, None], part.group_B)
        total_B[counts_B] += torch.where(spread_B, gain_B, 0.0)
    return whitened(total_B, settings.epsilon)


def restricted(scored: ScoredStep, counts_B: Tensor) -> ScoredStep:
    """`scored` with only the completions that count, for statistics over them."""
    return replace(scored, score_B=scored.score_B[counts_B], group_B=scored.group_B[counts_B])


def deviation(value_B: Tensor) -> Tensor:
    """The standard deviation with n - 1; 0 for fewer than two values."""
    return value_B.std() if len(value_B) > 1 else value_B.new_zeros(())


def whitened(value_B: Tensor, epsilon: float) -> Tensor:
    """(value - mean) / (std + epsilon), both over the whole step."""
    scale = deviation(value_B) + epsilon
    return (value_B - value_B.mean()) / scale


RULES: Mapping[str, Callable[[ScoredStep, AdvantageSection], Tensor]] = {
    "group_std": group_std,
    "center": center,
    "rloo": rloo,
    "batch_std": batch_std,
    "batch_std_centered": batch_std_centered,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "opo": opo,
    "gpg": gpg,
    "maxrl": maxrl,
    "pass_k": pass_k,
    "gdpo": gdpo,
}
"""(scored, the recipe's ``advantage``) -> one advantage per completion [B], or per token [T] where `by_token`."""

assert list(RULES) == list(RULE_SPECS)


# ---- from groups to completions and back ----------------------------------------------------------------------------


def advantages(
    groups: Sequence[ScoredGroup],
    settings: AdvantageSection,
    weights: Mapping[str, float] | None = None,
    penalties: Mapping[Member, Tensor] | None = None,
    left_out: Collection[int] = (),
) -> list[list[float | Tensor]]:
    """One advantage for each completion of each group, computed in fp64; 0 where a completion does not count.

    `settings` is the recipe's ``advantage`` section. `weights` are those of the rewards, by name. `penalties` are
    taken off each token's reward; with them a rule `by_token` gives a tensor [T] per completion. Groups `left_out` of
    the step are in no statistic.
    """
    spec = RULE_SPECS[settings.rule]
    result: list[list[float | Tensor]] = [[0.0] * len(group.completions) for group in groups]
    members = _members(groups, settings, spec, left_out)
    if not members:
        return result
    scored = _scored_step(groups, members, weights or {}, penalties or {}, spec=spec)
    values = RULES[settings.rule](scored, settings)
    if spec.by_token:
        per_member = _by_completion(values, scored, whole=not penalties)
    else:
        zero_B = ~scored.spread_B if spec.in_group else torch.zeros_like(scored.spread_B)
        per_member = torch.where(zero_B, 0.0, values).tolist()
    for (group_index, i), value in zip(members, per_member):
        result[group_index][i] = value
    return result


def _members(
    groups: Sequence[ScoredGroup],
    settings: AdvantageSection,
    spec: RuleSpec,
    left_out: Collection[int],
) -> list[Member]:
    """The completions that the rule sees."""
    members: list[Member] = []
    for group_index, group in enumerate(groups):
        if group_index in left_out:
            continue
        counts = group.counted(settings.mask_truncated)
        counted = [(group_index, i) for i in range(len(counts)) if counts[i]]
        if not spec.in_group or len(counted) > 1:
            members += counted
    return members


def _by_completion(value_T: Tensor, scored: ScoredStep, whole: bool) -> list[float | Tensor]:
    """Advantages of single tokens, per completion; where they are `whole`, equal at all its tokens, one number."""
    parts = value_T.split([int(length) for length in scored.length_B])
    if not whole:
        return list(parts)
    numbers: list[float | Tensor] = []
    for part_T in parts:
        numbers.append(float(part_T[0]) if len(part_T) else 0.0)
    return numbers


def _scored_step(
    groups: Sequence[ScoredGroup],
    members: Sequence[Member],
    weights: Mapping[str, float],
    penalties: Mapping[Member, Tensor],
    *,
    spec: RuleSpec,
) -> ScoredStep:
    names = [name for name, weight in weights.items() if weight]
    member_penalties = _penalties(groups, members, penalties)
    score_B = _fp64([groups[g].scores[i].value for g, i in members])
    if member_penalties and not spec.by_token:
        score_B = score_B - torch.stack([penalty_T.sum() for penalty_T in member_penalties])
    part_BK = _fp64([_parts(groups[g], i, names) for g, i in members])
    lengths = [groups[g].completions[i].num_tokens for g, i in members]
    group_B = _numbered([g for g, _ in members])
    compared_BK = part_BK if spec.by_part and names else score_B[:, None]
    return ScoredStep(
        score_B=score_B,
        group_B=group_B,
        length_B=_fp64(lengths),
        part_BK=part_BK.reshape(len(members), len(names)),
        weight_K=_fp64([weights[name] for name in names]),
        spread_B=_spreads(compared_BK, group_B),
        penalties=tuple(member_penalties),
    )


def _fp64(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _numbered(group_indices: Sequence[int]) -> Tensor:
    """The groups numbered from 0, in the order in which they occur."""
    numbers = {g: number for number, g in enumerate(dict.fromkeys(group_indices))}
    return torch.tensor([numbers[g] for g in group_indices])


def _penalties(
    groups: Sequence[ScoredGroup],
    members: Sequence[Member],
    penalties: Mapping[Member, Tensor],
) -> list[Tensor]:
    """What each member's tokens lose, zeros where nothing is known; empty if there are no penalties at all."""
    if not penalties:
        return []
    result = []
    for g, i in members:
        zero_T = torch.zeros(groups[g].completions[i].num_tokens)
        result.append(penalties.get((g, i), zero_T).double())
    return result


def _parts(group: ScoredGroup, i: int, names: Sequence[str]) -> list[float]:
    """The rewards of a completion by name, NaN where one does not count for it."""
    verdict = group.verdicts[i] if group.verdicts else {}
    values = []
    for name in names:
        score = verdict.get(name)
        value = None if score is None else score.value
        values.append(float("nan") if value is None else value)
    return values


def _spreads(value_BK: Tensor, group_B: Tensor) -> Tensor:
    """Whether the values of a completion's group differ by more than rounding, in any column."""
    spread_B = torch.zeros(len(group_B), dtype=torch.bool)
    for group in group_B.unique():
        in_group_B = group_B == group
        for column in value_BK[in_group_B].T:
            known = column[column.isfinite()]
            if spread(known.tolist()):
                spread_B |= in_group_B
    return spread_B
