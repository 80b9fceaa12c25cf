r"""The value that stands in front of a unit: ``12`` of ``12 \mathrm{~cm}^{2}``.

For checks of data only: an answer without its unit must score what the one with it does. The unit need not be one that
the comparison knows, so that a unit which cannot be read is found.
"""

from __future__ import annotations

import re

from rewards.mathematics.tokens import MULTIPLIERS
from rewards.mathematics.units import unit_of
from rewards.mathematics.words import plain_words

__all__ = ["bare_value"]

_NUMBER = r"-?(?:\d{1,3}(?:(?:,|\{,\}|\\[,!])\d{3})+|\d+)?(?:\.\d+)?"
_VALUE = re.compile(
    r"\s*\$?\s*(?P<value>-?\\[dt]?frac\s*\{-?\d+\}\s*\{\d+\}"
    rf"|{_NUMBER}(?:\s*\\(?:times|cdot)\s*10\^(?:\{{-?\d+\}}|\d))?)(?P<unit>.*)",
    re.DOTALL,
)
_SET_APART = re.compile(r"\\(?:mathrm|text|textrm|mbox|operatorname|rm|unit|si)(?![A-Za-z])")
_ALTERS = re.compile(
    r"[=<>+\u00b1]|\\(?:pm|le|ge|leq|geq|lt|gt|approx|in|cup|frac|sqrt|pi|quad)(?![A-Za-z])|,|;"
)
_POWER = re.compile(r"\^\s*\{?\s*-?\d\s*\}?|[\u00b2\u00b3]")
_CONNECTS = frozenset("and or if when for where mod base to of".split())


def bare_value(text: str) -> str | None:
    """Return the number in front of a unit or a counted thing, or None if the text is no number with a unit."""
    match = _VALUE.fullmatch(text.strip().strip("$").strip())
    if match is None or not match["value"].strip("-"):
        return None
    unit = match["unit"].rstrip("$. ")
    if not unit.strip(" ~$") or _ALTERS.search(unit) or re.search(r"\d", _POWER.sub("", unit)):
        return None
    words = re.findall(r"[A-Za-z]+", plain_words(unit).lower())
    if (
        not words
        or not _CONNECTS.isdisjoint(words[:1])
        or any(word in MULTIPLIERS for word in words)
    ):
        return None
    if _SET_APART.search(unit) is None and unit_of(plain_words(unit)) is None:
        return None
    if _SET_APART.search(unit) is None and len(words[0]) < 2:
        return None
    return match["value"]
