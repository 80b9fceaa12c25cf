"""The ledger: every completion that was ever begun is counted once, and the outcomes sum after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any, Mapping, Sequence

from grpo.types import OUTCOMES, Batch, ScoredGroup


class LedgerError(AssertionError):
    """Completions were lost, or booked twice: a fault of this library, never of a recipe."""


class Ledger(dict[str, int]):
    """The outcomes of the whole run: how many completions were sampled, and where each of them went.

    ``begun`` counts the completions whose sampling was ever begun: those booked and those still in flight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def begin(self, number: int) -> None:
        """`number` completions are about to be sampled."""
        self.begun += number

    def add(self, step: int, groups: Sequence[ScoredGroup], batch: Batch, in_flight: int) -> None:
        """Book a step whose `groups` became `batch`, while `in_flight` completions go on in a later one.

        Raises `LedgerError` where a completion is missing, is there twice, or stands in no outcome.
        """
        found, sampled = (
            Counter(row.outcome for row in batch.rows),
            sum(len(group.completions) for group in groups),
        )
        for outcome, number in batch.ledger.items():
            self[outcome] = self.get(outcome, 0) + number
        for wrong, words in (
            (
                sampled != len(batch.rows),
                f"{sampled} completions were scored and {len(batch.rows)} became rows",
            ),
            (
                found.keys() - set(OUTCOMES),
                f"the outcomes {sorted(found.keys() - set(OUTCOMES))} are unknown",
            ),
            (
                batch.ledger
                != {"sampled": sampled, **{outcome: found[outcome] for outcome in OUTCOMES}},
                f"the outcomes {dict(batch.ledger)} do not say where {sampled} completions went: {dict(found)}",
            ),
            (
                self.begun != self["sampled"] + in_flight,
                f"{self.begun} completions were begun, {self['sampled']} are booked and {in_flight} in flight",
            ),
        ):
            if wrong:
                raise LedgerError(
                    f"step {step}: the ledger does not sum: {words}. This is a fault of the library; "
                    "please report it with the run's recipe.yaml"
                )

    def state(self) -> dict[str, Any]:
        return {"books": dict(self), "begun": self.begun}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self.update(state["books"])
        self.begun = state["begun"]
