"""Whether one model is better than another on the same prompts: the paired difference, its interval and p-value.

Both are of *new prompts*, of the kind that these were drawn from. Pairing takes the difficulty of a prompt out: only
what differs within prompts counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy

from grpo.statistics.distributions import normal_p_value, normal_quantile
from grpo.statistics.intervals import LEVEL, PRIOR_SUCCESSES
from rewards.spelling import many


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second mean minus the first over the same `prompts`, with bounds, and the two-sided p-value of no difference.

    ``better`` and ``worse`` count the prompts where the second is above and below the first.
    """

    difference: float
    low: float
    high: float
    p_value: float
    prompts: int
    better: int
    worse: int


NOTHING = Comparison(
    difference=math.nan,
    low=math.nan,
    high=math.nan,
    p_value=math.nan,
    prompts=0,
    better=0,
    worse=0,
)


def compare(
    first: Sequence[float],
    second: Sequence[float],
    level: float = LEVEL,
    largest: float | None = 1.0,
) -> Comparison:
    """The paired comparison of two models by one mean a prompt, in the same order; `ValueError` if the lengths differ.

    `largest` is the greatest possible difference of a prompt; None: the greatest seen.

    The score test of a mean difference of 0, with one prompt's worth of difference added in each direction. For
    accuracies of one sample a prompt it is McNemar's test with both counts raised by one in the variance, close to the
    exact one (5 prompts to 0: p = 0.059, exactly 0.0625). The interval adds the same two prompts (Bonett and Price
    2012).
    """
    if len(first) != len(second):
        raise ValueError(f"compare: {many(len(first), 'prompt')} against {len(second)}")
    differences = numpy.asarray(second, dtype=float) - numpy.asarray(first, dtype=float)
    number = len(differences)
    if not number:
        return NOTHING
    unit, squares = _unit_and_squares(differences, largest)
    total = float(differences.sum())
    statistic = total / math.sqrt(squares + 2 * unit**2) if squares else 0.0
    low, high = _bounds(total, squares + 2 * unit**2, number + 2, level)
    return Comparison(
        difference=total / number,
        low=low,
        high=high,
        p_value=normal_p_value(statistic),
        prompts=number,
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
    )


def _unit_and_squares(differences: numpy.ndarray, largest: float | None) -> tuple[float, float]:
    """(how far prompts differ that do, the sum of squared differences).

    With few differing prompts both are drawn towards their greatest, a whole prompt won or lost.
    """
    sizes = numpy.abs(differences)
    largest = float(sizes.max()) if largest is None else largest
    total = float(sizes.sum())
    squares = float((sizes**2).sum())
    if total == 0:
        return largest, 0.0
    effective = total * total / squares
    unit = (effective * squares / total + PRIOR_SUCCESSES * largest) / (effective + PRIOR_SUCCESSES)
    return unit, unit * total


def _bounds(total: float, squares: float, number: int, level: float) -> tuple[float, float]:
    """The differences that the score test does not refuse, for a sum and a sum of squares over `number` prompts."""
    mean = total / number
    variance = max(0.0, squares / number - mean * mean)
    square = min(normal_quantile(level) ** 2 / number, 0.9)
    half = math.sqrt(variance * square / (1 - square))
    return mean - half, mean + half
