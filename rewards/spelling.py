"""Words of messages: the known name nearest to a misspelled one, and nouns and verbs that agree with a count."""

from __future__ import annotations

import difflib
from typing import Iterable, Mapping

__all__ = ["agree", "many", "nearest"]

SIMILARITY = 0.6
"""How alike two names must be, from 0 to 1, for one to be suggested for the other."""


HISSING = ("s", "x", "z", "ch", "sh")
"""What nouns and verbs end in that take -es."""
SINGULAR: Mapping[str, str] = {"are": "is", "have": "has", "were": "was", "do": "does"}


def nearest(word: str, names: Iterable[str]) -> str:
    """``; did you mean x?`` for the closest of `names`, or nothing; appended to an error message.

    >>> nearest("temprature", ["temperature", "top_p"])
    '; did you mean temperature?'
    >>> nearest("xyz", ["temperature", "top_p"])
    ''
    """
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


def many(number: int, noun: str) -> str:
    """A count with its noun.

    >>> many(1, "step"), many(0, "training prompt"), many(2, "process")
    ('1 step', '0 training prompts', '2 processes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {_with_s(noun)}"


def agree(number: int, verb: str) -> str:
    """The form of a verb, given as for many, that goes with so many.

    >>> agree(2, "have"), agree(1, "have"), agree(1, "occur"), agree(1, "pass")
    ('have', 'has', 'occurs', 'passes')
    """
    return verb if number != 1 else SINGULAR.get(verb) or _with_s(verb)


def _with_s(word: str) -> str:
    return word + ("es" if word.endswith(HISSING) else "s")
