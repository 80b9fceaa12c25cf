"""What an update adds up over micro-batches and ranks, and what it says of itself afterwards.

Sums travel, means are taken once: micro-batches add to `UpdateSums` on the device, which is read once, as an
`UpdateReadback`; `UpdateStats` are its means, over all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

from grpo.distributed.process_group import Ranks
from grpo.learner import drift
from grpo.learner.drift import Drift
from grpo.learner.expert_load import LoadStats
from grpo.model.packing import PackedRows, upload
from grpo.model.policy import TokenStats
from grpo.objective import correction
from grpo.objective.objective import TokenInputs, TokenLosses
from grpo.objective.tokens import Tokens
from grpo.types import Row


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one update did, over all ranks. ``made`` is False if nothing could be learnt from its rows.

    ``num_tokens`` completion tokens were forwarded; means are over them. ``drift`` is the mean of
    ``|sampled_logp - old_logp|`` over tokens that the step's own weights sampled, None in updates whose old_logp is
    the sampler's or not fresh; ``detail`` says more about it. ``masked`` rows were left out because their numbers
    could not be right; ``overflows`` is 1 where the update was given up because its gradient was not finite. ``ess``
    is the effective share of samples under the correction's weights, ``dropped`` the share of tokens with weight 0,
    ``lost`` the share of the update's mass (aggregation weight x abs(A)) that the weights take away, ``weight`` their
    mean and ``raw_max`` the largest before truncation. ``experts`` is the load of a mixture of experts.
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
    detail: Drift | None = None
    masked: int = 0
    overflows: int = 0
    experts: LoadStats | None = None


DRIFT_DETAILS = (
    "p99",
    "k3",
    "ess",
    "signed",
    "weight",
    "weight_error",
    "tilt",
    "tilt_error",
    "tilt_share",
    "missing",
)


def drift_record(stats: UpdateStats) -> dict[str, Any]:
    """The metrics ``policy/drift*``; every value is None where the drift was not measured."""
    record: dict[str, Any] = {
        "policy/drift": stats.drift,
        "policy/drift_max": stats.drift_max,
    }
    for name in DRIFT_DETAILS:
        record[f"policy/drift_{name}"] = getattr(stats.detail, name, None)
    return record


def with_load(stats: UpdateStats, load: LoadStats | None, weight: float) -> UpdateStats:
    """`stats` with the experts' load, whose balance is part of the loss at `weight`."""
    if load is None:
        return stats
    return replace(stats, experts=load, loss=stats.loss + weight * load.balance)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the tokens of an update, over all ranks.

    ``weighed`` tokens have a weight other than 0, ``dropped`` ones do not; ``not_finite`` have a log-prob that is not
    finite. ``weight``, ``weight_squares`` and ``units`` are of the correction's weights, ``mass`` is aggregation
    weight x abs(A), ``weighed_mass`` the same times the token's weight.
    """

    loss: float
    kl: float
    clipped: float
    entropy: float
    num_tokens: float
    teacher_kl: float
    weighed: float
    dropped: float
    weight: float
    weight_squares: float
    units: float
    mass: float
    weighed_mass: float
    not_finite: float


@dataclass(frozen=True, slots=True)
class Largest:
    """Largest values over the tokens of an update, or its rows (``row_drift``), over all ranks."""

    ratio: float
    drift: float
    row_drift: float
    raw_weight: float


TOTALS = tuple(part.name for part in fields(Totals))
LARGEST = tuple(part.name for part in fields(Largest))


@dataclass(frozen=True, slots=True)
class UpdateReadback:
    """An update's numbers on the host.

    ``norm`` is the gradient's. Of rows, by index and of this rank alone: ``trained_rows`` have a token that teaches,
    ``not_finite_rows`` a log-prob that is not finite, ``row_drift`` is the mean drift of each. ``moments`` and
    ``bins`` are those of `grpo.learner.drift`.
    """

    totals: Totals
    largest: Largest
    norm: float
    trained_rows: frozenset[int]
    not_finite_rows: frozenset[int]
    row_drift: Mapping[int, float]
    moments: Mapping[str, float]
    bins: Sequence[float]

    def stats(
        self,
        *,
        made: bool,
        lr: float,
        entropy_weight: float,
        measures_drift: bool,
        has_teacher: bool,
    ) -> UpdateStats:
        """Sums become means."""
        totals = self.totals
        num_tokens = totals.num_tokens
        detail = None
        if measures_drift:
            detail = drift.read(self.moments, self.bins, self.largest.drift)
        ess = correction.effective_share(totals.weight, totals.weight_squares, totals.units)
        lost = 1 - totals.weighed_mass / totals.mass if totals.mass else 0.0
        stats = UpdateStats(
            made=made,
            loss=totals.loss,
            grad_norm=self.norm,
            lr=lr,
            num_tokens=int(num_tokens),
            entropy=totals.entropy / num_tokens,
            kl=totals.kl / num_tokens,
            clipped=totals.clipped / num_tokens,
            ratio_max=self.largest.ratio,
            ess=ess,
            dropped=totals.dropped / num_tokens,
            lost=lost,
            weight=totals.weight / totals.units,
            raw_max=self.largest.raw_weight,
            entropy_weight=entropy_weight,
        )
        if has_teacher:
            stats = replace(stats, teacher_kl=totals.teacher_kl / num_tokens)
        if detail is None:
            return stats
        return replace(stats, drift=detail.mean, drift_max=detail.largest, detail=detail)


@dataclass(slots=True, eq=False)
class UpdateSums:
    """Sums and largest values over the micro-batches of an update, and what is known of each row.

    ``rows_R3`` holds, for the rows of each micro-batch: how many tokens teach, how many log-probs are not finite, and
    the mean drift. All of it stays on the device until `read`, the update's one wait for it.
    """

    device: torch.device
    totals: dict[str, Tensor] = field(init=False)
    largest: dict[str, Tensor] = field(init=False)
    moments: Tensor = field(init=False)
    bins: Tensor = field(init=False)
    row_indices: list[int] = field(default_factory=list)
    rows_R3: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.totals = {name: self._zeros(()) for name in TOTALS}
        self.largest = {name: self._zeros(()) for name in LARGEST}
        self.moments = self._zeros((len(drift.MOMENTS),))
        self.bins = self._zeros((drift.NUM_BINS,))

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add_micro_batch(
        self,
        packed: PackedRows,
        stats: TokenStats,
        inputs: TokenInputs,
        losses: TokenLosses,
        *,
        limited_T: Tensor,
        entropy_rate: float,
    ) -> None:
        """Add the tokens of a micro-batch.

        `limited_T` marks those whose gradient the policy loss limits; `entropy_rate` is the weight of one token's
        entropy in the loss.
        """
        tokens = losses.tokens
        weight_T = losses.weight_T
        unit_T = losses.weights.unit_T
        drift_T = self._add_drift(packed, tokens, stats.entropy_T)
        mass_T = inputs.share_T * tokens.advantage_T.abs()
        dropped_T = weight_T == 0
        self._add(
            loss=losses.loss - entropy_rate * stats.entropy_T.sum(),
            clipped=limited_T,
            entropy=stats.entropy_T,
            num_tokens=torch.ones_like(mass_T),
            kl=losses.kl_T,
            teacher_kl=losses.teacher_T,
            weighed=~dropped_T,
            dropped=dropped_T,
            weight=weight_T * unit_T,
            weight_squares=weight_T.square() * unit_T,
            units=unit_T,
            mass=mass_T,
            weighed_mass=mass_T * weight_T,
            not_finite=~stats.logp_T.isfinite(),
        )
        self._take_largest(ratio=tokens.ratio_T, drift=drift_T, raw_weight=losses.weights.raw_T)
        columns = [~dropped_T, ~stats.logp_T.isfinite(), drift_T, torch.ones_like(mass_T)]
        self._add_rows(packed, torch.stack(columns, 1).double(), tokens.row_T)

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.totals[name] += value.double().sum()

    def _take_largest(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.largest[name] = torch.maximum(self.largest[name], value.double().max())

    def _add_drift(self, packed: PackedRows, tokens: Tokens, entropy_T: Tensor) -> Tensor:
        """Add the sums of the drift and return each token's, abs(sampled_logp - old_logp); 0 where it is unknown."""
        fresh_T = _fresh(packed, entropy_T.device)
        sampled_T = tokens.sampled_logp_T
        drift_T, bins = drift.distances(sampled_T, tokens.old_logp_T, fresh_T)
        self.bins += bins
        self.moments += drift.moments(sampled_T, tokens.old_logp_T, entropy_T, fresh_T)
        return drift_T

    def _add_rows(self, packed: PackedRows, value_T4: Tensor, row_T: Tensor) -> None:
        """Add, for each row, the sums of the first two columns and the mean of the third; the fourth counts."""
        self.row_indices += [row.index for row in packed.rows]
        sum_R4 = value_T4.new_zeros((len(packed.rows), 4)).index_add(0, row_T, value_T4)
        drift_R1 = sum_R4[:, 2:3] / sum_R4[:, 3:]
        self._take_largest(row_drift=drift_R1)
        self.rows_R3.append(torch.cat([sum_R4[:, :2], drift_R1], 1))

    def read(self, ranks: Ranks, norm: Tensor) -> UpdateReadback:
        """Everything as numbers, over all ranks except for the rows, which are this rank's."""
        totals = torch.stack(list(self.totals.values()))
        largest = torch.stack(list(self.largest.values()))
        summed = torch.cat([totals, self.moments, self.bins])
        ranks.sum([summed])
        ranks.max(largest)
        totals, moments, bins = summed.split([len(totals), len(self.moments), len(self.bins)])
        weighed_R, not_finite_R, drift_R = torch.cat([self._zeros((0, 3)), *self.rows_R3]).unbind(1)
        host = _to_host(
            norm=norm.double(),
            largest=largest,
            totals=totals,
            moments=moments,
            bins=bins,
            weighed_R=weighed_R,
            not_finite_R=not_finite_R,
            drift_R=drift_R,
        )
        return UpdateReadback(
            totals=Totals(**dict(zip(TOTALS, host["totals"]))),
            largest=Largest(**dict(zip(LARGEST, host["largest"]))),
            norm=host["norm"][0],
            trained_rows=self._rows_where(host["weighed_R"]),
            not_finite_rows=self._rows_where(host["not_finite_R"]),
            row_drift=dict(zip(self.row_indices, host["drift_R"])),
            moments=dict(zip(drift.MOMENTS, host["moments"])),
            bins=host["bins"],
        )

    def _rows_where(self, counts: Sequence[float]) -> frozenset[int]:
        return frozenset(index for index, count in zip(self.row_indices, counts) if count)


def _fresh(packed: PackedRows, device: torch.device) -> Tensor | None:
    """Mask [T] of the tokens that the step's own weights sampled; None where all are."""
    if not any(row.fresh_from for row in packed.rows):
        return None
    parts = [_index_of_learnt(row) >= row.fresh_from for row in packed.rows]
    return upload(torch.cat(parts), device)


def _index_of_learnt(row: Row) -> Tensor:
    """The index into its tokens of each token [T] that is learnt from."""
    return torch.tensor(row.written) if row.given else torch.arange(row.num_tokens)


def _to_host(**parts: Tensor) -> dict[str, list[float]]:
    """All parts, flattened, by one copy."""
    values = iter(torch.cat([part.flatten() for part in parts.values()]).tolist())
    return {name: list(islice(values, part.numel())) for name, part in parts.items()}
