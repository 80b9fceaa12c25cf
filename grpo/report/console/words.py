"""The words on the screen: the field's own, where the keys in files are shorter."""

from __future__ import annotations

from typing import Any, Mapping

from grpo.recipe.shorthands import HELD_OUT
from rewards.spelling import many

ZERO_VARIANCE = "zero-variance groups"
MISMATCH = "sampler-trainer mismatch"
TOTALS = {"sampled": "completions sampled", "drawn": "rows drawn"}
"""What a ledger counts, by the key of its total."""
OUTCOMES = {
    "cancelled": "cancelled",
    "faulted": "not scored",
    "truncated_masked": "truncated and masked",
    "flat": f"in {ZERO_VARIANCE}",
    "correction_masked": "masked by the correction",
    "skipped": "of updates not made",
    "trained": "trained",
}
"""What became of completions or rows, by the name of the outcome in the ledger."""


def shown_set(name: str) -> str:
    """The name of an evaluation set."""
    return "held-out" if name == HELD_OUT else name


def candidates(ledger: Mapping[str, Any]) -> str:
    """``128 candidates: 41 accepted, 60 wrong``, what became of the candidates of rejection sampling."""
    counts = [
        f"{number} {name.replace('_', ' ')}"
        for name, number in ledger.items()
        if number and name != "candidates"
    ]
    return f"{many(ledger['candidates'], 'candidate')}: {', '.join(counts)}"


def outcomes(ledger: Mapping[str, Any]) -> str:
    """``15360 completions sampled: 14210 trained, 1150 in zero-variance groups``; outcomes of none are left out."""
    total = next((name for name in TOTALS if name in ledger), "sampled")
    counts = []
    for name, words in reversed(OUTCOMES.items()):
        if ledger.get(name):
            counts.append(f"{ledger[name]} {words}")
    return f"{ledger.get(total, 0)} {TOTALS[total]}: {', '.join(counts) or 'none trained'}"
