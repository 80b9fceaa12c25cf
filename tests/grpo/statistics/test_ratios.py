"""The interval of a ratio of sums is Student's where all counts are equal, and covers where they are not."""

from __future__ import annotations

import math
import random

import numpy
import pytest

from grpo.statistics.distributions import t_quantile
from grpo.statistics.ratios import ratio_interval


def test_with_equal_counts_it_is_students_interval_of_the_mean() -> None:
    sums = [3.0, 5.0, 4.5, 9.0]
    found = ratio_interval(sums, [2, 2, 2, 2])
    means = numpy.array(sums) / 2
    half = t_quantile(0.95, 3) * means.std(ddof=1) / math.sqrt(4)
    assert (found.value, found.low, found.high) == pytest.approx(
        (means.mean(), means.mean() - half, means.mean() + half)
    )


def test_it_holds_the_true_ratio_as_often_as_it_says(seed: int) -> None:
    """Long rows are the easier ones, so that the mean of the rows' means is another number."""
    rng = random.Random(seed)
    held = 0
    for _ in range(400):
        counts = [rng.choice([5, 20, 80]) for _ in range(60)]
        sums = [n * (0.5 + 10 / n) * rng.uniform(0.5, 1.5) for n in counts]
        found = ratio_interval(sums, counts)
        truth = (0.5 * 35 + 10) / 35  # E[sum] / E[count]
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_one_row_bounds_nothing_and_none_gives_none() -> None:
    assert ratio_interval([3.0], [2]).low == -math.inf
    assert math.isnan(ratio_interval([], []).value)
    with pytest.raises(ValueError, match="a count above 0"):
        ratio_interval([1.0], [0])
