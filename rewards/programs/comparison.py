"""Compares what a program printed or returned with what was expected. Runs in the trusted process, so work is bounded.

Values stay in the form of ``rewards.sandbox.messages`` and are never turned into objects: nothing from the candidate is
hashed, compared by its own methods, or converted at a cost that grows faster than its size.
"""

from __future__ import annotations

import decimal
import math
import re
from typing import Any, Callable, Mapping

__all__ = ["COMPARISONS", "same_output", "same_value"]

LONGEST_NUMBER = 400
TOLERANCE = 1e-6
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)


# ------------------------------------------------------------------------------------------- printed text


def _lines(text: str) -> list[str]:
    """The lines without trailing white space; empty lines at the end are dropped."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _decimal(text: str) -> decimal.Decimal | None:
    if len(text) > LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    return decimal.Decimal(text)


def _same_token(got: str, wanted: str, tolerance: float) -> bool:
    if got == wanted:
        return True
    if wanted.lstrip("+-").isdigit() and not tolerance:
        return False
    value = _decimal(got)
    expected = _decimal(wanted)
    if value is None or expected is None:
        return False
    if not tolerance or not any(mark in wanted for mark in ".eE"):
        return value == expected
    allowed = decimal.Decimal(tolerance) * max(decimal.Decimal(1), abs(expected))
    return abs(value - expected) <= allowed


def _same_tokens(got: str, wanted: str, tolerance: float) -> bool:
    ours = _lines(got)
    theirs = _lines(wanted)
    if len(ours) != len(theirs):
        return False
    for line, other in zip(ours, theirs):
        tokens = line.split()
        expected = other.split()
        if len(tokens) != len(expected):
            return False
        if not all(_same_token(token, want, tolerance) for token, want in zip(tokens, expected)):
            return False
    return True


COMPARISONS: Mapping[str, Callable[[str, str, float], bool]] = {
    "exact": lambda got, wanted, tolerance: got == wanted,
    "lines": lambda got, wanted, tolerance: _lines(got) == _lines(wanted),
    "tokens": lambda got, wanted, tolerance: _same_tokens(got, wanted, 0.0),
    "floats": _same_tokens,
    "unordered": lambda got, wanted, tolerance: sorted(_lines(got)) == sorted(_lines(wanted)),
}
"""exact: byte for byte; lines: without trailing space; tokens: of each line; floats: the same, but tokens that the
expected output writes as decimals may differ by the tolerance; unordered: lines in any order."""


def same_output(
    got: bytes, wanted: str, comparison: str = "floats", tolerance: float = TOLERANCE
) -> bool:
    r"""Whether a program's output is the expected one.

    >>> same_output(b"3.1415926\n", "3.14159265"), same_output(b"1 2\n3\n", "1 2"), same_output(b"5", "6")
    (True, False, False)
    """
    try:
        text = got.decode()
    except UnicodeDecodeError:
        return False
    try:
        return COMPARISONS[comparison](text, wanted, tolerance)
    except decimal.DecimalException:
        return False


# ----------------------------------------------------------------------------------------- returned values


def same_value(got: Any, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether a returned value, as it was received, equals an expected one that was read from JSON.

    Tuples count as lists, as data sets write them; a float may differ by the relative tolerance; a bool is not a
    number. Sets and objects of the candidate equal nothing.

    >>> same_value({"t": [1, {"f": "inf"}]}, [1, float("inf")]), same_value(True, 1)
    (True, False)
    """
    if type(got) is dict:
        return _same_tagged(got, wanted, tolerance)
    if type(got) is list:
        return _same_items(got, wanted, tolerance)
    if type(got) is bool or type(wanted) is bool or got is None or type(got) is str:
        return type(got) is type(wanted) and got == wanted
    if type(wanted) is float or type(got) is float:
        return _same_number(got, wanted, tolerance)
    return type(wanted) is int and got == wanted


def _same_items(got: list[Any], wanted: Any, tolerance: float) -> bool:
    if type(wanted) not in (list, tuple) or len(got) != len(wanted):
        return False
    return all(same_value(item, want, tolerance) for item, want in zip(got, wanted))


def _same_number(got: Any, wanted: Any, tolerance: float) -> bool:
    if type(wanted) not in (int, float) or type(got) not in (int, float):
        return False
    try:
        return got == wanted or math.isclose(
            got, wanted, rel_tol=tolerance, abs_tol=tolerance * 1e-3
        )
    except OverflowError:
        return False


def _same_tagged(got: dict[str, Any], wanted: Any, tolerance: float) -> bool:
    if len(got) != 1:
        return False
    ((tag, body),) = got.items()
    if tag == "t" and type(body) is list:
        return _same_items(body, wanted, tolerance)
    if tag == "d" and type(body) is list:
        return _same_mapping(body, wanted, tolerance)
    if tag == "i":
        return type(wanted) is int and type(body) is str and hex(wanted) == body
    if tag == "np":
        return (
            type(body) is dict and "value" in body and same_value(body["value"], wanted, tolerance)
        )
    if tag == "f":
        return type(wanted) is float and body in ("nan", "inf", "-inf") and repr(wanted) == body
    return False


def _same_mapping(pairs: list[Any], wanted: Any, tolerance: float) -> bool:
    """Keys are compared as text, since JSON has no others; each wanted key must occur once."""
    if type(wanted) is not dict or len(pairs) != len(wanted):
        return False
    left = {str(key): value for key, value in wanted.items()}
    for pair in pairs:
        if (
            type(pair) is not list
            or len(pair) != 2
            or type(pair[0]) not in (str, int, float, bool, type(None))
        ):
            return False
        key = pair[0] if type(pair[0]) is str else str(pair[0])
        if key not in left or not same_value(pair[1], left.pop(key), tolerance):
            return False
    return not left
