"""Scores of a group become advantages: one small function a rule, and their table.

A completion without a score leaves mean, deviation and count, and gets 0. A flat group gets exactly 0.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from grpo.types import ScoredGroup

Rule = Callable[[Tensor, float], Tensor]


def group_std(score_G: Tensor, epsilon: float) -> Tensor:
    """(R - mean) / (std + epsilon), std with n - 1 (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    return (score_G - score_G.mean()) / (score_G.std() + epsilon)


def center(score_G: Tensor, epsilon: float) -> Tensor:
    """R - mean (Dr. GRPO, arXiv 2503.20783): dividing by the deviation favours groups that barely spread."""
    return score_G - score_G.mean()


RULES: Mapping[str, Rule] = {"group_std": group_std, "center": center}


def group_advantages(group: ScoredGroup, rule: str, epsilon: float, mask_truncated: bool = False) -> list[float]:
    """One advantage for each completion of `group`, computed in fp64; 0 where a completion does not count."""
    counts = [score.value is not None and completion.finish != "cancelled"
              and not (mask_truncated and completion.truncated)
              for score, completion in zip(group.scores, group.completions)]
    values = torch.tensor([score.value for score, count in zip(group.scores, counts) if count], dtype=torch.float64)
    advantages = [0.0] * len(counts)
    if group.flat or len(values) < 2 or float(values.max() - values.min()) == 0.0:
        return advantages
    for place, value in zip([i for i, count in enumerate(counts) if count], RULES[rule](values, epsilon).tolist()):
        advantages[place] = value
    return advantages


def step_advantages(groups: Sequence[ScoredGroup], rule: str, epsilon: float,
                    mask_truncated: bool = False) -> list[list[float]]:
    return [group_advantages(group, rule, epsilon, mask_truncated) for group in groups]
