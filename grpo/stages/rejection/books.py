"""The books of rejection sampling: what became of every candidate, counted once, and sums over prompts.

The outcomes of a step sum to its candidates, and those of the run to all of them; otherwise `LedgerError` is raised.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, Sequence

from grpo.run.ledger import LedgerError
from grpo.stages.rejection.diversity import ACCEPTED, CHOSEN_AMONG
from grpo.stages.rejection.filters import FILTERS

WHOLE = "candidates"
OUTCOMES = (ACCEPTED, *(one.name for one in FILTERS), *CHOSEN_AMONG, "cancelled")
"""What may become of a candidate."""
TOKENS = ("same", "end_added", "others", "unknown")
"""How accepted completions train: as the tokens that were sampled; these with a further end token; other tokens; not
known, since the run that stored them kept no token ids (their number is compared)."""


@dataclass(slots=True, eq=False)
class Books:
    """Counts over the run so far.

    ``ledger`` has the candidates and each outcome, ``caught`` how many each filter catches by itself, ``tokens`` what
    accepted completions train as (`TOKENS`), ``sums`` the tokens sampled and accepted and the completions judged and
    right.
    """

    ledger: Counter[str] = field(default_factory=lambda: Counter({WHOLE: 0}))
    caught: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, outcomes: Sequence[str], caught: Iterable[Sequence[str]], step: int) -> None:
        """Count the candidates of a step."""
        unknown = set(outcomes) - set(OUTCOMES)
        if unknown:
            raise LedgerError(f"step {step}: the outcomes {sorted(unknown)} are unknown")
        self.ledger.update(outcomes)
        self.ledger[WHOLE] += len(outcomes)
        for names in caught:
            self.caught.update(names)
        booked = sum(self.ledger[name] for name in OUTCOMES)
        if booked != self.ledger[WHOLE]:
            raise LedgerError(
                f"step {step}: {self.ledger[WHOLE]} candidates came, and {booked} have an outcome. This is a bug of "
                "the library; please report it with the run's recipe.yaml"
            )

    def summary(self) -> dict[str, Any]:
        """The counts as ``summary.json`` has them; the ledger in the order of `OUTCOMES`."""
        return {
            "tokens": {name: self.sums[name] for name in ("sampled", "accepted")},
            "ledger": {name: self.ledger[name] for name in (WHOLE, *OUTCOMES)},
            "caught": {one.name: self.caught[one.name] for one in FILTERS},
            "trains_as": {kind: self.tokens[kind] for kind in TOKENS},
        }

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {name: dict(getattr(self, name)) for name in self.__slots__}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the books to a `state`."""
        for name in self.__slots__:
            setattr(self, name, Counter(state[name]))
