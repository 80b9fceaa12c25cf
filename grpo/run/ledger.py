"""The ledger: everything that a step takes is counted once, and the outcomes sum after every step.

Of reinforcement learning that is every completion whose sampling began, of supervised training every row drawn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterator, Mapping, Sequence

from grpo.types import OUTCOMES, Batch
from rewards.spelling import many


class LedgerError(AssertionError):
    """Completions were lost or counted twice: a bug of this library, never of a recipe."""


class Ledger(dict[str, int]):
    """The outcomes of the whole run: how many completions were sampled, and what became of each.

    ``begun`` counts the completions whose sampling began: those counted here and those still in flight. What is counted
    has another name and other `outcomes` in other stages: ``item`` is what one is called, ``whole`` the key of their
    sum.
    """

    def __init__(
        self,
        whole: str = "sampled",
        outcomes: Sequence[str] = OUTCOMES,
        item: str = "completion",
    ) -> None:
        super().__init__()
        self.whole = whole
        self.item = item
        self.outcomes = outcomes
        self.begun = 0

    def begin(self, number: int) -> None:
        """`number` completions are about to be sampled."""
        self.begun += number

    def add(self, step: int, num_items: int, batch: Batch, in_flight: int) -> None:
        """Count a step whose `num_items` completions became `batch`, while `in_flight` continue in a later one.

        Raises `LedgerError` if one is missing, counted twice, or has no known outcome.
        """
        for outcome, number in batch.ledger.items():
            self[outcome] = self.get(outcome, 0) + number
        error = next(self._errors(num_items, batch, in_flight), None)
        if error is not None:
            raise LedgerError(
                f"step {step}: the ledger does not sum: {error}. This is a bug of the library; "
                "please report it with the run's recipe.yaml"
            )

    def _errors(self, num_items: int, batch: Batch, in_flight: int) -> Iterator[str]:
        counted = Counter(row.outcome for row in batch.rows)
        if num_items != len(batch.rows):
            yield f"{many(num_items, self.item)} {self.whole}, and {len(batch.rows)} became rows"
        unknown = counted.keys() - set(self.outcomes)
        if unknown:
            yield f"the outcomes {sorted(unknown)} are unknown"
        expected = {outcome: counted[outcome] for outcome in self.outcomes}
        if batch.ledger != {self.whole: num_items, **expected}:
            yield (
                f"the outcomes {dict(batch.ledger)} do not account for {many(num_items, self.item)}: "
                f"{dict(counted)}"
            )
        if self.begun != self[self.whole] + in_flight:
            yield (
                f"{many(self.begun, self.item)} begun, {self[self.whole]} counted, and {in_flight} in flight"
            )

    def cancel(self, number: int) -> None:
        """`number` completions that were in flight will not be continued: sampled, and cancelled."""
        if "cancelled" not in self.outcomes:
            assert not number, "nothing is in flight where nothing can be cancelled"
            return
        for outcome in (self.whole, "cancelled"):
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
