"""The ledger: every completion whose sampling began is counted once, and the outcomes sum after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterator, Mapping, Sequence

from grpo.types import OUTCOMES, Batch, ScoredGroup
from rewards.spelling import many


class LedgerError(AssertionError):
    """Completions were lost or counted twice: a bug of this library, never of a recipe."""


class Ledger(dict[str, int]):
    """The outcomes of the whole run: how many completions were sampled, and what became of each.

    ``begun`` counts the completions whose sampling began: those counted here and those still in flight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def begin(self, number: int) -> None:
        """`number` completions are about to be sampled."""
        self.begun += number

    def add(self, step: int, groups: Sequence[ScoredGroup], batch: Batch, in_flight: int) -> None:
        """Count a step whose `groups` became `batch`, while `in_flight` completions continue in a later one.

        Raises `LedgerError` if a completion is missing, counted twice, or has no known outcome.
        """
        for outcome, number in batch.ledger.items():
            self[outcome] = self.get(outcome, 0) + number
        error = next(self._errors(groups, batch, in_flight), None)
        if error is not None:
            raise LedgerError(
                f"step {step}: the ledger does not sum: {error}. This is a bug of the library; "
                "please report it with the run's recipe.yaml"
            )

    def _errors(self, groups: Sequence[ScoredGroup], batch: Batch, in_flight: int) -> Iterator[str]:
        num_scored = sum(len(group.completions) for group in groups)
        counted = Counter(row.outcome for row in batch.rows)
        if num_scored != len(batch.rows):
            yield f"{many(num_scored, 'completion')} scored, and {len(batch.rows)} became rows"
        unknown = counted.keys() - set(OUTCOMES)
        if unknown:
            yield f"the outcomes {sorted(unknown)} are unknown"
        expected = {outcome: counted[outcome] for outcome in OUTCOMES}
        if batch.ledger != {"sampled": num_scored, **expected}:
            yield (
                f"the outcomes {dict(batch.ledger)} do not account for {many(num_scored, 'completion')}: "
                f"{dict(counted)}"
            )
        if self.begun != self["sampled"] + in_flight:
            yield (
                f"{many(self.begun, 'completion')} begun, {self['sampled']} counted, and {in_flight} in flight"
            )

    def cancel(self, number: int) -> None:
        """`number` completions that were in flight will not be continued: sampled, and cancelled."""
        for outcome in ("sampled", "cancelled"):
            self[outcome] = self.get(outcome, 0) + number

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"books": dict(self), "begun": self.begun}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the ledger to a `state`."""
        self.clear()
        self.update(state["books"])
        self.begun = state["begun"]

    def reset(self) -> None:
        """Set the ledger to that of a new run."""
        self.clear()
        self.begun = 0
