"""The argument ``--port`` of commands that listen."""

from __future__ import annotations

import argparse

LARGEST = 65_535


def port(text: str) -> int:
    """A port's number; 0 takes any that is free."""
    if not (text.isdecimal() and int(text) <= LARGEST):
        raise argparse.ArgumentTypeError(f"{text} is no port; ports are 0 to {LARGEST}")
    return int(text)
