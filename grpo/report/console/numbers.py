"""Numbers as a person reads them: clocks, rates, shares, sparklines."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence


def clock(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``.

    >>> clock(7.9), clock(754), clock(3723)
    ('0:07', '12:34', '1:02:03')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def rough_time(seconds: float) -> str:
    """About how long, without false precision.

    >>> rough_time(3), rough_time(48), rough_time(750), rough_time(9000), rough_time(300000)
    ('3 s', '50 s', '12 min', '2.5 h', '3.5 days')
    """
    if seconds < 10:
        return f"{seconds:.0f} s"
    if seconds < 100:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def short(number: float) -> str:
    """Three digits and a unit.

    >>> short(87), short(1834), short(25100), short(3.2e6)
    ('87', '1.8k', '25k', '3.2M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{number:.0f}"


def seconds_of_step(seconds: float) -> str:
    """``0.52``, ``4.1``, ``210``: three figures."""
    if seconds < 1:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(share: float) -> str:
    """``33.5 %``."""
    return f"{100 * share:.1f} %"


def interval(result: Mapping[str, Any]) -> str:
    """``41.2 % [38.0, 44.5]`` of an evaluation's ``accuracy``, ``low`` and ``high``."""
    if not is_number(result["accuracy"]):
        return "nothing scored"
    accuracy, low, high = (100 * result[key] for key in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]"


def sparkline(values: Sequence[float], width: int, levels: str) -> str:
    """The course of `values` in at most `width` characters of `levels`, from the lowest value to the highest.

    >>> sparkline([0, 1, 2, 3], 4, "_.-=")
    '_.-='
    """
    points = _binned([value for value in values if is_number(value)], width)
    if not points:
        return ""
    low = min(points)
    spread = max(points) - low
    top = len(levels) - 1
    if not spread:
        return levels[top // 2] * len(points)
    return "".join(levels[round((point - low) / spread * top)] for point in points)


def _binned(values: Sequence[float], width: int) -> list[float]:
    """Means over equal shares of `values`, at most `width` of them."""
    number = len(values)
    if number <= width:
        return list(values)
    edges = [index * number // width for index in range(width + 1)]
    bins = [values[start:end] for start, end in zip(edges, edges[1:])]
    return [sum(part) / len(part) for part in bins]
