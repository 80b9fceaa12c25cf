"""The interval of a ratio of sums: a mean per token of rows that have several tokens each.

The rows are what was drawn, so the error is that between rows: the sums' ratio is linear in them to first order
(W. G. Cochran, Sampling Techniques, 3rd edition, section 6.4).
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy

from grpo.statistics.distributions import t_quantile
from grpo.statistics.intervals import LEVEL, NOTHING, Interval


def ratio_interval(
    sums: Sequence[float], counts: Sequence[float], level: float = LEVEL
) -> Interval:
    """``sum(sums) / sum(counts)`` with its interval for new rows; one row alone bounds nothing.

    Raises `ValueError` unless each row has a sum and a count above 0.
    """
    totals = numpy.asarray(sums, dtype=numpy.float64)
    numbers = numpy.asarray(counts, dtype=numpy.float64)
    if len(totals) != len(numbers) or (len(numbers) and numbers.min() <= 0):
        raise ValueError("ratio_interval: each row needs a sum and a count above 0")
    if not len(totals):
        return NOTHING
    ratio = float(totals.sum() / numbers.sum())
    number = len(totals)
    if number == 1:
        return Interval(ratio, -math.inf, math.inf)
    residuals = totals - ratio * numbers
    variance = float((residuals**2).sum()) / (number * (number - 1))
    half = t_quantile(level, number - 1) * math.sqrt(variance) / float(numbers.mean())
    return Interval(ratio, ratio - half, ratio + half)
