"""How much each token's loss counts: every aggregation is a weight per row, over the update's denominators.

Micro-batches return *sums* of weighted losses. There is no mean over a micro-batch anywhere, so the gradient cannot
depend on how an update is split.
"""

from __future__ import annotations

from typing import Callable, Mapping

from grpo.recipe.objectives import AGGREGATION_SPECS
from grpo.types import Denominators, Row

Weight = Callable[[Row, Denominators, "int | None"], float]
"""(row, the update's denominators, ``loss.constant``) -> the weight of each of the row's tokens."""


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
    """1 / completions: the mean over completions of their sums (RLOO, LUSPO)."""
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

assert list(AGGREGATIONS) == list(AGGREGATION_SPECS)
