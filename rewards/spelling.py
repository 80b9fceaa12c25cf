"""The hint of an error message: which known name a misspelled one is closest to."""

from __future__ import annotations

import difflib
from typing import Iterable

__all__ = ["nearest"]

SIMILARITY = 0.6
"""How alike two names must be, from 0 to 1, for one to be suggested for the other."""


def nearest(word: str, names: Iterable[str]) -> str:
    """``; did you mean x?`` for the closest of `names`, or nothing; appended to an error message.

    >>> nearest("temprature", ["temperature", "top_p"])
    '; did you mean temperature?'
    >>> nearest("xyz", ["temperature", "top_p"])
    ''
    """
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""
