"""Whether two answers are the same mathematics, without ever executing their text.

`equal` tries (a) equal strings, words and exact rationals, (b) the bounded LaTeX parser with structural and
50-digit comparison, and (c), only inside a worker that its caller can kill, sympy on objects built from
the parser's own tree. The rules are listed in docs/math_equality.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from rewards.mathematics.comparison import Comparison
from rewards.mathematics.latex import parse
from rewards.mathematics.letters import letters_of
from rewards.mathematics.notation import clean
from rewards.mathematics.plain_number import rational_agrees, read_plain_number
from rewards.mathematics.plain_text import complex_in_i
from rewards.mathematics.prose import chosen_options, is_refuted, said_value, stated_options
from rewards.mathematics.quantities import units_in
from rewards.mathematics.surface import in_plain_characters, on_one_line
from rewards.mathematics.tree import MAX_LENGTH, Node, ParseError
from rewards.mathematics.units import unit_of
from rewards.mathematics.words import (
    choice_of,
    is_sentence,
    is_wording,
    moments_agree,
    plain_words,
    same_words,
    spelled_out,
)

__all__ = ["Verdict", "equal"]

_DELIMITERS = (
    ("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"), ('"', '"'), ("'", "'"),
    ("\u201c", "\u201d"), ("\u2018", "\u2019"),
)  # fmt: skip
_NUMBER_IN_FRONT = re.compile(r"\s*[-+\u2212]?\s*[\d.,/]*\d\s*")
_YEN = re.compile(r"[\u00a5\uffe5]\s*(\d[\d,.]*\d|\d)")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_NUMBER_OF_GROUPS = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether prediction and gold agree, which tier decided, and why.

    ``equal`` is None if the gold cannot be read, or if ``is_out_of_time``: the clock stopped sympy before it had
    answered or done the work it may do. The same question may be decided elsewhere; no verdict is to be remembered.
    """

    equal: bool | None
    tier: str
    reason: str
    is_out_of_time: bool = False


def equal(pred: str, gold: str, *, lenient: bool = False, allow_sympy: bool = False) -> Verdict:
    """Return whether `pred` states the same answer as `gold`.

    Strict rules are meant for training, `lenient` for evaluation. `allow_sympy` may only be set in a process
    that its caller kills at a deadline: a single call in C that sympy makes has no bound; the other tiers have.
    """
    pred = spelled_out(chosen_options(on_one_line(_tidy(pred))))
    gold = spelled_out(on_one_line(_tidy(gold)))
    pred = _with_sign_of_yuan(pred, gold)
    gold = _with_sign_of_yuan(gold, pred)
    if not gold or len(gold) > MAX_LENGTH:
        return Verdict(None, "a", "the gold is empty or too long")
    if len(pred) > MAX_LENGTH:
        return Verdict(False, "a", "the prediction is too long")
    quick = _by_text(pred, gold, lenient)
    if quick is not None:
        return quick
    if is_refuted(plain_words(pred)) and not is_refuted(plain_words(gold)):
        return Verdict(False, "a", "the prediction calls its value wrong")
    verdict = _by_tree(pred, gold, lenient, allow_sympy)
    said = _said(pred, gold) if lenient and verdict.equal is False else None
    return verdict if said is None else equal(said, gold, lenient=True, allow_sympy=allow_sympy)


def _with_sign_of_yuan(text: str, other: str) -> str:
    """Return a text whose yen sign is the yuan's, where the other side names that currency."""
    is_yuan = any(name in other for name in ("yuan", "RMB", "CNY", "\u5143"))
    return _YEN.sub(r"\1 yuan", text) if is_yuan else text


def _said(pred: str, gold: str) -> str | None:
    """Return what a prediction in prose says: the options it calls correct, or the value; None if the gold is prose."""
    text = plain_words(pred)
    if choice_of(gold) is not None or letters_of(gold) is not None:
        return _other(pred, stated_options(text))
    if is_wording(gold) or said_value(plain_words(gold)) is not None:
        return None
    return _other(pred, said_value(text))


def _other(pred: str, said: str | None) -> str | None:
    return said if said and said != pred else None


def _tidy(text: str) -> str:
    """Drop surrounding space, delimiters, quotes and a final period."""
    text = in_plain_characters(text).strip()
    while text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        is_delimited = text.startswith(opening) and text.endswith(closing)
        if is_delimited and len(text) > 2 * len(opening) and opening not in inner:
            return _tidy(inner)
    return text


# tier a: text


