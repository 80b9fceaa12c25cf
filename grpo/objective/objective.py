"""The loss of some packed tokens from their log-probs and entropies, and what it did to them.

What a token's loss needs in addition to its log-prob is collected once per micro-batch (`TokenInputs`) and can be cut
into spans, so that a head which yields log-probs chunk by chunk can ask for their coefficients at once. A span may cut
a completion in two, unless the loss `couples_tokens_of_a_completion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.packing import PackedRows, stack_logps, upload
from grpo.objective import correction
from grpo.objective.aggregation import AGGREGATIONS
from grpo.objective.kl import KLS, distillation
from grpo.objective.policy_loss import POLICY_LOSSES
from grpo.objective.tokens import Tokens
from grpo.recipe import LossSection
from grpo.recipe.objectives import POLICY_LOSS_SPECS
from grpo.types import Row, Update


def couples_tokens_of_a_completion(loss: LossSection) -> bool:
    """Whether a token's loss depends on the log-probs of its whole completion."""
    coupled = POLICY_LOSS_SPECS[loss.policy].couples_tokens or correction.couples_tokens(loss)
    return coupled or bool(loss.off_policy_mask)


@dataclass(frozen=True, slots=True, eq=False)
class TokenInputs:
    """What is known of each token [T] of a micro-batch before its log-prob is.

    ``lengths`` are the rows' numbers of tokens, on the host. ``share_T`` is the token's weight in the update.
    ``old_logp_T`` None stands for the detached log-prob itself; where a reference or a teacher is None, the loss has
    no such term. ``keep_T`` is the choice of `select_top_entropy`, ``flag_T`` that of the policy loss.
    """

    lengths: tuple[int, ...]
    share_T: Tensor
    sampled_logp_T: Tensor
    advantage_T: Tensor
    old_logp_T: Tensor | None
    ref_logp_T: Tensor | None
    teacher_logp_T: Tensor | None
    keep_T: Tensor | None
    flag_T: Tensor | None

    def span(self, start: int, end: int) -> TokenInputs:
        """The inputs of the tokens ``start..end``; of a completion that is cut, those of the part."""
        if (start, end) == (0, len(self.share_T)):
            return self
        return TokenInputs(
            lengths=self._lengths(start, end),
            share_T=self.share_T[start:end],
            sampled_logp_T=self.sampled_logp_T[start:end],
            advantage_T=self.advantage_T[start:end],
            old_logp_T=_slice(self.old_logp_T, start, end),
            ref_logp_T=_slice(self.ref_logp_T, start, end),
            teacher_logp_T=_slice(self.teacher_logp_T, start, end),
            keep_T=_slice(self.keep_T, start, end),
            flag_T=_slice(self.flag_T, start, end),
        )

    def _lengths(self, start: int, end: int) -> tuple[int, ...]:
        lengths = []
        offset = 0
        for length in self.lengths:
            inside = min(end, offset + length) - max(start, offset)
            if inside > 0:
                lengths.append(inside)
            offset += length
        return tuple(lengths)

    def tokens(self, logp_T: Tensor) -> Tokens:
        """The tokens as the policy losses see them; an unknown old log-prob is replaced by the detached `logp_T`."""
        length_R = upload(torch.tensor(self.lengths), logp_T.device)
        row_T = torch.repeat_interleave(length_R, output_size=len(logp_T))
        old_logp_T = logp_T.detach()
        if self.old_logp_T is not None:
            old_logp_T = torch.where(self.old_logp_T.isfinite(), self.old_logp_T, old_logp_T)
        return Tokens(
            logp_T=logp_T,
            old_logp_T=old_logp_T,
            sampled_logp_T=self.sampled_logp_T,
            advantage_T=self.advantage_T,
            row_T=row_T,
            length_R=length_R,
            flag_T=self.flag_T,
        )


def _slice(value_T: Tensor | None, start: int, end: int) -> Tensor | None:
    return None if value_T is None else value_T[start:end]


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """The loss of some tokens, a sum, with the parts that are reported.

    ``weights`` are the sampler's correction alone; ``weight_T`` is all that multiplies a token's loss but its share
    in the update. ``kl_T`` and ``teacher_T`` are 0 where the loss has no such term.
    """

    loss: Tensor
    tokens: Tokens
    weights: correction.Weights
    weight_T: Tensor
    kl_T: Tensor
    teacher_T: Tensor


