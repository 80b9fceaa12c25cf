"""Mixtures of experts: every expert gets enough rows that its products round in one way.

A product of few rows may round differently with the number of rows, and how many tokens an expert gets depends on the
neighbours in the batch. Rows of zeros with weight 0 fill it up, and their outputs are dropped.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from grpo.model.routing import STACKED

MIN_ROWS_PER_EXPERT = 12  # MKL rounds products of 5 to 7 and 9 to 11 rows in ways of their own

ExpertInputs = tuple[Tensor, Tensor, Tensor]
"""(hidden states [T, D], the experts of each token [T, K], their weights [T, K])."""


def fill_experts(model: nn.Module) -> None:
    """Register the hooks on every mixture of experts in `model`."""
    for module in model.modules():
        if hasattr(module, STACKED):
            module.register_forward_pre_hook(_add_filling)
            module.register_forward_hook(_drop_filling)


def _add_filling(experts: nn.Module, args: ExpertInputs) -> ExpertInputs:
    """Route MIN_ROWS_PER_EXPERT rows of zeros to each expert, with weight 0."""
    hidden_TD, index_TK, weight_TK = args
    num_experts = _num_experts(experts)
    experts_a_row = index_TK.shape[-1]
    num_slots = _num_rows(num_experts, experts_a_row) * experts_a_row
    filling = torch.arange(num_slots, device=index_TK.device)
    index_FK = (filling % num_experts).view(-1, experts_a_row).to(index_TK.dtype)
    zeros_FD = hidden_TD.new_zeros(len(index_FK), hidden_TD.shape[-1])
    zeros_FK = weight_TK.new_zeros(index_FK.shape)
    return (
        torch.cat([hidden_TD, zeros_FD]),
        torch.cat([index_TK, index_FK]),
        torch.cat([weight_TK, zeros_FK]),
    )


def _drop_filling(experts: nn.Module, args: ExpertInputs, output_TD: Tensor) -> Tensor:
    num_rows = _num_rows(_num_experts(experts), args[1].shape[-1])
    return output_TD[: len(output_TD) - num_rows]


def _num_experts(experts: nn.Module) -> int:
    return cast(int, experts.num_experts)


def _num_rows(num_experts: int, experts_a_row: int) -> int:
    """Rows to add so that each expert gets at least MIN_ROWS_PER_EXPERT of them."""
    return -(-MIN_ROWS_PER_EXPERT * num_experts // experts_a_row)
