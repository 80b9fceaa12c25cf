"""Which side is wrong where sampler and trainer differ, and why: asked only once they do.

The model itself is the arbiter: a few of the completions are run whole, one at a time, through transformers' own
attention and the model's own head in fp32, at the recipe's temperature. The side that agrees with it is right. What is
wrong with the other one follows from the kind of difference (`grpo.learner.drift`); rounding is recognised by
comparing with rounded logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor

from grpo.learner.drift import Drift
from grpo.model.policy import Policy
from grpo.types import Row

MAX_ROWS = 8
MAX_TOKENS = 256
MIN_FACTOR = 4.0
"""A side that is this many times as far from the arbiter as the other is at fault."""

# Limits of the drift's statistics, see `_cause`.
MIN_CORRELATION = 0.5
ONE_SIDED = 0.8
MIN_TILT_SHARE = 0.5

# Limits for an error to be that of half-precision logits.
ROUNDING_CORRELATION = 0.6
MAX_ROUNDING_RATIO = 2.5
MIN_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Arbitration:
    """Mean distances of both sides from the model's own log-probs, and whether the wrong side's is rounding.

    ``rounding`` is the rank correlation of its error with the error of logits rounded to half precision,
    ``rounding_size`` the mean size of the latter.
    """

    sampler: float
    trainer: float
    rounding: float
    rounding_size: float

    @property
    def side(self) -> str:
        """``sampler`` or ``trainer``, the side at fault; empty where neither agrees much better."""
        if self.sampler > MIN_FACTOR * self.trainer:
            return "sampler"
        return "trainer" if self.trainer > MIN_FACTOR * self.sampler else ""

    @property
    def is_rounding(self) -> bool:
        """Whether the error has the signs, order and size of half-precision logits' rounding."""
        largest = max(self.sampler, self.trainer)
        similar = self.rounding > ROUNDING_CORRELATION
        return similar and largest < MAX_ROUNDING_RATIO * self.rounding_size


@torch.no_grad()
def model_logits(policy: Policy, row: Row) -> Tensor:
    """Logits [T, V] before a completion's first tokens, as transformers itself computes them."""
    tokens = row.token_ids[:MAX_TOKENS]
    ids = torch.tensor([[*row.prompt_ids, *tokens]], device=policy.device)
    with policy.own_attention(), policy.precision():
        logits_1PV = policy.model(input_ids=ids, use_cache=False).logits
    logits_TV = logits_1PV[0, len(row.prompt_ids) - 1 : -1]
    return logits_TV[:, : policy.vocab_size]


def arbitrate(
    policy: Policy, rows: Sequence[Row], old_logps: Mapping[int, Tensor], temperature: float
) -> Arbitration | None:
    """Who agrees with the model's own log-probs on the first of `rows`; `old_logps` are the trainer's by row.

    None where no row can be compared.
    """
    comparable = [row for row in rows if row.index in old_logps and row.fresh_from == 0]
    if not comparable:
        return None
    errors = []
    for row in comparable[:MAX_ROWS]:
        errors.append(_errors(policy, row, old_logps[row.index], temperature))
    sampler_T, trainer_T, rounding_T = (torch.cat(column) for column in zip(*errors))
    known_T = sampler_T.isfinite() & trainer_T.isfinite()
    if not known_T.any():
        return None
    return _verdict(sampler_T[known_T], trainer_T[known_T], rounding_T[known_T])


def _verdict(sampler_T: Tensor, trainer_T: Tensor, rounding_T: Tensor) -> Arbitration:
    """From the errors of both sides and that of rounding, all finite."""
    sampler = float(sampler_T.abs().mean())
    trainer = float(trainer_T.abs().mean())
    wrong_T = sampler_T if sampler >= trainer else trainer_T
    # All roundings of a token that is all but certain are the same.
    telling_T = rounding_T.abs() > MIN_ROUNDING
    return Arbitration(
        sampler=sampler,
        trainer=trainer,
        rounding=_rank_correlation(wrong_T[telling_T], rounding_T[telling_T]),
        rounding_size=float(rounding_T.abs().mean()),
    )


