"""Which side is wrong where sampler and trainer differ, and why: asked only once they do.

The model itself is the arbiter: a few of the completions are run whole, one at a time, through transformers' own
attention and the model's own head in fp32, at the recipe's temperature. The side that agrees with it is right. What is
the matter with the other one is told from the kind of the difference (`grpo.learner.drift`), and for rounding by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor

from grpo.learner.drift import Drift
from grpo.model.policy import Policy
from grpo.types import Row

MOST_ROWS, MOST_TOKENS = 8, 256
FAR = 4.0  # times as far from the arbiter as the other side: that is the side at fault
SHIFTED, BIASED, TILTED, ROUNDED, SIZE_OF_ROUNDING = 0.5, 0.8, 0.5, 0.6, 2.5


@dataclass(frozen=True, slots=True)
class Arbitration:
    """Mean distances of both sides from the model's own log-probs, and whether the wrong side's is rounding.

    ``rounding`` is the rank correlation of its error with the one that rounding the logits to half precision makes,
    ``rounding_size`` the mean size of the latter.
    """

    sampler: float
    trainer: float
    rounding: float
    rounding_size: float

    @property
    def side(self) -> str:
        """``sampler``, ``trainer``, or nothing where neither agrees much better."""
        if self.sampler > FAR * self.trainer:
            return "sampler"
        return "trainer" if self.trainer > FAR * self.sampler else ""

    @property
    def is_rounding(self) -> bool:
        """Whether the error has the signs, order and size of half-precision logits' rounding."""
        return (
            self.rounding > ROUNDED
            and max(self.sampler, self.trainer) < SIZE_OF_ROUNDING * self.rounding_size
        )


@torch.no_grad()
def own_logits(policy: Policy, row: Row) -> Tensor:
    """Logits [T, V] before a completion's first tokens, as transformers itself computes them."""
    tokens = row.token_ids[:MOST_TOKENS]
    ids = torch.tensor([[*row.prompt_ids, *tokens]], device=policy.device)
    with policy.own_attention(), policy._precision():
        logits_TV = policy.model(input_ids=ids, use_cache=False).logits[
            0, len(row.prompt_ids) - 1 : -1
        ]
    return logits_TV[:, : policy.vocab_size]


def arbitrate(
    policy: Policy, rows: Sequence[Row], old: Mapping[int, Tensor], temperature: float
) -> Arbitration | None:
    """Who agrees with the model's own log-probs on the first of `rows`; `old` are the trainer's by row."""
    kept = [row for row in rows if row.index in old and row.fresh_from == 0][:MOST_ROWS]
    if not kept:
        return None
    parts = [_errors(policy, row, old[row.index], temperature) for row in kept]
    sampler_T, trainer_T, rounding_T = (torch.cat(column) for column in zip(*parts))
    good_T = sampler_T.isfinite() & trainer_T.isfinite()
    if not good_T.any():
        return None
    distance = [float(part[good_T].abs().mean()) for part in (sampler_T, trainer_T)]
    wrong_T = sampler_T if distance[0] >= distance[1] else trainer_T
    seen_T = good_T & (
        rounding_T.abs() > 1e-5
    )  # of a token that is all but certain every rounding is the same
    return Arbitration(
        *distance,
        _rank_correlation(wrong_T[seen_T], rounding_T[seen_T]),
        float(rounding_T[good_T].abs().mean()),
    )


def _errors(
    policy: Policy, row: Row, old_logp_T: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a row's first tokens: sampler's, trainer's and a bf16 head's log-probs less the model's own."""
    logits_TV = own_logits(policy, row)
    number = len(logits_TV)
    token_T1 = torch.tensor(row.token_ids[:number], device=logits_TV.device)[:, None]

    def logp(logits: Tensor) -> Tensor:
        return (
            (logits.float() / temperature).log_softmax(-1).gather(-1, token_T1)[:, 0].double().cpu()
        )

    own_T = logp(logits_TV)
    return (
        row.sampled_logps[:number].double().cpu() - own_T,
        old_logp_T[:number].double().cpu() - own_T,
        logp(logits_TV.bfloat16()) - own_T,
    )


def _rank_correlation(a_T: Tensor, b_T: Tensor) -> float:
    """Spearman's, which a few tokens cannot decide; 0 of fewer than three."""
    if len(a_T) < 3:
        return 0.0
    ranks = [part.argsort().argsort().double() - (len(part) - 1) / 2 for part in (a_T, b_T)]
    return float(ranks[0] @ ranks[1] / (ranks[0].norm() * ranks[1].norm()))


def suspects(drift: Drift, found: Arbitration | None, dtype: str, updated: bool) -> str:
    """One sentence: who is at fault and what to look at first.

    `dtype` is that of the model, `updated` whether its weights have changed since the run's first token.
    """
    side = found.side if found else ""
    who = {
        "sampler": "the model's own forward agrees with the trainer, so the sampler is wrong: ",
        "trainer": "the model's own forward agrees with the sampler, so the trainer is wrong: ",
        "": "" if found is None else "the model's own forward agrees with neither much better: ",
    }[side]
    return who + _kind(drift, found, side, dtype, updated)


def _kind(drift: Drift, found: Arbitration | None, side: str, dtype: str, updated: bool) -> str:
    if drift.correlation < SHIFTED:
        return (
            f"its log-probs are of other tokens (correlation {drift.correlation:.2f}); first suspect an off-by-one "
            "between tokens and labels"
        )
    if abs(drift.signed) > BIASED * drift.mean and abs(drift.weight - 1) > 5 * drift.weight_error:
        narrow = "sampler" if drift.signed > 0 else "trainer"
        return (
            f"the {narrow}'s log-probs are higher nearly everywhere (mean of trainer's over sampler's probability "
            f"{drift.weight:.4f}, not 1); first suspect a filter (sample.top_p, top_k, min_p) that the {narrow} "
            "applies and the other side does not know"
        )
    if drift.tilt_share > TILTED:
        return (
            f"it looks like a temperature: the sampler's is {1 / max(1e-3, 1 + drift.tilt):.2f} times the "
            f"trainer's ({drift.tilt_share:.0%} of the difference); first suspect sample.temperature on one side"
        )
    if found is not None and found.is_rounding and dtype in ("float32", "float64"):
        return (
            "its error is that of half-precision logits; first suspect a head or product in bfloat16 on a "
            f"{dtype} model"
        )
    if side == "trainer":
        return "first suspect its forward: packing, attention masks, positions or the head"
    weights = (
        "weights that are not the trainer's (a copy that was not refreshed), or " if updated else ""
    )
    return (
        f"first suspect {weights}keys kept from other weights or positions, or rounding on one side"
    )
