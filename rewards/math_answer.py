"""The reward for a correct final answer: extraction and equality put together.

`math_answer` scores a completion against the gold column; `pairs` compares two bare answers.
"""

from __future__ import annotations

from rewards.mathematics.equality import equal
from rewards.mathematics.extraction import Extracted, bare_answer, extract
from rewards.types import Score

__all__ = ["extracted_answer", "math_answer", "pairs"]

MAX_LENGTH_FOR_KEY = 20_000
"""The caller's thread looks for the answer in this many characters after the reasoning; longer texts go to a worker."""
MAX_LENGTH_SHOWN = 200


def math_answer(
    text: str, answer: object, lenient: bool = False, allow_sympy: bool = False
) -> Score:
    """Return 1 if the completion's final answer equals the gold `answer`, 0 if it does not.

    `answer` may be a bare answer, a number or a whole solution that ends in one. Statuses: ``no_answer``
    (0) if the completion states no answer after its reasoning, ``timeout`` (0) if the comparison ran out of CPU time
    undecided, ``fault`` (None) if the gold is missing or cannot be read. ``extracted`` is the completion's answer;
    ``detail`` reads ``extracted='...' how=... tier=... reason``. `allow_sympy` may only be set where the caller kills
    this process at a deadline; the workers of ``rewards.service`` set it themselves.
    """
    gold = _gold(answer)
    claimed = extract(text, lenient=lenient)
    return _scored(claimed, gold, answer, lenient=lenient, allow_sympy=allow_sympy)


def _cache_key(
    text: str, answer: object, lenient: bool = False, allow_sympy: bool = False
) -> tuple[str | None, str, str] | None:
    """Return what the verdict on a completion depends on: its final answer, and the gold; None for long texts."""
    if len(text) - text.rfind("</think>") > MAX_LENGTH_FOR_KEY:
        return None
    claimed = extract(text, lenient=lenient)
    return claimed.text, claimed.how, repr(answer)


math_answer.cache_key = _cache_key  # type: ignore[attr-defined]  # read by the service


def pairs(gold: str, pred: str, lenient: bool = False, allow_sympy: bool = False) -> Score:
    """Return 1 if two answers are equal, 0 if not; each may be bare, in delimiters, boxed or a solution."""
    true = bare_answer(str(gold), lenient=True)
    claimed = bare_answer(str(pred), lenient=lenient)
    return _scored(claimed, true, gold, lenient=lenient, allow_sympy=allow_sympy)


def extracted_answer(text: str, lenient: bool = False) -> str | None:
    """Return the final answer of a completion as `math_answer` reads it, or None."""
    return extract(text, lenient=lenient).text


def _gold(answer: object) -> Extracted:
    """Return the gold as text, taken out of its solution."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        return Extracted(None, "none")
    return bare_answer(str(answer), lenient=True)


def _scored(
    claimed: Extracted, gold: Extracted, answer: object, *, lenient: bool, allow_sympy: bool
) -> Score:
    """Return the score of two extracted answers; `answer` is the gold before extraction."""
    if gold.text is None:
        reason = f"the gold answer holds nothing to compare with: {_short(answer)}"
        return Score(None, status="fault", detail=reason)
    if claimed.text is None:
        return Score(0.0, status="no_answer", detail="extracted=None how=none")
    verdict = equal(claimed.text, gold.text, lenient=lenient, allow_sympy=allow_sympy)
    detail = f"extracted={claimed.text!r} how={claimed.how} tier={verdict.tier} {verdict.reason}"
    if verdict.is_out_of_time:
        return Score(0.0, status="timeout", detail=detail, extracted=claimed.text)
    if verdict.equal is None:
        detail = f"the gold answer cannot be read: {_short(gold.text)}; {detail}"
        return Score(None, status="fault", detail=detail, extracted=claimed.text)
    return Score(float(verdict.equal), detail=detail, extracted=claimed.text)


def _short(value: object) -> str:
    """Return a value's representation, cut to a line."""
    shown = repr(value)
    return shown if len(shown) <= MAX_LENGTH_SHOWN else shown[: MAX_LENGTH_SHOWN - 3] + "..."
