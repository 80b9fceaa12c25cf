"""How evenly a mixture of experts is loaded in an update, and its load-balancing loss.

The loss is transformers' own, of Switch Transformers (arXiv 2101.03961, equations 4 to 6), with layers pooled as there:
``E sum_e f_e P_e``, where f_e is the share of (token, layer) pairs that expert e takes part in and P_e the mean of the
router's probability for it. f is a count over the whole update, taken before the first backward, and P is a sum over
micro-batches, so that neither packing nor the division into micro-batches changes a gradient.

The tokens are those of completions that are trained on and were read: each but the last, whose experts nothing depends
on. Prompts are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from grpo.distributed.process_group import Ranks
from grpo.model.packing import PackedRows
from grpo.model.routing import Routes, Routing
from grpo.types import Row


@dataclass(frozen=True, slots=True)
class LoadStats:
    """The load of an update: ``entropy`` of the experts' shares, the mean over layers as a share of log E (1: even).

    ``max_share`` is the largest share of a layer's work that one expert does (1/E: even), ``balance`` the
    load-balancing loss, without its weight (K: even).
    """

    entropy: float
    max_share: float
    balance: float


class ExpertLoad:
    """The load of an update's experts, added up over micro-batches.

    With a `weight` the loss has the term ``weight E sum_e f_e P_e``; ``count_E`` are then the choices of the whole
    update, over layers and ranks. ``num_tokens`` are those that are counted, over all ranks.
    """

    def __init__(
        self,
        routing: Routing,
        num_tokens: int,
        *,
        weight: float = 0.0,
        count_E: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        self.routing = routing
        self.weight = weight
        num_layers = routing.shape[0]
        self.num_pairs = max(1, num_layers * num_tokens)
        self.num_tokens = num_tokens
        self.factor_E: Tensor | None = None
        if count_E is not None:
            self.factor_E = weight * routing.num_experts * count_E / self.num_pairs**2
        self.count_LE = torch.zeros(
            (num_layers, routing.num_experts), dtype=torch.float64, device=device
        )
        self.mass_E = torch.zeros(routing.num_experts, dtype=torch.float64, device=device)

    def add(self, routes: Routes, packed: PackedRows) -> Tensor | None:
        """Add a micro-batch; returns its part of the loss with its gradient, None where the loss has no such term."""
        source_T = packed.source_T[read_tokens(packed.rows).to(packed.source_T.device)]
        self.count_LE += counts(self.routing.chosen(routes)[source_T], self.routing.num_experts)
        masses = []
        for number in range(len(self.routing.routers)):
            logits_TE = routes.logits[number].index_select(0, source_T)
            dtype = torch.promote_types(logits_TE.dtype, torch.float32)
            masses.append(logits_TE.softmax(-1, dtype=dtype).sum(0))
        mass_E = torch.stack(masses).sum(0)
        self.mass_E += mass_E.detach().double()
        if self.factor_E is None:
            return None
        return (self.factor_E.to(mass_E.dtype) * mass_E).sum()

    def stats(self, ranks: Ranks) -> LoadStats | None:
        """The load over all ranks, once every micro-batch is added; None of no tokens."""
        if not self.num_tokens:
            return None
        ranks.sum([self.count_LE, self.mass_E])
        share_LE = self.count_LE / self.count_LE.sum(1, keepdim=True)
        entropy = -(share_LE * share_LE.clamp_min(1e-30).log()).sum(1).mean()
        experts = self.routing.num_experts
        balance = experts * (self.count_LE.sum(0) @ self.mass_E) / self.num_pairs**2
        return LoadStats(
            entropy=float(entropy) / math.log(experts) if experts > 1 else 1.0,
            max_share=float(share_LE.max()),
            balance=float(balance),
        )


def counts(chosen_TLK: Tensor, num_experts: int) -> Tensor:
    """How many tokens each expert of each layer is chosen for: [L, E], fp64."""
    num_layers = chosen_TLK.shape[1]
    first_L1 = torch.arange(num_layers, device=chosen_TLK.device)[:, None] * num_experts
    index = (chosen_TLK.long() + first_L1).reshape(-1)
    count = torch.bincount(index, minlength=num_layers * num_experts)
    return count.view(num_layers, num_experts).double()


def read_tokens(rows: Sequence[Row]) -> Tensor:
    """Mask [T] of the learnt tokens that a token of the same completion predicts: all but its first."""
    parts = []
    for row in rows:
        read_T = torch.ones(row.num_tokens, dtype=torch.bool)
        read_T[: _num_after_prompt(row)] = False
        parts.append(read_T)
    return torch.cat(parts)


def num_read(rows: Sequence[Row]) -> int:
    """How many tokens of `rows` are counted."""
    return sum(row.num_tokens - _num_after_prompt(row) for row in rows)


def _num_after_prompt(row: Row) -> int:
    """1 if the prompt predicts a token that is learnt, which is then the first; else 0."""
    begins_given = bool(row.given) and row.given[0][0] == 0
    return 0 if begins_given else min(1, row.num_tokens)


def recorded_counts(rows: Sequence[Row], routing: Routing) -> Tensor | None:
    """The choices [E] that `rows` will make, over layers, as far as records tell; None if a token has none."""
    if not routing.is_replayed:
        return None
    count_E = torch.zeros(routing.num_experts, dtype=torch.float64)
    for row in rows:
        if row.routing is None and (row.given or row.num_tokens > 1):
            return None
        if row.routing is not None:
            count_E += counts(_read_by(row, row.routing), routing.num_experts).sum(0)
    return count_E


def _read_by(row: Row, routing_TLK: Tensor) -> Tensor:
    """Of a row's record, that of the tokens that predict those that are learnt."""
    if not row.given:
        return routing_TLK
    return routing_TLK[[index - 1 for index in row.written if index]]