def _by_text(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Return the verdict that needs no parser: equal strings, plain numbers, choices, moments, sentences."""
    if _NUMBER_OF_GROUPS.fullmatch(gold) and re.search(r"\d,\s+\d", pred):
        return Verdict(False, "a", "a list for a number")
    if pred == gold or _SPACE.sub("", pred) == _SPACE.sub("", gold):
        return Verdict(True, "a", "the same text")
    if not pred:
        return Verdict(False, "a", "the prediction is empty")
    gold_number = read_plain_number(gold)
    pred_number = read_plain_number(pred) if gold_number is not None else None
    if gold_number is not None and pred_number is not None:
        agree = rational_agrees(pred_number, gold_number, lenient)
        return Verdict(agree, "a", "compared as exact numbers")
    moments = moments_agree(pred, gold)
    if moments is not None:
        return Verdict(moments, "a", "compared as times or dates")
    letters = _by_letters(pred, gold)
    return letters or _by_choice(pred, gold, lenient) or _by_words(pred, gold, lenient)


def _by_letters(pred: str, gold: str) -> Verdict | None:
    """Compare several letters of a multiple choice, in any order; None if neither side is several letters."""
    true = letters_of(gold)
    claimed = letters_of(pred)
    if true is None or claimed is None or true.is_small:
        several, other = (true, pred) if claimed is None else (claimed, gold)
        if several is None or several.is_small or choice_of(other) is None:
            return None
        return Verdict(False, "a", "one letter and several")
    if true.is_glued and claimed.is_glued and true != claimed:
        return None
    return Verdict(true.agrees_with(claimed), "a", "compared as several letters")


def _by_choice(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Compare multiple-choice letters; the text after a letter decides if the other side has only that."""
    gold_choice = choice_of(gold)
    if gold_choice is None:
        return None
    letter, text = gold_choice
    is_upper = plain_words(gold).strip("() ").isupper()
    if letter not in "ABCDEFGH":
        return None
    if not (text or is_upper or "text" in gold):
        return None
    pred_choice = choice_of(pred)
    if pred_choice is not None:
        return Verdict(pred_choice[0] == letter, "a", "compared as choices")
    if text and lenient:
        return equal(pred, text, lenient=lenient)
    return None


def _by_words(pred: str, gold: str, lenient: bool) -> Verdict | None:
    """Compare answers in words; None if either side may be mathematics."""
    gold_is_sentence = is_sentence(gold)
    if not gold_is_sentence and not is_wording(gold):
        return None
    if _is_quantity(gold):
        return None
    if same_words(pred, gold, lenient):
        return Verdict(True, "a", "the same words")
    if gold_is_sentence and not re.search(r"\d", gold):
        return Verdict(False, "a", "compared as words")
    return None


def _is_quantity(text: str) -> bool:
    """Tell whether a text is a number and a unit in words, such as "5 miles per hour"."""
    text = clean(text)
    number = _NUMBER_IN_FRONT.match(text)
    return number is not None and unit_of(plain_words(text[number.end() :])) is not None


# tiers b and c: trees


def _by_tree(pred: str, gold: str, lenient: bool, allow_sympy: bool) -> Verdict:
    """Return the verdict of the parser and, if it is allowed and needed, of sympy."""
    golds = _readings(gold, lenient=True)
    if not golds:
        if is_wording(gold):
            return Verdict(same_words(pred, gold, lenient), "b", "the gold was compared as words")
        return Verdict(None, "b", "the gold cannot be read")
    comparison = Comparison(pred, gold, lenient, allow_sympy)
    preds = _readings(pred, lenient)
    for gold_reading, pred_reading in product(golds, preds):
        comparison.may_rename = not (gold_reading.is_second or pred_reading.is_second)
        if comparison.same(pred_reading.tree, gold_reading.tree):
            return Verdict(True, comparison.agreement.tier, "equal as mathematics")
    if is_wording(gold) and same_words(pred, gold, lenient):
        return Verdict(True, "b", "the same words")
    if not preds:
        return Verdict(False, "b", "the prediction cannot be read")
    return _not_equal(comparison)


def _not_equal(comparison: Comparison) -> Verdict:
    """Return the verdict on two answers that no tier showed to be equal."""
    tier = comparison.agreement.tier
    if comparison.agreement.is_out_of_time:
        return Verdict(None, tier, "undecided: out of time", is_out_of_time=True)
    reason = "not shown equal within bounds" if comparison.is_unsure else "different"
    return Verdict(False, tier, reason)


class _Reading(NamedTuple):
    """The tree of a text, and whether it is a second one, which takes what is surely a unit for symbols."""

    tree: Node
    is_second: bool


def _readings(text: str, lenient: bool) -> list[_Reading]:
    """Return the trees of a text: commas in numbers or between them, letters as units or as symbols."""
    readings: list[_Reading] = []
    if lenient and re.fullmatch(r"-?0,\d+", text):
        text = text.replace(",", ".")
    is_ambiguous = re.search(r"\d[, ]\d{3}", text) is not None
    for grouped in (True, False) if is_ambiguous else (True,):
        first = _tree(text, grouped, lenient, letters_are_units=True)
        if first is not None:
            readings.append(_Reading(first, is_second=False))
        units = units_in(first) if first is not None else None
        if units == []:
            continue
        second = _tree(text, grouped, lenient, letters_are_units=False)
        is_sure = units is not None and all(unit.is_certain for unit in units)
        if second is None or second == first or (is_sure and units_in(second)):
            continue  # with "km per hour", the letters in front of "per" are no symbols
        readings.append(_Reading(second, is_second=is_sure))
    return readings + _as_printed(text, lenient)


def _as_printed(text: str, lenient: bool) -> list[_Reading]:
    """Return the second reading of a complex number that a program shows."""
    in_i = complex_in_i(text)
    tree = None if in_i is None else _tree(in_i, True, lenient, letters_are_units=True)
    return [] if tree is None else [_Reading(tree, is_second=False)]


def _tree(text: str, grouped: bool, lenient: bool, letters_are_units: bool) -> Node | None:
    """Return the tree of a text, or None if it cannot be read."""
    try:
        return parse(text, grouped=grouped, lenient=lenient, letters_are_units=letters_are_units)
    except ParseError:
        return None
