"""The words on the screen: the field's own, where the keys in files are shorter."""

from __future__ import annotations

from typing import Any, Mapping

from grpo.recipe.shorthands import HELD_OUT

ZERO_VARIANCE = "zero-variance groups"
MISMATCH = "sampler-trainer mismatch"
OUTCOMES = {
    "cancelled": "cancelled",
    "faulted": "not scored",
    "truncated_masked": "truncated and masked",
    "flat": f"in {ZERO_VARIANCE}",
    "correction_masked": "masked by the correction",
    "trained": "trained",
}
"""What became of completions, by the name of the outcome in the ledger."""


def shown_set(name: str) -> str:
    """The name of an evaluation set."""
    return "held-out" if name == HELD_OUT else name


def outcomes(ledger: Mapping[str, Any]) -> str:
    """``15360 completions sampled: 14210 trained, 1150 in zero-variance groups``; outcomes of none are left out."""
    counts = [
        f"{ledger[name]} {words}" for name, words in reversed(OUTCOMES.items()) if ledger.get(name)
    ]
    return f"{ledger.get('sampled', 0)} completions sampled: {', '.join(counts) or 'none trained'}"
