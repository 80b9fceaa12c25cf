"""Time that a reward spends on loading something heavy, which its deadline must not count.

A reward that loads on first use wraps that in ``with loading():``. A worker announces both ends to the process that
watches its clock; everywhere else nothing happens.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator

__all__ = ["announce_to", "loading"]

_listeners: list[Callable[[bool], None]] = []


def announce_to(listener: Callable[[bool], None]) -> None:
    """Call ``listener(True)`` whenever a reward starts to load something, ``listener(False)`` when it is done."""
    _listeners.append(listener)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Mark the body as loading, not judging."""
    for listener in _listeners:
        listener(True)
    try:
        yield
    finally:
        for listener in _listeners:
            listener(False)
