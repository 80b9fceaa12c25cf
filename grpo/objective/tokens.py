"""The completion tokens that losses, KLs and corrections are functions of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATIO_LOG_LIMIT = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Completion tokens [T] of some whole rows, end to end.

    ``logp_T`` carries the gradient, nothing else does. ``row_T`` is the number of each token's row, from 0, and
    ``length_R`` the rows' lengths. ``flag_T`` marks what the loss selected over the whole update.
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

    @property
    def sequence_ratio_T(self) -> Tensor:
        """The geometric mean of the ratios of each completion, at each of its tokens."""
        return self.row_mean(self.delta_T).exp()

    @property
    def selected_T(self) -> Tensor:
        """``flag_T``, which a loss that selects tokens cannot do without."""
        assert self.flag_T is not None, "a loss that selects tokens is given its selection"
        return self.flag_T

    def row_sum(self, value_T: Tensor) -> Tensor:
        """The sum over each completion, at each of its tokens."""
        return self._sum_R(value_T)[self.row_T]

    def row_mean(self, value_T: Tensor) -> Tensor:
        """The mean over each completion, at each of its tokens."""
        return (self._sum_R(value_T) / self.length_R)[self.row_T]

    def _sum_R(self, value_T: Tensor) -> Tensor:
        return torch.segment_reduce(value_T, "sum", lengths=self.length_R, unsafe=True)


def log_ratio(logp_T: Tensor, old_logp_T: Tensor) -> Tensor:
    """Return logp - old_logp, limited to +-20 so that a ratio is always finite."""
    return (logp_T - old_logp_T).clamp(-RATIO_LOG_LIMIT, RATIO_LOG_LIMIT)
