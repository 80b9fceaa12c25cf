"""Rewards that fail, each in one of the ways in which a user's may."""

from __future__ import annotations

import os
import time


def raises(text: str) -> float:
    """An error inside the reward."""
    raise KeyError("no such column")


def not_a_number(text: str) -> float:
    """A value that no mean survives."""
    return float("nan")


def hangs(text: str) -> float:
    """Never ends by itself."""
    time.sleep(3600)
    return 1.0


def dies(text: str) -> float:
    """Takes its process down."""
    os._exit(1)


def right(text: str) -> float:
    """Does what it should; its neighbours are those above."""
    return 1.0
