"""The normal and Student's t distribution: what intervals and tests need, without scipy."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

TINY = 1e-300
NUM_TERMS = 500
NUM_HALVINGS = 100


def normal_quantile(level: float) -> float:
    """Two-sided: the number that a standard normal exceeds in size with probability ``1 - level``."""
    return NormalDist().inv_cdf((1 + level) / 2)


def normal_p_value(statistic: float) -> float:
    """Two-sided: the probability that a standard normal is at least as large as `statistic` in size."""
    return math.erfc(abs(statistic) / math.sqrt(2))


@lru_cache(maxsize=1024)
def t_quantile(level: float, degrees: float) -> float:
    """Two-sided: the number that Student's t with `degrees` > 0 exceeds in size with probability ``1 - level``."""
    low = 0.0
    high = 1.0
    while t_p_value(high, degrees) > 1 - level:
        high *= 2
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if t_p_value(middle, degrees) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def t_p_value(statistic: float, degrees: float) -> float:
    """Two-sided: the probability that Student's t with `degrees` > 0 is at least as large as `statistic` in size."""
    square = statistic * statistic
    return incomplete_beta(degrees / (degrees + square), degrees / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for 0 <= x <= 1 and a, b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction below converges slowly
        return 1 - incomplete_beta(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    factor = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta)
    return factor * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22), by the modified Lentz method."""
    c = 1.0
    d = 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, NUM_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1 / _not_zero(1 + coefficient * d)
            c = _not_zero(1 + coefficient / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
