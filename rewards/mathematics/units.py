"""Units of measurement: what a name stands for, and which of them convert into each other.

A unit is an exact factor to the base unit of its dimensions. Words that name what is counted or measured ("apples", "of
water") are its noun; a unit without dimensions is a noun alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Iterable

from rewards.mathematics.measures import Dimensions, is_word, measure_of
from rewards.mathematics.unit_phrases import Phrase, read_phrase

__all__ = ["NO_UNIT", "Unit", "power_of", "product_of", "qualified", "unit_of"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its exact factor to the base unit, sorted (dimension, power) pairs, and the base value of its zero.

    ``noun`` is what is counted, singular and in small letters. ``is_certain`` is False where plain letters may as well
    be a product of symbols; such a unit counts only against another unit. ``is_pound`` tells the word that is a weight
    or money.
    """

    factor: Fraction
    dimensions: Dimensions = ()
    offset: Fraction = Fraction(0)
    noun: str = ""
    is_certain: bool = True
    is_pound: bool = False

    @property
    def is_noun(self) -> bool:
        """Whether it only names what is counted."""
        return not self.dimensions and bool(self.noun)


MAX_LENGTH = 120
NO_UNIT = Unit(Fraction(1))
DOUBTFUL = "?"
"""Ends the spelling of a unit that may as well be a product of symbols."""

_NOT_NOUNS = frozenset(
    "and or not more less than times over plus minus negative half third quarter million billion trillion thousand"
    " hundred dozen pair factorial squared cubed percent pct percentage if when unless otherwise no none is are"
    " only except at most least between to odd even per modulo mod or square cubic halves thirds quarters fourths"
    " fifths sixths sevenths eighths ninths tenths hundredths thousandths millionths tens hundreds thousands millions"
    " billions trillions dozens pairs fourth fifth sixth seventh eighth ninth tenth root roots".split()
)
_NO_SYMBOLS = frozenset("in as at am pm a an is of by h d m s g to t u b".split())
_IRREGULAR = {
    "people": "person", "persons": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse",
    "geese": "goose", "teeth": "tooth", "feet": "foot", "leaves": "leaf", "loaves": "loaf", "knives": "knife",
    "wolves": "wolf", "halves": "half", "shelves": "shelf", "dice": "die", "pcs": "piece", "oxen": "ox",
}  # fmt: skip


@lru_cache(maxsize=4096)
def unit_of(name: str) -> Unit | None:
    """Return the unit that `name` writes (``cm^2``, ``km/h``, "square feet", "apples"), or None if it is none."""
    text = re.sub(r"(?:\s|~|\\[,;:! ])+", " ", name).strip()
    is_certain = not text.endswith(DOUBTFUL)
    text = text.rstrip(DOUBTFUL)
    if len(text) > MAX_LENGTH or not text:
        return None
    unit = _measured(text) or _with_words(text) or _rate(text) or _noun(text)
    if unit is None or is_certain:
        return unit
    return replace(unit, is_certain=False)


def product_of(units: Iterable[Unit]) -> Unit:
    """Return the unit of a product of quantities."""
    factor = Fraction(1)
    powers: dict[str, int] = {}
    nouns = []
    is_certain = True
    for unit in units:
        factor *= unit.factor
        for dimension, power in unit.dimensions:
            powers[dimension] = powers.get(dimension, 0) + power
        nouns += [unit.noun] * bool(unit.noun)
        is_certain = is_certain and unit.is_certain
    dimensions = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor, dimensions, noun=" ".join(nouns), is_certain=is_certain)


def power_of(unit: Unit, exponent: int) -> Unit:
    """Return a power of a unit."""
    dimensions = tuple((name, power * exponent) for name, power in unit.dimensions if exponent)
    return Unit(unit.factor**exponent, dimensions, noun=unit.noun, is_certain=unit.is_certain)


def qualified(unit: Unit, words: str) -> Unit | None:
    """Return a unit with the words behind it: "of water", "per apple"; None if they change it."""
    rate = re.fullmatch(r"(?:per|/)\s*(?:an?\s+)?(.+)", words.strip())
    if rate is not None:
        divisor = unit_of(rate[1])
        if divisor is None:
            return None
        of_both = f"{unit.noun} per {divisor.noun}".strip() if divisor.noun else unit.noun
        return replace(product_of([unit, power_of(divisor, -1)]), noun=of_both)
    noun = _noun_name(words)
    return None if noun is None else replace(unit, noun=noun)


# what is measured


def _measured(text: str) -> Unit | None:
    """Return a unit composed of known ones, or None."""
    if measure_of(text) is not None:
        return _composed(Phrase(((text, 1),), len(text), is_explicit=True, joints=""))
    phrase = read_phrase(text, 0)
    if phrase is None or text[phrase.end :].strip(" ."):
        return None
    return _composed(phrase)


def _composed(phrase: Phrase) -> Unit:
    """Return the unit that a phrase writes."""
    parts = []
    for name, power in phrase.factors:
        measure = measure_of(name)
        assert measure is not None
        parts.append(power_of(Unit(measure.factor, measure.dimensions), power))
    unit = product_of(parts)
    if len(phrase.factors) > 1 or phrase.factors[0][1] != 1:
        return unit
    name = phrase.factors[0][0]
    measure = measure_of(name)
    assert measure is not None
    is_pound = name.lower() in ("pound", "pounds")
    return replace(unit, offset=measure.offset, is_pound=is_pound)


def _with_words(text: str) -> Unit | None:
    """Return a unit with a noun behind it ("litres of water") or adjectives in front ("whole hours")."""
    phrase = read_phrase(text, 0)
    if phrase is not None and text[phrase.end : phrase.end + 1] == " ":
        name = phrase.factors[-1][0]
        if is_word(name) or name not in _NO_SYMBOLS:
            return qualified(_composed(phrase), text[phrase.end :])
    words = text.split()
    for index in range(1, min(len(words), 4)):
        rest = words[index:]
        unit = _measured(" ".join(rest)) if is_word(rest[0]) else None
        noun = None if unit is None else _noun_name(" ".join(words[:index]))
        if unit is not None and noun is not None:
            return replace(unit, noun=noun)
    return None


def _rate(text: str) -> Unit | None:
    """Return a rate of counted things: "apples per hour", "students/class"."""
    parts = re.split(r"\s+per\s+(?:an?\s+)?|\s*/\s*", text)
    if len(parts) != 2:
        return None
    above, below = (unit_of(part) for part in parts)
    if above is None or below is None:
        return None
    unit = product_of([above, power_of(below, -1)])
    nouns = [above.noun, "per " + below.noun if below.noun else ""]
    return replace(unit, noun=" ".join(filter(None, nouns)))


# what is counted


def _noun(text: str) -> Unit | None:
    """Return a counted thing as a unit, or None if the phrase may carry meaning of its own."""
    noun = _noun_name(text)
    if noun is None or all(len(word) < 3 for word in noun.split()):
        return None
    return Unit(Fraction(1), noun=noun)


def _noun_name(text: str) -> str | None:
    """Return a noun phrase in small letters, its last word singular; None if the words may change the value."""
    words = re.findall(r"[A-Za-z]+", text.lower())
    if not words or len(words) > 6:
        return None
    if any(word in _NOT_NOUNS for word in words):
        return None
    if not re.fullmatch(r"[A-Za-z' -]+", text):
        return None
    return " ".join([*words[:-1], _singular(words[-1])])


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
