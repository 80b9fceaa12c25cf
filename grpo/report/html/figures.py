"""Numbers as people read them: the filters of the template."""

from __future__ import annotations

from typing import Any, Callable, Mapping

MINUS = "\u2212"
THIN = "\u202f"
NOTHING = "–"


def percent(value: float | None, digits: int = 1) -> str:
    r"""A share in percent.

    >>> percent(0.60058), percent(None)
    ('60.1\u202f%', '–')
    """
    return NOTHING if value is None else f"{_signed(100 * value, digits)}{THIN}%"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NOTHING if value is None else _signed(100 * value, digits, plus=True)


def plain(value: float | None, digits: int = 3) -> str:
    """A number of so many significant digits."""
    return NOTHING if value is None else f"{value:.{digits}g}".replace("-", MINUS)


def amount(value: float | None) -> str:
    """A reward: three decimals, or of a large one four digits.

    >>> amount(0.37), amount(1234.5)
    ('0.370', '1234')
    """
    if value is None:
        return NOTHING
    return _signed(value, 3) if abs(value) < 100 else plain(value, 4)


def fixed(value: float | None, digits: int) -> str:
    """A number of so many decimals."""
    return NOTHING if value is None else _signed(value, digits)


def change(value: float | None) -> str:
    """A difference of rewards, with its sign."""
    return NOTHING if value is None else _signed(value, 3, plus=True)


def count(value: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(15360)
    '15,360'
    """
    return NOTHING if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    r"""A large number in three digits.

    >>> short(650209), short(1.2e9), short(512)
    ('650\u202fk', '1.2\u202fG', '512')
    """
    if value is None:
        return NOTHING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{THIN}{unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    r"""Seconds as hours, minutes or seconds.

    >>> duration(140.1), duration(7260), duration(3.14)
    ('2\u202fmin 20\u202fs', '2\u202fh 01\u202fmin', '3.1\u202fs')
    """
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{THIN}h {minutes:02d}{THIN}min"


def times(value: float | None) -> str:
    """A factor.

    >>> times(2.0), times(None)
    ('× 2.0', '–')
    """
    return NOTHING if value is None else f"× {value:.2g}" if value < 0.1 else f"× {value:,.1f}"


def flat(text: str, most: int) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most and len(text) <= most else line[:most] + " …"


def _signed(value: float, digits: int, plus: bool = False) -> str:
    text = f"{abs(value):.{digits}f}"
    is_zero = not float(text)
    sign = "" if is_zero else MINUS if value < 0 else "+" if plus else ""
    return sign + text


FILTERS: Mapping[str, Callable[..., Any]] = {
    "percent": percent,
    "points": points,
    "plain": plain,
    "fixed": fixed,
    "amount": amount,
    "change": change,
    "count": count,
    "short": short,
    "duration": duration,
    "times": times,
    "flat": flat,
}
