"""The reward for a correct final answer: extraction and equality put together.

`math_answer` scores a completion against the gold column; `pairs` compares two bare answers.
"""

from __future__ import annotations

import re
from decimal import Decimal

from rewards.gold import SEVERAL, gold_items, is_missing
from rewards.mathematics.equality import equal
from rewards.mathematics.extraction import NOTHING, Extracted, bare_answer, extract
from rewards.reasoning import THINK_END, after_reasoning
from rewards.types import Score

__all__ = ["extracted_answer", "math_answer", "pairs"]

MAX_LENGTH_FOR_KEY = 20_000
"""The caller's thread looks for the answer in this many characters after the reasoning; longer texts go to a worker."""
MAX_LENGTH_SHOWN = 200
UNDECIDED = ("scored", "no_answer", "timeout", "fault")
"""Statuses of a completion that equals none of several golds; the last of them holds for it."""
_WORDS_OF = {True: ("True", "Yes"), False: ("False", "No")}
"""What a gold that is a truth value may be called."""
_GROUPED_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+")


def math_answer(
    text: str,
    answer: object,
    prompt_text: str = "",
    lenient: bool = False,
    several: str | None = None,
    allow_sympy: bool = False,
) -> Score:
    """Return 1 if the completion's final answer equals the gold `answer`, 0 if it does not.

    `answer` may be a bare answer, a number or a whole solution that ends in one; a list of one, also as JSON text, is
    that item; a truth value is "True" or "Yes", "False" or "No". A list of several needs `several`: "any" takes each
    of them for right, "all" asks for all of them, in any order. `prompt_text` is what the model was shown: if it
    opens ``<think>``, the completion starts inside its
    reasoning. Statuses: ``no_answer`` (0) if the completion states no answer after its reasoning or never ends it,
    ``timeout`` (0) if the comparison ran out of CPU time undecided, ``fault`` (None) if the gold is missing, is no
    answer (NaN, "None", "N/A") or cannot be read. ``extracted`` is the completion's answer; ``detail`` reads
    ``extracted='...' how=... tier=... reason``. `allow_sympy` may only be set where the caller kills this process at a
    deadline; the workers of ``rewards.service`` set it themselves.
    """
    golds, problem = _golds(answer, several)
    if problem:
        return Score(None, status="fault", detail=problem)
    claimed = _final_answer(text, prompt_text, lenient)
    scores = []
    for gold in golds:
        score = _scored(claimed, gold, answer, lenient=lenient, allow_sympy=allow_sympy)
        if score.value == 1 or score.status == "no_answer":
            return score
        scores.append(score)
    return max(scores, key=lambda score: UNDECIDED.index(score.status))


def _final_answer(text: str, prompt_text: str, lenient: bool) -> Extracted:
    """Return the answer stated behind the reasoning."""
    answer = after_reasoning(text, prompt_text)
    return NOTHING if answer is None else extract(answer, lenient=lenient)


def _cache_key(
    text: str,
    answer: object,
    prompt_text: str = "",
    lenient: bool = False,
    several: str | None = None,
    allow_sympy: bool = False,
) -> tuple[str | None, str, str] | None:
    """Return what the verdict on a completion depends on: its final answer, and the gold; None for long texts."""
    if len(text) - text.rfind(THINK_END) > MAX_LENGTH_FOR_KEY:
        return None
    claimed = _final_answer(text, prompt_text, lenient)
    return claimed.text, claimed.how, repr(answer)


math_answer.cache_key = _cache_key  # type: ignore[attr-defined]  # read by the service


def pairs(
    gold: object,
    pred: str,
    lenient: bool = False,
    several: str | None = None,
    allow_sympy: bool = False,
) -> Score:
    """Return 1 if two answers are equal, 0 if not; each may be bare, in delimiters, boxed or a solution."""
    golds, problem = _golds(gold, several)
    if problem:
        return Score(None, status="fault", detail=problem)
    claimed = bare_answer(str(pred), lenient=lenient)
    scores = []
    for true in golds:
        scores.append(_scored(claimed, true, gold, lenient=lenient, allow_sympy=allow_sympy))
    return max(scores, key=lambda score: (score.value == 1, UNDECIDED.index(score.status)))


def extracted_answer(text: str, lenient: bool = False, prompt_text: str = "") -> str | None:
    """Return the final answer of a completion as `math_answer` reads it, or None."""
    return _final_answer(text, prompt_text, lenient).text


def _golds(answer: object, several: str | None) -> tuple[list[Extracted], str]:
    """Return the golds that a completion may equal, taken out of their solutions, and why there are none."""
    if several is not None and several not in SEVERAL:
        raise ValueError(f"math_answer: several is {several!r}; it can be {' or '.join(SEVERAL)}")
    if isinstance(answer, bool):
        return [Extracted(word, "bare") for word in _WORDS_OF[answer]], ""
    if is_missing(answer):
        return [], f"the gold answer is no answer: {_short(answer)}"
    items = list({repr(item): item for item in gold_items(answer) if not is_missing(item)}.values())
    if len(items) > 1 and several is None:
        return [], (
            f"the gold answer is a list of {len(items)}: {_short(answer)}; set args: {{several: any}} if each of "
            "them is right, {several: all} if all are asked for"
        )
    golds = [_gold(item) for item in items]
    if several == "all" and len(golds) > 1:
        return [_joined(golds)], ""
    is_number_in_brackets = isinstance(answer, str) and not isinstance(items[0], str)
    return golds + ([_gold(answer)] if is_number_in_brackets else []), ""


def _gold(answer: object) -> Extracted:
    """Return one gold as text, taken out of its solution."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float, Decimal)):
        return NOTHING
    text = str(answer)
    gold = bare_answer(after_reasoning(text) or text, lenient=True)
    return NOTHING if is_missing(gold.text) else gold


def _joined(golds: list[Extracted]) -> Extracted:
    """Return several golds as one list without brackets."""
    texts = []
    for gold in golds:
        if gold.text is None:
            return NOTHING
        is_grouped = _GROUPED_DIGITS.fullmatch(gold.text)
        texts.append(gold.text.replace(",", "") if is_grouped else gold.text)
    return Extracted(", ".join(texts), "list")


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
