"""One update: micro-batches forward and backward into sums, then one optimizer step.

The denominators stand in the `Update` before its first backward, so how the rows are split over
micro-batches and ranks changes no gradient. ``old_logp`` of the step's first update is the detached logp
of the same forward, so its ratio is exactly 1; for later updates it is taken before the first.

What a loss selects over the whole update (high-covariance tokens, second moments, the tokens of highest
entropy) is decided in a pass of its own before the first backward, from the tokens of all ranks in the
order of their rows: a micro-batch never sees a statistic of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo import correction, watchdog
from grpo.entropy import EntropyBonus
from grpo.kernels.head import Gradients, sweep
from grpo.kernels.head.spec import chunk_spans
from grpo.loss import POLICIES, REWARD_KLS, select_top_entropy, spans_update
from grpo.objective import Evaluated, Objective, Terms, spans_row
from grpo.optimizer import Optimizer
from grpo.pack import micro_batches, pack
from grpo.policy import Policy, TokenStats
from grpo.ranks import Ranks
from grpo.recipe import LossSection
from grpo.types import Batch, PackedRows, Row, Update


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one update did, over all ranks. ``made`` is False if nothing could be learnt from its rows.

    ``num_tokens`` completion tokens were forwarded; means are over them. ``drift`` is the mean of
    ``|sampled_logp - old_logp|``, None in updates whose old_logp is the sampler's or not fresh.
    ``ess`` is the effective share of samples under the correction's weights, ``dropped`` the share of tokens
    it weighs 0, ``lost`` the share of the update's mass (aggregation weight x abs(A)) it takes away,
    ``weight`` its mean weight and ``raw_max`` the largest before truncation.
    """

    made: bool
    loss: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0
    num_tokens: int = 0
    entropy: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    ratio_max: float = 1.0
    drift: float | None = None
    drift_max: float | None = None
    ess: float = 1.0
    dropped: float = 0.0
    lost: float = 0.0
    weight: float = 1.0
    raw_max: float = 1.0
    entropy_weight: float = 0.0
    teacher_kl: float | None = None


SUMS = ("loss", "kl", "clipped", "entropy", "drift", "tokens", "teacher", "reached", "dropped", "weight", "squares",
        "units", "mass", "kept_mass")
TOPS = ("ratio", "drift", "raw")