def _errors(
    policy: Policy, row: Row, old_logp_T: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """For a row's first tokens: the sampler's, the trainer's and a bf16 head's log-probs less the model's own."""
    logits_TV = model_logits(policy, row)
    token_ids = torch.tensor(row.token_ids[: len(logits_TV)], device=logits_TV.device)
    if row.given:
        learnt = [index for index in row.written if index < len(logits_TV)]
        logits_TV = logits_TV[learnt]
        token_ids = token_ids[learnt]
    number = len(logits_TV)
    token_T1 = token_ids[:, None]

    def logp(logits: Tensor) -> Tensor:
        logp_TV = (logits.float() / temperature).log_softmax(-1)
        return logp_TV.gather(-1, token_T1)[:, 0].double().cpu()

    model_T = logp(logits_TV)
    sampler_T = row.sampled_logps[:number].double().cpu() - model_T
    trainer_T = old_logp_T[:number].double().cpu() - model_T
    rounding_T = logp(logits_TV.bfloat16()) - model_T
    return sampler_T, trainer_T, rounding_T


def _rank_correlation(a_T: Tensor, b_T: Tensor) -> float:
    """Spearman's, which a few tokens cannot dominate; 0 for fewer than three."""
    if len(a_T) < 3:
        return 0.0
    a_rank_T = _ranks(a_T)
    b_rank_T = _ranks(b_T)
    return float(a_rank_T @ b_rank_T / (a_rank_T.norm() * b_rank_T.norm()))


def _ranks(value_T: Tensor) -> Tensor:
    """Ranks around 0."""
    return value_T.argsort().argsort().double() - (len(value_T) - 1) / 2


def suspects(drift: Drift, arbitration: Arbitration | None, dtype: str, updated: bool) -> str:
    """One sentence: who is at fault and what to look at first.

    `dtype` is that of the model, `updated` says whether its weights have changed since the run's first token.
    """
    return _side(arbitration) + _cause(drift, arbitration, dtype, updated)


def _side(arbitration: Arbitration | None) -> str:
    if arbitration is None:
        return ""
    if arbitration.side == "sampler":
        return "the model's own forward agrees with the trainer, so the sampler is wrong: "
    if arbitration.side == "trainer":
        return "the model's own forward agrees with the sampler, so the trainer is wrong: "
    return "the model's own forward agrees with neither much better: "


def cause_of_writing(drift: Drift) -> str:
    """What its statistics alone tell of a sampler: other ``tokens``, a ``filter``, a ``temperature``, or nothing."""
    if drift.correlation < MIN_CORRELATION:
        return "tokens"
    if _is_one_sided(drift):
        return "filter"
    return "temperature" if drift.tilt_share > MIN_TILT_SHARE else ""


def _cause(drift: Drift, arbitration: Arbitration | None, dtype: str, updated: bool) -> str:
    cause = cause_of_writing(drift)
    if cause == "tokens":
        return (
            f"its log-probs are of other tokens (correlation {drift.correlation:.2f}); "
            "first suspect an off-by-one between tokens and labels"
        )
    if cause == "filter":
        return _filter(drift)
    if cause == "temperature":
        return _temperature(drift)
    if arbitration is not None and arbitration.is_rounding and dtype in ("float32", "float64"):
        return (
            "its error is that of half-precision logits; first suspect a head or product in "
            f"bfloat16 on a {dtype} model"
        )
    if arbitration is not None and arbitration.side == "trainer":
        return "first suspect its forward: packing, attention masks, positions or the head"
    weights = ""
    if updated:
        weights = "weights that are not the trainer's (a copy that was not refreshed), or "
    return (
        f"first suspect {weights}keys kept from other weights or positions, or rounding on one side"
    )


def _filter(drift: Drift) -> str:
    narrow = "sampler" if drift.signed > 0 else "trainer"
    return (
        f"the {narrow}'s log-probs are higher nearly everywhere (mean of trainer's over sampler's "
        f"probability {drift.weight:.4f}, not 1); first suspect a filter (sample.top_p, top_k, "
        f"min_p) that the {narrow} applies and the other side does not know"
    )


def _temperature(drift: Drift) -> str:
    temperature = 1 / max(1e-3, 1 + drift.tilt)
    return (
        f"it looks like a temperature: the sampler's is {temperature:.2f} times the trainer's "
        f"({drift.tilt_share:.0%} of the difference); first suspect sample.temperature on one side"
    )


def _is_one_sided(drift: Drift) -> bool:
    """Whether one side's log-probs are higher nearly everywhere, so that its distribution lacks some mass."""
    same_sign = abs(drift.signed) > ONE_SIDED * drift.mean
    return same_sign and abs(drift.weight - 1) > 5 * drift.weight_error
