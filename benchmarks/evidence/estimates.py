"""Means over seeds with their intervals. A seed is one run, so what an interval is about is a further run."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any, Mapping, Sequence

from grpo.statistics.distributions import t_p_value, t_quantile
from grpo.statistics.intervals import LEVEL

Estimate = dict[str, Any]
"""``value``, ``low``, ``high`` and ``seeds``; the bounds are None with a single seed."""


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed with Student's 95 % interval.

    >>> found = over_seeds([0.5, 0.6, 0.7])
    >>> round(found["low"], 3), round(found["high"], 3)
    (0.352, 0.848)
    """
    number = len(values)
    mean = fmean(values)
    if number < 2:
        return {"value": mean, "low": None, "high": None, "seeds": number}
    half = t_quantile(LEVEL, number - 1) * stdev(values) / math.sqrt(number)
    return {"value": mean, "low": mean - half, "high": mean + half, "seeds": number}


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """The second minus the first over the seeds that both have, with its interval and p-value.

    >>> round(paired({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.6, 1: 0.71, 2: 0.79})["p_value"], 4)
    0.0033
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        return {"value": None, "low": None, "high": None, "seeds": 0, "p_value": None}
    differences = [second[seed] - first[seed] for seed in shared]
    return {**over_seeds(differences), "p_value": _p_value(differences)}


def _p_value(differences: Sequence[float]) -> float | None:
    """Two-sided, of no difference; None with fewer than two."""
    number = len(differences)
    if number < 2:
        return None
    spread = stdev(differences) / math.sqrt(number)
    if spread == 0:
        return float(not any(differences))
    return t_p_value(fmean(differences) / spread, number - 1)


def holm(p_values: Mapping[str, float]) -> set[str]:
    """The names whose differences count at 5 % among all of them (Holm's step-down).

    >>> sorted(holm({"a": 0.001, "b": 0.02, "c": 0.4}))
    ['a', 'b']
    """
    found: set[str] = set()
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > (1 - LEVEL) / (len(p_values) - rank):
            break
        found.add(name)
    return found


def percent(estimate: Mapping[str, Any]) -> str:
    """An estimate of a share as text; a share lies between 0 and 1, whatever Student's bounds are.

    >>> percent({"value": 0.5, "low": 0.35, "high": 0.65})
    '50.0 % [35.0, 65.0]'
    """
    return f"{_number(estimate, 100)} %{_bounds(_within(estimate, 0.0, 1.0), 100)}"


def points(estimate: Mapping[str, Any]) -> str:
    """A difference of shares as text.

    >>> points({"value": -0.012, "low": None, "high": None})
    '-1.2'
    """
    if estimate["value"] is None:
        return "unmeasured"
    return f"{100 * estimate['value']:+.1f}{_bounds(estimate, 100, sign='+')}"


def seconds(estimate: Mapping[str, Any]) -> str:
    """An estimate of seconds as text.

    >>> seconds({"value": 50.04, "low": 40.0, "high": 60.0})
    '50.0 s [40.0, 60.0]'
    """
    return f"{_number(estimate, 1)} s{_bounds(_within(estimate, 0.0, math.inf), 1)}"


def _within(estimate: Mapping[str, Any], least: float, most: float) -> dict[str, Any]:
    """The estimate with its bounds cut to where its value can lie."""
    if estimate["low"] is None:
        return dict(estimate)
    low = max(least, estimate["low"])
    return {**estimate, "low": low, "high": min(most, estimate["high"])}


def _number(estimate: Mapping[str, Any], unit: float) -> str:
    return f"{unit * estimate['value']:.1f}"


def _bounds(estimate: Mapping[str, Any], unit: float, sign: str = "") -> str:
    if estimate["low"] is None:
        return ""
    return f" [{unit * estimate['low']:{sign}.1f}, {unit * estimate['high']:{sign}.1f}]"