class Objective:
    """``loss`` settings as a function of log-probs and entropies."""

    def __init__(self, loss: LossSection):
        self.loss = loss
        self.policy_loss = POLICY_LOSSES[loss.policy]
        self.aggregation = AGGREGATIONS[loss.aggregation]

    def inputs(
        self,
        packed: PackedRows,
        share_R: Sequence[float],
        old_logps: Mapping[int, Tensor],
        *,
        ref_logp_T: Tensor | None = None,
        teacher_logp_T: Tensor | None = None,
        keep: Mapping[int, Tensor] | None = None,
        flags: Mapping[int, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> TokenInputs:
        """The inputs of the micro-batch `packed`; mappings are by row index, `share_R` are its rows' weights."""
        device = packed.token_P.device
        rows = packed.rows
        lengths = tuple(row.num_tokens for row in rows)
        share_T = torch.tensor(share_R, dtype=dtype).repeat_interleave(torch.tensor(lengths))
        old_logp_T = _joined(rows, old_logps, device) if rows[0].index in old_logps else None
        return TokenInputs(
            lengths=lengths,
            share_T=upload(share_T, device),
            sampled_logp_T=upload(stack_logps(rows).to(dtype), device),
            advantage_T=upload(_advantages(rows, dtype), device),
            old_logp_T=old_logp_T,
            ref_logp_T=ref_logp_T,
            teacher_logp_T=teacher_logp_T,
            keep_T=_joined(rows, keep, device) if keep else None,
            flag_T=_joined(rows, flags, device) if flags else None,
        )

    def shares(self, rows: Sequence[Row], update: Update) -> list[float]:
        """Each row's weight in the update, for any one of its tokens."""
        return [self.aggregation(row, update.denominators, self.loss.constant) for row in rows]

    def __call__(self, inputs: TokenInputs, logp_T: Tensor) -> TokenLosses:
        """The loss of the tokens, without the entropy bonus, which is linear."""
        tokens = inputs.tokens(logp_T)
        weights = correction.weights(tokens, self.loss)
        weight_T = weights.weight_T
        if inputs.old_logp_T is not None:
            # The sampler's may be missing; such a token weighs 0, whatever its ratio.
            weight_T = weight_T * inputs.old_logp_T.isfinite()
        if self.loss.off_policy_mask:
            weight_T = weight_T * correction.on_policy_enough(tokens, self.loss.off_policy_mask)
        loss_T = self.policy_loss.loss(tokens, self.loss)
        if inputs.keep_T is not None:
            loss_T = loss_T * inputs.keep_T
        kl_T = teacher_T = torch.zeros_like(loss_T)
        if inputs.ref_logp_T is not None:
            kl_T = KLS[self.loss.kl](tokens, inputs.ref_logp_T)
            if self.loss.kl_in == "loss":
                loss_T = loss_T + self.loss.beta * kl_T
        if inputs.teacher_logp_T is not None:
            teacher_T = distillation(tokens, inputs.teacher_logp_T)
            loss_T = loss_T + self.loss.teacher_weight * teacher_T
        return TokenLosses(
            loss=_weighted_sum(inputs.share_T * weight_T, loss_T),
            tokens=tokens,
            weights=weights,
            weight_T=weight_T,
            kl_T=kl_T,
            teacher_T=teacher_T,
        )

    def coefficients(self, inputs: TokenInputs, logp_T: Tensor, scale: float) -> Tensor:
        """The derivative of the loss by each token's log-prob, times `scale`."""
        with torch.enable_grad():
            logp_T = logp_T.detach().requires_grad_()
            loss = scale * self(inputs, logp_T).loss
            (coefficient_T,) = torch.autograd.grad(loss, logp_T)
        return coefficient_T


def _advantages(rows: Sequence[Row], dtype: torch.dtype) -> Tensor:
    """Each token's advantage; a row has one number, or one per token."""
    parts = []
    for row in rows:
        advantage = torch.as_tensor(row.advantage, dtype=dtype)
        parts.append(advantage.expand(row.num_tokens))
    return torch.cat(parts)


def _joined(rows: Sequence[Row], by_row: Mapping[int, Tensor], device: torch.device) -> Tensor:
    return upload(torch.cat([by_row[row.index] for row in rows]), device)


def _weighted_sum(weight_T: Tensor, loss_T: Tensor) -> Tensor:
    """The weighted sum; a token of weight 0 adds nothing even where its loss is not finite."""
    return (weight_T * torch.where(weight_T == 0, 0.0, loss_T)).sum()
