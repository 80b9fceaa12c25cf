r"""Numbers as people write them, read without a parser: the fast path of comparing answers.

Covers integers, decimals, fractions ``a/b`` and ``\\frac{a}{b}``, thousands separators, percent signs and
currency. Everything else is None here and goes to ``rewards.mathematics.latex``. Also holds the rules for comparing
decimals with exact numbers, which the slower path shares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["PlainNumber", "rational_agrees", "read_plain_number", "rounds_to", "significant_digits"]

MAX_LENGTH = 2000
ROUNDING_DIGITS = 8
GOLD_DIGITS = 2
MEASUREMENT_TOLERANCE = Fraction(2, 1000)

_PLAIN = re.compile(
    r"(?P<sign>[-+\u2212\u2013])?\s*(?P<money>\\?\$|\u20ac|\u00a3)?\s*(?P<inner>[-\u2212])?\s*"
    r"(?:\\[dtc]?frac\{(?P<sign2>-)?(?P<top>\d+)\}\{(?P<bottom>\d+)\}"
    r"|\\[dt]?frac(?P<top1>\d)(?P<bottom1>\d)"
    r"|(?P<whole>[1-9]\d{0,2}(?:(?:,|\{,\}\s?|,?\\[,!]\s?|\\[; ]|\u202f|\u00a0|\u2009)\d{3})+(?!\d)|\d*)"
    r"(?:\.(?P<decimals>\d*))?(?:\s*/\s*(?P<over>\d+))?)"
    r"\s*(?P<unit>\\?%|\\?\$|\u20ac|\u00a3)?"
)
_SEPARATORS = re.compile(r"[^\d]")


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number: its exact value as written, the decimals shown (None if not a decimal), percent sign, currency sign."""

    value: Fraction
    places: int | None = None
    percent: bool = False
    money: str = ""


def read_plain_number(text: str) -> PlainNumber | None:
    """Return the number that `text` writes out, or None if it is anything else or too long."""
    match = _PLAIN.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    groups = match.groupdict()
    value = _magnitude(groups)
    if value is None:
        return None
    is_negative = groups["sign"] in ("-", "\u2212", "\u2013")
    is_negative ^= bool(groups["inner"])
    is_negative ^= bool(groups["sign2"])
    unit = groups["unit"] or ""
    currency = groups["money"] or unit.rstrip("%")
    return PlainNumber(
        value=-value if is_negative else value,
        places=len(groups["decimals"]) if groups["decimals"] else None,
        percent=unit.endswith("%"),
        money=currency.lstrip("\\"),
    )


def _magnitude(groups: dict[str, str | None]) -> Fraction | None:
    """Return the unsigned value of a match, or None if it has no digit or a denominator of 0."""
    top = groups["top"] or groups["top1"]
    if top:
        bottom = int(groups["bottom"] or groups["bottom1"] or 0)
        if bottom:
            return Fraction(int(top), bottom)
        return None
    whole = _SEPARATORS.sub("", groups["whole"] or "")
    decimals = groups["decimals"] or ""
    has_point = groups["decimals"] is not None
    if not whole + decimals:
        return None
    if groups["over"] and has_point:
        return None
    over = int(groups["over"] or 1)
    if over == 0:
        return None
    return Fraction(int(whole + decimals), over * 10 ** len(decimals))


def significant_digits(value: Fraction, places: int) -> int:
    """Return how many significant digits a decimal with this many decimals shows."""
    return len(str(abs(value.numerator * 10**places // value.denominator)).lstrip("0"))


def rounds_to(exact: Fraction, decimal: Fraction, places: int) -> bool:
    """Tell whether `exact`, rounded to `places` decimals, is `decimal`; both neighbours of a tie count."""
    return abs(exact - decimal) * 2 * 10**places <= 1


def rational_agrees(pred: PlainNumber, gold: PlainNumber, lenient: bool) -> bool:
    """Tell whether two numbers agree under the percent and rounding rules (see docs/math_equality.md)."""
    is_money = bool(pred.money or gold.money)
    if pred.money and gold.money and pred.money != gold.money:
        return False
    if _close(pred, gold, lenient, is_money):
        return True
    if pred.percent == gold.percent:
        return False
    if pred.percent:
        return _close(_hundredths(pred), gold, lenient, is_money=False)
    return _close(pred, _hundredths(gold), lenient, is_money=False)


def _hundredths(percentage: PlainNumber) -> PlainNumber:
    """Return a percentage as a fraction of one, with the decimals that it then shows."""
    places = None if percentage.places is None else percentage.places + 2
    return PlainNumber(percentage.value * Fraction(1, 100), places)


def _close(pred: PlainNumber, gold: PlainNumber, lenient: bool, is_money: bool) -> bool:
    """Compare two values under the rounding rules alone."""
    if pred.value == gold.value:
        return True
    gold_is_integer = gold.value.denominator == 1
    if pred.places is not None and gold.places is None and not gold_is_integer:
        num_digits = significant_digits(pred.value, pred.places)
        return num_digits >= ROUNDING_DIGITS and rounds_to(gold.value, pred.value, pred.places)
    if not lenient or gold.places is None:
        return False
    num_digits = significant_digits(gold.value, gold.places)
    is_rounded = num_digits >= GOLD_DIGITS and rounds_to(pred.value, gold.value, gold.places)
    if is_rounded and (pred.places is None or pred.places > gold.places):
        return True
    if gold_is_integer or is_money:
        return False
    return abs(pred.value - gold.value) <= MEASUREMENT_TOLERANCE * abs(gold.value)
