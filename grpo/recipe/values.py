"""What a single value of a recipe may be: checks of its range, and the words that messages use for values.

Types are checked where sections are built (``build``), and rules between keys in ``constraints``.
"""

from __future__ import annotations

import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Callable, Mapping
from urllib.parse import urlsplit

from rewards.spelling import nearest

TEMPLATES = ("r1", "chat", "plain", "auto")
LARGEST_SEED = 2**63 - 1
KINDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says where, what is wrong, and what would work."""


@dataclass(frozen=True)
class Check:
    """What a value must be: a test, the requirement in words, and the names that a typo may have meant."""

    passes: Callable[[Any], bool]
    requirement: str
    names: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        """``must be at least 1`` if `value` fails, else None."""
        if self.passes(value):
            return None
        return self.requirement + nearest(str(value), self.names)


def at_least(low: float) -> Check:
    return Check(lambda value: value >= low, f"must be at least {low}")


def above(low: float) -> Check:
    return Check(lambda value: value > low, f"must be above {low}")


def between(low: float, high: float) -> Check:
    return Check(lambda value: low <= value <= high, f"must lie between {low} and {high}")


def from_below(low: float, high: float) -> Check:
    return Check(lambda value: low <= value < high, f"must be at least {low} and below {high}")


def off_or_above(low: float) -> Check:
    return Check(lambda value: value == 0 or value > low, f"must be 0 (off) or above {low}")


def one_of(*names: str) -> Check:
    return Check(lambda value: value in names, f"must be one of {', '.join(names)}", names)


def _are_caps(value: Mapping[Any, Any]) -> bool:
    """Whether whole numbers from 0 lead to whole numbers from 1."""
    numbers = [*value, *value.values()]
    is_whole = all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
    return is_whole and min(value) >= 0 and min(value.values()) >= 1


def is_price(value: Any) -> bool:
    """Whether `value` is a number that something may cost."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def _is_address(value: Any) -> bool:
    """Whether `value` is the URL of a server."""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    is_plain = not parts.query and not parts.fragment and parts.username is None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and has_port and is_plain


ADDRESSES = Check(
    lambda value: all(map(_is_address, value)),
    "must be addresses of servers, e.g. [http://127.0.0.1:8000]",
)
SHARE = Check(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
NOT_EMPTY = Check(lambda value: bool(value.strip()), "must not be empty")
MODULES = Check(
    lambda value: all(isinstance(name, str) and name.isidentifier() for name in value),
    "must be names of packages as they are imported, e.g. [numpy]",
)
CAPS = Check(
    lambda value: not value or (_are_caps(value) and min(value) <= 1),
    "must map steps, the first of them 0, to whole numbers of tokens, e.g. {0: 512, 8200: 1024}",
)
TEMPLATE = Check(
    lambda value: value in TEMPLATES or "{prompt}" in value,
    f"must be {', '.join(TEMPLATES)} or a string with {{prompt}} in it",
    TEMPLATES,
)


def kind(value: Any) -> str:
    """`value` as a message names it: ``the text 'x'``, ``a list``, ``nothing``, ``true``, ``3``."""
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def in_quotes(value: Any) -> str:
    """``; write "5" in quotes`` for a number or a truth value where text was wanted, or nothing."""
    if isinstance(value, (bool, int, float)):
        return f'; write "{str(value).lower()}" in quotes'
    return ""


def dotted(where: str, name: Any) -> str:
    """The full name of the key `name` in the section `where`."""
    return f"{where}.{name}" if where else str(name)


def options_of(hint: Any) -> tuple[type, ...]:
    """The classes that a field's type allows: ``list[str] | None`` allows list and NoneType."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)
