"""The one "did you mean": a misspelt name gets the nearest known one."""

from __future__ import annotations

import difflib
from typing import Iterable

__all__ = ["nearest"]


def nearest(word: str, names: Iterable[str]) -> str:
    """A hint to append to an error message; empty where no name is close.

    >>> nearest("group_sise", ["group_size", "steps"])
    '; did you mean group_size?'
    >>> nearest("colour", ["group_size", "steps"])
    ''
    """
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
