"""The loss of some packed tokens from their log-probs and entropies, and what it did to them.

What a token's loss needs besides its own log-prob is put together once for a micro-batch (`TokenInputs`) and can be cut
into spans, so that a head which yields log-probs chunk by chunk can ask for their coefficients at once. Spans may
cut a completion in two unless `couples_tokens_of_a_completion` says that the loss has something to say about a completion as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.packing import PackedRows, stack_logps, upload
from grpo.objective import correction
from grpo.objective.policy_loss import (
    AGGREGATIONS,
    KLS,
    POLICY_LOSSES,
    Tokens,
    distillation,
    off_policy_kept,
)
from grpo.recipe import LossSection
from grpo.types import Row, Update


def couples_tokens_of_a_completion(loss: LossSection) -> bool:
    """Whether a token's loss hangs on the log-probs of its whole completion."""
    by_row = {"sequence", "geometric"} & {loss.correction, loss.correction_mask}
    return POLICY_LOSSES[loss.policy].by_row or bool(loss.off_policy_mask) or bool(by_row)


@dataclass(frozen=True, slots=True, eq=False)
class TokenInputs:
    """What is known of each token of a micro-batch before its log-prob is.

    ``share_T`` is the token's weight in the update; ``old_logp_T`` None: the detached log-prob itself. ``lengths``
    are the rows' numbers of tokens, on the host.
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
        """The terms of the tokens ``start..end``; a completion that is cut counts as its part."""
        if (start, end) == (0, len(self.share_T)):
            return self
        lengths, at = [], 0
        for length in self.lengths:
            inside = min(end, at + length) - max(start, at)
            lengths += [inside] if inside > 0 else []
            at += length
        parts = {
            name: None if getattr(self, name) is None else getattr(self, name)[start:end]
            for name in self.__dataclass_fields__
            if name.endswith("_T")
        }
        return replace(self, lengths=tuple(lengths), **parts)

    def tokens(self, logp_T: Tensor) -> Tokens:
        """The tokens as the policy losses see them; where the old log-prob is unknown it is their own."""
        length_R = upload(torch.tensor(self.lengths), logp_T.device)
        row_T = torch.repeat_interleave(length_R, output_size=len(logp_T))
        old_logp_T = logp_T.detach()
        if self.old_logp_T is not None:
            old_logp_T = torch.where(self.old_logp_T.isfinite(), self.old_logp_T, old_logp_T)
        return Tokens(
            logp_T, old_logp_T, self.sampled_logp_T, self.advantage_T, row_T, length_R, self.flag_T
        )


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """The loss of some tokens, a sum, with the parts that are reported."""

    loss: Tensor
    tokens: Tokens
    weights: correction.Weights
    weight_T: Tensor
    kl_T: Tensor
    teacher_T: Tensor


class Objective:
    """``loss`` settings as a function of log-probs and entropies."""

    def __init__(self, loss: LossSection):
        self.loss, self.rule, self.weight = (
            loss,
            POLICY_LOSSES[loss.policy],
            AGGREGATIONS[loss.aggregation],
        )

    def terms(
        self,
        packed: PackedRows,
        share_R: Sequence[float],
        old: Mapping[int, Tensor],
        ref_logp_T: Tensor | None = None,
        teacher_logp_T: Tensor | None = None,
        keep: Mapping[int, Tensor] = {},
        flag: Mapping[int, Tensor] = {},
        dtype: torch.dtype = torch.float32,
    ) -> TokenInputs:
        """The terms of the micro-batch `packed`; `share_R` are its rows' weights in the update."""
        device, rows = packed.token_P.device, packed.rows
        lengths = tuple(row.num_tokens for row in rows)
        share_T = torch.tensor(share_R, dtype=dtype).repeat_interleave(torch.tensor(lengths))
        advantage_T = torch.cat(
            [torch.as_tensor(row.advantage, dtype=dtype).expand(row.num_tokens) for row in rows]
        )
        old_logp_T = _joined(rows, old, device) if rows[0].index in old else None
        return TokenInputs(
            lengths,
            upload(share_T, device),
            upload(stack_logps(rows).to(dtype), device),
            upload(advantage_T, device),
            old_logp_T,
            ref_logp_T,
            teacher_logp_T,
            _joined(rows, keep, device) if keep else None,
            _joined(rows, flag, device) if flag else None,
        )

    def shares(self, rows: Sequence[Row], update: Update) -> list[float]:
        """Each row's weight in the update for any one of its tokens."""
        return [self.weight(row, update.denominators, self.loss.constant) for row in rows]

    def __call__(self, terms: TokenInputs, logp_T: Tensor) -> TokenLosses:
        """The loss of the tokens, but for an entropy bonus, which is linear."""
        tokens = terms.tokens(logp_T)
        weights = correction.weights(tokens, self.loss)
        weight_T = weights.weight_T
        if (
            terms.old_logp_T is not None
        ):  # the sampler's may be missing; such a token weighs 0, whatever its ratio
            weight_T = weight_T * terms.old_logp_T.isfinite()
        if self.loss.off_policy_mask:
            weight_T = weight_T * off_policy_kept(tokens, self.loss.off_policy_mask)
        loss_T = self.rule.loss(tokens, self.loss)
        if terms.keep_T is not None:
            loss_T = loss_T * terms.keep_T
        kl_T = teacher_T = torch.zeros_like(loss_T)
        if terms.ref_logp_T is not None:
            kl_T = KLS[self.loss.kl](tokens, terms.ref_logp_T)
        if terms.ref_logp_T is not None and self.loss.kl_in == "loss":
            loss_T = loss_T + self.loss.beta * kl_T
        if terms.teacher_logp_T is not None:
            teacher_T = distillation(tokens, terms.teacher_logp_T)
            loss_T = loss_T + self.loss.teacher_weight * teacher_T
        return TokenLosses(
            _where_weighed(terms.share_T * weight_T, loss_T),
            tokens,
            weights,
            weight_T,
            kl_T,
            teacher_T,
        )

    def coefficients(self, terms: TokenInputs, logp_T: Tensor, scale: float) -> Tensor:
        """scale x dL/dlogp of each token."""
        with torch.enable_grad():
            logp_T = logp_T.detach().requires_grad_()
            (found_T,) = torch.autograd.grad(scale * self(terms, logp_T).loss, logp_T)
        return found_T


def _joined(rows: Sequence[Row], by_row: Mapping[int, Tensor], device: torch.device) -> Tensor:
    return upload(torch.cat([by_row[row.index] for row in rows]), device)


def _where_weighed(weight_T: Tensor, loss_T: Tensor) -> Tensor:
    """The weighted sum; a token of weight 0 adds nothing even where its loss is not a number."""
    return (weight_T * torch.where(weight_T == 0, 0.0, loss_T)).sum()
