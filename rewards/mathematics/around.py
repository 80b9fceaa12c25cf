r"""What belongs to a number in prose: the unit or the noun behind it, and the larger units in front of it.

"She has 12 apples" states 12 apples, "he walks 3 h and 20 min" states 3 h 20 min, never 20 min.
"""

from __future__ import annotations

import re

from rewards.mathematics.measures import measure_of
from rewards.mathematics.unit_tokens import unit_after
from rewards.mathematics.units import Unit, unit_of

__all__ = ["quantities_before", "measures", "unit_or_noun_after"]

MAX_BEFORE = 80
_ANGLE = (("degree", 1),)
_TIME = (("s", 1),)
_NOUN = re.compile(r"\s+(?P<noun>[a-z]{2,20}s|people|children|men|women|mice|geese)(?![\w'-])")
_ENDS_IN_DIGIT = re.compile(r"\d[\s$*)}\]\\]*$")
_SCALE = re.compile(r"\s+(?P<word>hundred|thousand|million|billion|trillion|dozen)(?![\w'-])")
_CLOCK = re.compile(r"(?<![\d.,:/])(?:1[0-2]|0?[1-9])(?::[0-5]\d){0,2}[\s$*)}]*$")
_NO_HOUR = re.compile(r"(?<![\d:.,])\d{2,}(?:\.\d+)?[\s$*)}]*$")
_PICOMETRES = re.compile(r"\s?pm(?!\w)")
_HALF_OF_DAY = re.compile(
    r"\s?(?:(?P<half>[ap])m|(?P<dotted>[ap])\.\s?m\b\.?)(?!\w)", re.IGNORECASE
)
_NO_NOUNS = frozenset(
    "is was has does goes gives makes equals works divides remains satisfies means plus minus yields leaves "
    "holds follows becomes comes exceeds contains this thus as its his hers ours yours theirs yes us less "
    "unless always perhaps besides afterwards towards costs fits fails solves matches agrees stays appears "
    "occurs happens needs takes gets seems adds sums totals times others various numerous units".split()
)
_LARGER = re.compile(
    r"(?:(?<![\w.,/$])\d[\d,]*(?:\.\d+)?[\s-]?(?P<unit>[A-Za-z]{1,14})\.?|(?P<money>\\?\$\d[\d,]*))(?:\s*,?\s+and|,)?\s*$"
)
_COUNTED = re.compile(r"(?<![\w.,/$])\d[\d,]*\s+[a-z]{2,20}s\s*(?:,\s*and|,|and)\s*$")
_DELIMITED_NUMBER = re.compile(r"(?<!\\)\$(\d[\d.,]*)\$")


def unit_or_noun_after(text: str, position: int, is_scaled: bool = False) -> str:
    """Return the unit of measurement, "am" or "pm", or plural behind a number in prose; empty if none is there."""
    half = _HALF_OF_DAY.match(text, position)
    if half is not None and _CLOCK.search(text[max(0, position - 16) : position]):
        return f" {half['half'] or half['dotted']}m"
    if _PICOMETRES.match(text, position) and _NO_HOUR.search(
        text[max(0, position - 16) : position]
    ):
        return " picometers"
    scale = _SCALE.match(text, position)
    if scale is not None and _ENDS_IN_DIGIT.search(text[max(0, position - 8) : position]):
        return f" {scale['word']}" + unit_or_noun_after(text, scale.end(), is_scaled=True)
    unit = unit_after(text, position)
    noun = _NOUN.match(text, position)
    if (
        unit
        or noun is None
        or not (is_scaled or _ENDS_IN_DIGIT.search(text[max(0, position - 8) : position]))
    ):
        return unit
    named = unit_of(noun["noun"])
    if noun["noun"] in _NO_NOUNS or named is None or not named.is_noun:
        return ""
    return f" {noun['noun']}"


def measures(unit: str) -> bool:
    """Tell whether a text is a unit of measurement, not a counted thing."""
    return _dimensioned(unit) is not None


def quantities_before(text: str, unit: str) -> str:
    """Return the end of `text` that a number with `unit` goes on: "3 h and " before "20 min", "12 apples and "."""
    smaller = _dimensioned(unit)
    counted = _COUNTED.search(text[-MAX_BEFORE:]) if smaller is None and unit else None
    if counted is not None:
        return counted.group()
    text = _DELIMITED_NUMBER.sub(r"\1", text[-MAX_BEFORE:])
    start = len(text)
    while smaller is not None:
        part = _LARGER.search(text[:start])
        larger = None if part is None else _dimensioned(part["unit"] or "dollar")
        if part is None or larger is None or not _continues(larger, smaller):
            break
        start = part.start()
        smaller = larger
    return text[start:]


def _continues(larger: Unit, smaller: Unit) -> bool:
    """Tell whether the second unit goes on measuring what the first does, as minutes do behind degrees."""
    if larger.dimensions == _ANGLE and smaller.dimensions == _TIME:
        return smaller.factor <= 60
    return larger.dimensions == smaller.dimensions and larger.factor > smaller.factor


def _dimensioned(text: str) -> Unit | None:
    name = text.strip()
    single = measure_of(name)
    if single is not None:
        return Unit(single.factor, single.dimensions, single.offset)
    unit = unit_of(name) if name else None
    return None if unit is None or not unit.dimensions else unit
