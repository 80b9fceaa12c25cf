"""What the commands share: a parser that reports a mistake in one line, and types of arguments.

Imports nothing heavy, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NoReturn

__all__ = ["EXIT_USER", "OneLineParser", "json_object"]

EXIT_USER = 2


class OneLineParser(argparse.ArgumentParser):
    """Reports a usage error in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Print the user's mistake and exit."""
        self.exit(EXIT_USER, f"{self.prog}: {message}; --help lists the arguments\n")


def json_object(text: str) -> dict[str, Any]:
    """The type of an argument that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