@dataclass(slots=True, eq=False)
class Tally:
    """Sums and largest values over the micro-batches of an update, and how many tokens of each row teach.

    All stays on the device until `read`, the update's one wait for it.
    """

    device: torch.device
    sums: dict[str, Tensor] = field(default_factory=dict)
    tops: dict[str, Tensor] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    teaching: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in SUMS}
        self.tops = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in TOPS}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] += value.double().sum()

    def top(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.tops[name] = torch.maximum(self.tops[name], value.double().max())

    def read(self, ranks: Ranks, norm: Tensor) -> Read:
        """Everything as numbers, over all ranks but for the rows, which are this rank's."""
        sums, tops = torch.stack(list(self.sums.values())), torch.stack(list(self.tops.values()))
        ranks.sum([sums])
        ranks.max(tops)
        found = torch.cat([sums, tops, norm.double().reshape(1), *(part.double() for part in self.teaching)]).tolist()
        numbers, teaching = found[:len(SUMS) + len(TOPS) + 1], found[len(SUMS) + len(TOPS) + 1:]
        return Read(dict(zip(SUMS, numbers)), dict(zip(TOPS, numbers[len(SUMS):])), numbers[-1],
                    {row for row, number in zip(self.rows, teaching) if number})


@dataclass(frozen=True, slots=True)
class Read:
    """An update's numbers on the host; ``reached`` are the rows of which some token teaches."""

    sums: Mapping[str, float]
    tops: Mapping[str, float]
    norm: float
    reached: set[int]


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What was decided over a whole update before its first backward, by row index."""

    flag: Mapping[int, Tensor] = field(default_factory=dict)
    keep: Mapping[int, Tensor] = field(default_factory=dict)
    entropy: float | None = None


class Learner:
    """Makes updates of a policy from batches of scored rows."""

    def __init__(self, policy: Policy, optimizer: Optimizer, loss: LossSection, *, temperature: float,
                 tokens_per_micro_batch: int, ranks: Ranks = Ranks(), teacher: Policy | None = None):
        self.policy, self.optimizer, self.loss, self.ranks = policy, optimizer, loss, ranks
        self.temperature, self.budget, self.teacher = temperature, tokens_per_micro_batch, teacher
        self.objective = Objective(loss)
        self.bonus = EntropyBonus(loss.entropy, loss.entropy_target, loss.entropy_step)
        self.reference: dict[str, Tensor] | None = policy.snapshot() if loss.beta else None
        self._old: dict[int, Tensor] = {}
        self._reached: set[int] = set()

    def begin(self, batch: Batch) -> None:
        """Take the old log-probs that updates after the first will need, while the policy is still the old one."""
        self._old, self._reached = {}, set()
        known = {row.index for row in batch.updates[0].rows}
        for update in dict.fromkeys(batch.updates):
            rows = [row for row in update.rows if row.forwarded and row.index not in known]
            if self.loss.old == "sampler":
                self._old |= {row.index: row.sampled_logps.to(self.policy.device) for row in rows}
            else:
                self._remember_old(rows)

    @torch.no_grad()
    def _remember_old(self, rows: Sequence[Row]) -> None:
        for chunk in self._mine(rows):
            packed = pack(chunk, self.policy.device)
            self._keep_old(packed, self.policy.token_stats(packed, self.temperature).logp_T)

    def _keep_old(self, packed: PackedRows, logp_T: Tensor) -> None:
        self._old |= _by_row(packed.rows, logp_T.detach())

    def _mine(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """This rank's share of the micro-batches of `rows`; each that is done is progress in the watchdog's eyes."""
        for chunk in micro_batches(rows, self.budget)[self.ranks.rank::self.ranks.world]:
            yield chunk
            watchdog.beat()

    @torch.no_grad()
    def penalties(self, rows: Sequence[Row]) -> dict[int, Tensor]:
        """By row, what the KL to the reference takes off each token's reward: for ``loss.kl_in: reward``."""
        found: list[tuple[int, Tensor]] = []
        for chunk in self._mine([row for row in rows if row.token_ids]):
            packed = pack(chunk, self.policy.device)
            logp_T = self.policy.token_stats(packed, self.temperature).logp_T
            kl_T = self.loss.beta * REWARD_KLS[self.loss.kl](logp_T, self._reference_logp(packed))
            found += _by_row(packed.rows, kl_T.cpu()).items()
        return dict(self.ranks.gather(found))

    # -- one update -----------------------------------------------------------------------------------------

    def update(self, update: Update) -> UpdateStats:
        """One optimizer step; the policy is left as it was if no row of the update can teach anything."""
        rows = [row for row in update.rows if row.forwarded]
        if not rows:
            return UpdateStats(made=False)
        before = {row.index for row in rows} & self._old.keys()
        survey = self._survey(rows, update) if spans_update(self.loss) else Survey()
        entropy_weight = self.bonus.coefficient(survey.entropy)
        while True:
            tally = Tally(self.policy.device)
            for chunk in self._mine(rows):
                self._forward_backward(pack(chunk, self.policy.device), update, survey, entropy_weight, tally)
            stats = self._finish(tally, entropy_weight, fresh=self.loss.old != "sampler" or not before)
            if stats is not None:
                return stats

    @property
    def reached(self) -> set[int]:
        """The rows of the step of which some token had a weight above 0 in some update, on any rank."""
        return self._reached

    @torch.no_grad()
    def _survey(self, rows: Sequence[Row], update: Update) -> Survey:
        """Select over the tokens of all ranks, in the order of their rows, before anything is learnt."""
        found: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for chunk in self._mine(rows):
            packed = pack(chunk, self.policy.device)
            stats = self.policy.token_stats(packed, self.temperature)
            logps, entropies = (_by_row(packed.rows, part) for part in (stats.logp_T, stats.entropy_T))
            found += [(row.index, logps[row.index].cpu(), entropies[row.index].cpu(),
                       self._old.get(row.index, logps[row.index]).cpu()) for row in packed.rows]
        seen = {index: parts for index, *parts in self.ranks.gather(found)}
        ordered = sorted(rows, key=lambda row: row.index)
        logp_T, entropy_T, _ = (torch.cat([seen[row.index][i] for row in ordered]) for i in range(3))
        rule, old = POLICIES[self.loss.policy], {index: parts[2] for index, parts in seen.items()}
        flag_T = rule.select(self.objective.terms(pack(ordered), [0.0] * len(ordered), old, dtype=logp_T.dtype)
                             .tokens(logp_T), self.loss, self.optimizer.num_updates) if rule.select else None
        keep_T = select_top_entropy(entropy_T, self.loss.top_entropy) if self.loss.top_entropy < 1 else None
        return Survey(*({} if part is None else _by_row(ordered, part) for part in (flag_T, keep_T)),
                      entropy=float(entropy_T.double().mean()))

    def _forward_backward(self, packed: PackedRows, update: Update, survey: Survey, entropy_weight: float,
                          tally: Tally) -> None:
        terms = self.objective.terms(packed, self.objective.shares(packed.rows, update), self._old,
                                     self._reference_logp(packed), self._teacher_logp(packed), survey.keep, survey.flag,
                                     self.policy.statistics_dtype)
        rate = entropy_weight / update.denominators.num_tokens
        backward = self._in_one_pass if self._fits_one_pass(terms, rate) else self._after_the_whole
        stats = backward(packed, terms, rate)
        if terms.old_logp_T is None:
            self._keep_old(packed, stats.logp_T)
        with torch.no_grad():
            found = self.objective(terms, stats.logp_T)
            tally.add(loss=found.loss - rate * stats.entropy_T.sum())
            self._add_up(packed, stats, terms, found, tally)

    def _fits_one_pass(self, terms: Terms, rate: float) -> bool:
        """Whether a chunk of the head knows its tokens' coefficients, and that saves a product."""
        head = self.policy.head
        if head is None or not (head.linear.weight.requires_grad or rate):
            return False
        return not spans_row(self.loss) or bool(chunk_spans(head.at(self.temperature), terms.lengths))

    def _in_one_pass(self, packed: PackedRows, terms: Terms, rate: float) -> TokenStats:
        """Each chunk of the head's logits serves log-prob, coefficient and gradient."""
        head, scale = self.policy.head, self.optimizer.loss_scale.value

        def coefficients(start: int, end: int, logp_R: Tensor, entropy_R: Tensor) -> tuple[Tensor, Tensor | None]:
            g_R = self.objective.coefficients(terms.span(start, end), logp_R, scale)
            return g_R, torch.full_like(entropy_R, -rate * scale) if rate else None

        gradients, sampled = None, self.policy.vocab_size
        if head.linear.weight.requires_grad:
            gradients = Gradients(*(None if part is None else self.optimizer.accumulator(part)[:sampled]
                                    for part in (head.linear.weight, head.linear.bias)))
        hidden_TD = self.policy.hidden(packed)
        swept = sweep(hidden_TD.detach(), head.at(self.temperature), packed.target_T, coefficients, gradients,
                      lengths=terms.lengths if spans_row(self.loss) else None)
        if hidden_TD.requires_grad:
            hidden_TD.backward(swept.hidden_TD)
        return TokenStats(swept.logp_T, swept.entropy_T)

    def _after_the_whole(self, packed: PackedRows, terms: Terms, rate: float) -> TokenStats:
        """All log-probs of the micro-batch first, then their coefficients, then back."""
        stats = self.policy.token_stats(packed, self.temperature, entropy_gradient=rate > 0)
        loss = self.objective(terms, stats.logp_T).loss
        if rate:
            loss = loss - rate * stats.entropy_T.sum()
        (loss * self.optimizer.loss_scale.value).backward()
        return TokenStats(stats.logp_T.detach(), stats.entropy_T.detach())

    @torch.no_grad()
    def _reference_logp(self, packed: PackedRows) -> Tensor | None:
        if self.reference is None:
            return None
        with self.policy.as_if(self.reference):
            return self.policy.token_stats(packed, self.temperature).logp_T

    @torch.no_grad()
    def _teacher_logp(self, packed: PackedRows) -> Tensor | None:
        return None if self.teacher is None else self.teacher.token_stats(packed, self.temperature).logp_T

    def _add_up(self, packed: PackedRows, stats: TokenStats, terms: Terms, found: Evaluated, tally: Tally) -> None:
        tokens, weights, weight_T = found.tokens, found.weights, found.weight_T
        drift_T = (tokens.sampled_logp_T - tokens.old_logp_T).abs().nan_to_num(0.0)
        mass_T = terms.share_T * tokens.advantage_T.abs()
        ones_T, dropped_T, unit_T = torch.ones_like(drift_T), weight_T == 0, weights.unit_T
        tally.add(clipped=self.objective.rule.limits(tokens, self.loss), entropy=stats.entropy_T, drift=drift_T,
                  tokens=ones_T, kl=found.kl_T, teacher=found.teacher_T, reached=~dropped_T, dropped=dropped_T,
                  weight=weight_T * unit_T, squares=weight_T.square() * unit_T, units=unit_T, mass=mass_T,
                  kept_mass=mass_T * weight_T)
        tally.top(ratio=tokens.ratio_T, drift=drift_T, raw=weights.raw_T)
        tally.rows += [row.index for row in packed.rows]
        tally.teaching.append(torch.zeros(len(packed.rows), dtype=torch.long, device=unit_T.device).index_add(
            0, tokens.row_T, (~dropped_T).long()))

    def _finish(self, tally: Tally, entropy_weight: float, fresh: bool) -> UpdateStats | None:
        """The optimizer step; None if a scaled loss overflowed, and the update is to be made again at a lower scale."""
        self.optimizer.unscale()
        self.ranks.sum(self.optimizer.gradients())
        read = tally.read(self.ranks, self.optimizer.norm())
        sums, norm, lr = read.sums, read.norm, self.optimizer.lr
        made = bool(sums["reached"]) or entropy_weight > 0
        if not (math.isfinite(sums["loss"]) and math.isfinite(norm)):
            self.optimizer.drop_gradients()
            if math.isfinite(sums["loss"]) and self.optimizer.loss_scale.lower():
                return None
            raise FloatingPointError(f"the update's loss is {sums['loss']} and its gradient's norm {norm}; the weights "
                                     "were not touched. Lower optim.lr, or train in float32")
        self._reached |= set(self.ranks.gather(sorted(read.reached)))
        if made:
            self.optimizer.clip(norm)
            self.optimizer.step()
            self._refresh_reference()
            self.policy.weights_changed()
        else:
            self.optimizer.drop_gradients()
        return _stats(made, sums, read.tops, norm, lr, entropy_weight, fresh, self.teacher is not None)

    def _refresh_reference(self) -> None:
        every = self.loss.reference_every
        if self.reference is not None and every and self.optimizer.num_updates % every == 0:
            self.reference = self.policy.snapshot()

    # -- what a resumed run needs ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state(), "reference": self.reference, "bonus": self.bonus.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state["optimizer"])
        self.reference = None if state["reference"] is None else dict(state["reference"])
        self.bonus.restore(state["bonus"])


def _by_row(rows: Sequence[Row], value_T: Tensor) -> dict[int, Tensor]:
    """Row index: its part of `value_T`."""
    return {row.index: part for row, part in zip(rows, value_T.split([row.num_tokens for row in rows]))}


def _stats(made: bool, sums: Mapping[str, float], tops: Mapping[str, float], norm: float, lr: float,
           entropy_weight: float, fresh: bool, taught: bool) -> UpdateStats:
    tokens = sums["tokens"]
    return UpdateStats(
        made=made, loss=sums["loss"], grad_norm=norm, lr=lr, num_tokens=int(tokens), entropy=sums["entropy"] / tokens,
        kl=sums["kl"] / tokens, clipped=sums["clipped"] / tokens, ratio_max=tops["ratio"],
        drift=sums["drift"] / tokens if fresh else None, drift_max=tops["drift"] if fresh else None,
        ess=correction.effective_share(sums["weight"], sums["squares"], sums["units"]),
        dropped=sums["dropped"] / tokens, lost=1 - sums["kept_mass"] / sums["mass"] if sums["mass"] else 0.0,
        weight=sums["weight"] / sums["units"], raw_max=tops["raw"], entropy_weight=entropy_weight,
        teacher_kl=sums["teacher"] / tokens if taught else None)
