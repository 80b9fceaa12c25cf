"""Numbers as people write them, read without a parser: the fast path of comparing answers.

Covers integers, decimals, fractions ``a/b`` and ``\\frac{a}{b}``, thousands separators, percent signs and
currency. Everything else is None here and goes to ``rewards.mathematics.latex``. Also holds the rules for comparing
decimals with exact numbers, which the slower path shares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["PlainNumber", "rational_agrees", "read_plain_number", "rounds_to", "significant_digits"]

MOST_DIGITS = 2000
ROUNDING_DIGITS = 8
GOLD_DIGITS = 2
MEASUREMENT_TOLERANCE = Fraction(2, 1000)

_PLAIN = re.compile(
    r"(?P<sign>[-+\u2212\u2013])?\s*(?P<money>\\?\$|\u20ac|\u00a3)?\s*(?P<inner>[-\u2212])?\s*"
    r"(?:\\[dtc]?frac\{(?P<sign2>-)?(?P<top>\d+)\}\{(?P<bottom>\d+)\}"
    r"|\\[dt]?frac(?P<top1>\d)(?P<bottom1>\d)"
    r"|(?P<whole>[1-9]\d{0,2}(?:(?:,|\{,\}|,?\\[,!; ]|\u202f|\u00a0|\u2009)\s?\d{3})+(?!\d)|\d*)"
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
    if len(text) > MOST_DIGITS or not (match := _PLAIN.fullmatch(text)):
        return None
    groups = match.groupdict()
    value = _magnitude(groups)
    if value is None:
        return None
    negative = [
        groups["sign"] in ("-", "\u2212", "\u2013"),
        bool(groups["inner"]),
        bool(groups["sign2"]),
    ]
    unit = groups["unit"] or ""
    return PlainNumber(
        -value if sum(negative) % 2 else value,
        len(groups["decimals"]) if groups["decimals"] else None,
        unit.endswith("%"),
        (groups["money"] or unit.rstrip("%")).lstrip("\\"),
    )


def _magnitude(groups: dict[str, str | None]) -> Fraction | None:
    """Return the unsigned value of a match, or None where no digit stands or the denominator is 0."""
    if top := groups["top"] or groups["top1"]:
        bottom = int(groups["bottom"] or groups["bottom1"] or 0)
        return Fraction(int(top), bottom) if bottom else None
    whole, decimals = _SEPARATORS.sub("", groups["whole"] or ""), groups["decimals"] or ""
    if not whole + decimals or (groups["over"] and groups["decimals"] is not None):
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
    if pred.money and gold.money and pred.money != gold.money:
        return False
    if _close(
        pred.value, pred.places, gold.value, gold.places, lenient, bool(pred.money or gold.money)
    ):
        return True
    if pred.percent == gold.percent:
        return False
    hundredth = Fraction(1, 100)
    if pred.percent:
        return _close(
            pred.value * hundredth, _shifted(pred.places), gold.value, gold.places, lenient, False
        )
    return _close(
        pred.value, pred.places, gold.value * hundredth, _shifted(gold.places), lenient, False
    )


def _shifted(places: int | None) -> int | None:
    """Return the decimals of a percentage once it is written as a fraction of one."""
    return None if places is None else places + 2


def _close(
    pred: Fraction,
    pred_places: int | None,
    gold: Fraction,
    gold_places: int | None,
    lenient: bool,
    money: bool,
) -> bool:
    """Compare two values under the rounding rules alone."""
    if pred == gold:
        return True
    if pred_places is not None and gold_places is None and gold.denominator != 1:
        return significant_digits(pred, pred_places) >= ROUNDING_DIGITS and rounds_to(
            gold, pred, pred_places
        )
    if not lenient or gold_places is None:
        return False
    rounded = significant_digits(gold, gold_places) >= GOLD_DIGITS and rounds_to(
        pred, gold, gold_places
    )
    if rounded and (pred_places is None or pred_places > gold_places):
        return True
    measured = gold.denominator != 1 and not money
    return measured and abs(pred - gold) <= MEASUREMENT_TOLERANCE * abs(gold)
