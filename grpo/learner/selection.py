"""What a loss selects over a whole update, before its first backward: tokens by covariance, moment or entropy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.packing import pack
from grpo.objective.objective import Objective
from grpo.objective.policy_loss import select_top_entropy
from grpo.types import Row


@dataclass(frozen=True, slots=True, eq=False)
class UpdateSelection:
    """What was decided over a whole update before its first backward, by row index.

    ``flags`` mark the tokens that the policy loss selected, ``keep`` those of highest entropy, each empty where the
    loss selects none; ``entropy`` is the mean over all tokens, None where it was not asked for.
    """

    flags: Mapping[int, Tensor] = field(default_factory=dict)
    keep: Mapping[int, Tensor] = field(default_factory=dict)
    entropy: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SurveyedRow:
    """A row's tokens [T] as they are before the update, on the host."""

    index: int
    logp_T: Tensor
    entropy_T: Tensor
    old_logp_T: Tensor


def select(
    surveyed: Sequence[SurveyedRow], rows: Sequence[Row], objective: Objective, seed: int
) -> UpdateSelection:
    """Select over the tokens of all `rows`, in the order of their indices; `surveyed` are the same rows."""
    known = {row.index: row for row in surveyed}
    ordered = sorted(rows, key=lambda row: row.index)
    logp_T = torch.cat([known[row.index].logp_T for row in ordered])
    entropy_T = torch.cat([known[row.index].entropy_T for row in ordered])
    flags: dict[int, Tensor] = {}
    if objective.policy_loss.select is not None:
        old_logps = {row.index: row.old_logp_T for row in surveyed}
        no_share_R = [0.0] * len(ordered)
        inputs = objective.inputs(pack(ordered), no_share_R, old_logps, dtype=logp_T.dtype)
        flag_T = objective.policy_loss.select(inputs.tokens(logp_T), objective.loss, seed)
        flags = by_row(ordered, flag_T)
    keep: dict[int, Tensor] = {}
    if objective.loss.top_entropy < 1:
        keep_T = select_top_entropy(entropy_T, objective.loss.top_entropy)
        keep = by_row(ordered, keep_T)
    entropy = float(entropy_T.double().mean())
    return UpdateSelection(flags=flags, keep=keep, entropy=entropy)


def by_row(rows: Sequence[Row], value_T: Tensor) -> dict[int, Tensor]:
    """By row index, the row's part of `value_T`."""
    parts = value_T.split([row.num_tokens for row in rows])
    return {row.index: part_T for row, part_T in zip(rows, parts)}
