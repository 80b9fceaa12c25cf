"""The reward for a right final answer: extraction and equality put together.

`math_answer` scores a completion against the gold column; `pairs` compares two bare answers.
"""

from __future__ import annotations

from rewards.mathematics.equality import equal
from rewards.mathematics.extraction import Extracted, bare_answer, extract
from rewards.types import Score

__all__ = ["extracted_answer", "math_answer", "pairs"]

LONGEST_READ_FOR_KEY = 20_000
"""The caller's thread looks for the answer in so many characters behind the reasoning; longer ones it hands over."""


def math_answer(
    text: str, answer: object, lenient: bool = False, allow_sympy: bool = False
) -> Score:
    """Return 1 where the completion's final answer equals the gold `answer`, 0 where it does not.

    `answer` may be a bare answer, a number or a whole solution that ends in one. Statuses: ``no_answer``
    (0) where the completion holds no answer after its reasoning, ``fault`` (None) where the gold is missing
    or cannot be read. ``extracted`` is the answer found; ``detail`` reads ``extracted='...' how=... tier=...
    reason``. `allow_sympy` may only be set where the caller kills this process on a deadline; the workers of
    ``rewards.service`` set it themselves.
    """
    gold = _gold(answer)
    return _scored(extract(text, lenient=lenient), gold, answer, lenient, allow_sympy)


def _cache_key(
    text: str, answer: object, lenient: bool = False, allow_sympy: bool = False
) -> tuple[str | None, str, str] | None:
    """Return what the verdict on a completion depends on: the answer found in it, and the gold; None where too long."""
    if len(text) - text.rfind("</think>") > LONGEST_READ_FOR_KEY:
        return None
    found = extract(text, lenient=lenient)
    return found.text, found.how, repr(answer)


math_answer.cache_key = _cache_key  # type: ignore[attr-defined]


def pairs(gold: str, pred: str, lenient: bool = False, allow_sympy: bool = False) -> Score:
    """Return 1 where two answers are equal, 0 where not; each may be bare, in delimiters, boxed or a solution."""
    truth = bare_answer(str(gold), lenient=True)
    return _scored(bare_answer(str(pred), lenient=lenient), truth, gold, lenient, allow_sympy)


def extracted_answer(text: str, lenient: bool = False) -> str | None:
    """Return the final answer of a completion as `math_answer` reads it, or None."""
    return extract(text, lenient=lenient).text


def _gold(answer: object) -> Extracted:
    """Return the gold as text, its solution stripped."""
    if answer is None or isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        return Extracted(None, "none")
    return bare_answer(str(answer), lenient=True)


def _scored(
    found: Extracted, gold: Extracted, answer: object, lenient: bool, allow_sympy: bool
) -> Score:
    """Return the score of two extracted answers; `answer` is the gold as it was given."""
    if gold.text is None:
        return Score(
            None, {}, "fault", f"the gold answer holds nothing to compare with: {_short(answer)}"
        )
    if found.text is None:
        return Score(0.0, {}, "no_answer", "extracted=None how=none")
    verdict = equal(found.text, gold.text, lenient=lenient, allow_sympy=allow_sympy)
    detail = f"extracted={found.text!r} how={found.how} tier={verdict.tier} {verdict.reason}"
    if verdict.equal is None:
        return Score(
            None,
            {},
            "fault",
            f"the gold answer cannot be read: {_short(gold.text)}; {detail}",
            found.text,
        )
    return Score(float(verdict.equal), {}, "scored", detail, found.text)


def _short(value: object) -> str:
    """Return a value's representation, cut to a line."""
    shown = repr(value)
    return shown if len(shown) <= 200 else shown[:197] + "..."
