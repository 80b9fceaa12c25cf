"""Intervals of a mean over prompts.

Which question does an interval answer? `share_interval` and `mean_interval` are about *new prompts*: where the mean
would lie over all prompts of the kind that these were drawn from. They contain both the luck of the draw of prompts and
that of sampling. `fixed_prompts_interval` is about *these prompts*: where their accuracy would lie if each were sampled
for ever; it contains the luck of sampling alone.

The interval of a share is Wilson's, with an effective number of prompts in place of their number. Samples of one prompt
agree more than samples of different ones; how much more is the design effect, estimated by the spread of the prompts'
means. Few right (or few wrong) completions say little about it, so it is drawn towards its greatest value, all samples
of a prompt alike, as if half a success more had been seen that way. ``docs/statistics.md`` has the coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy

from grpo.statistics.distributions import t_quantile

LEVEL = 0.95
PRIOR_SUCCESSES = 0.5
"""Successes' worth of belief that all samples of a prompt are alike."""
LEAST_DESIGN_EFFECT = 0.5
"""Below 1 the design effect is an accident of few prompts; this far it is believed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between two bounds; NaN throughout if there was nothing to estimate from."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def share_interval(shares: Sequence[float], samples: float = 1, level: float = LEVEL) -> Interval:
    """The mean of `shares`, one of each prompt and each in [0, 1], with its interval for new prompts.

    `samples` is the number of completions that a share is the mean of. One prompt alone bounds nothing: [0, 1].
    Raises `ValueError` for a share outside [0, 1].
    """
    values = _array(shares)
    if not len(values):
        return NOTHING
    if values.min() < 0 or values.max() > 1:
        raise ValueError("share_interval: a share lies outside [0, 1]")
    share = float(values.mean())
    if len(values) == 1:
        return Interval(share, 0.0, 1.0)
    effect = _relative_design_effect(values, share, max(1.0, samples))
    quantile = t_quantile(level, 2 * (len(values) - 1))
    return _wilson(share, len(values) / effect, quantile)


def _relative_design_effect(values: numpy.ndarray, share: float, samples: float) -> float:
    """The variance of a prompt's share against that of a single completion.

    It is 1 / samples if all samples are independent, and 1 if those of a prompt are alike.
    """
    single = share * (1 - share)
    if single <= 0:
        return 1.0
    found = min(1.0, float(values.var(ddof=1)) / single)  # no share in [0, 1] can spread more
    rarer = min(share, 1 - share)
    unit = max(found, 1 / samples) or 1.0
    successes = rarer * len(values) / unit
    found = max(found, LEAST_DESIGN_EFFECT / samples)
    return (successes * found + PRIOR_SUCCESSES) / (successes + PRIOR_SUCCESSES)


def _wilson(share: float, number: float, quantile: float) -> Interval:
    """Wilson's interval of a share among `number` independent trials, which need not be whole."""
    square = quantile * quantile / number
    center = (share + square / 2) / (1 + square)
    variance = share * (1 - share) / number + square / (4 * number)
    half = quantile / (1 + square) * math.sqrt(variance)
    low = 0.0 if share <= 0 else center - half
    high = 1.0 if share >= 1 else center + half
    return Interval(share, max(0.0, low), min(1.0, high))


def fixed_prompts_interval(shares: Sequence[float], samples: int, level: float = LEVEL) -> Interval:
    """The mean of `shares` with its interval for these very prompts, if each were sampled for ever.

    With one sample a prompt nothing tells the spread of samples from that of prompts: the interval is then the wider
    one, that of new prompts.
    """
    values = _array(shares)
    if samples < 2 or not len(values):
        return share_interval(shares, samples, level)
    share = float(values.mean())
    single = share * (1 - share)
    number = len(values) * samples
    if single <= 0:
        return _wilson(share, number, t_quantile(level, number))
    within = float((values * (1 - values)).mean()) * samples / (samples - 1)
    rarer = min(share, 1 - share) * number
    effect = (rarer * within / single + PRIOR_SUCCESSES) / (rarer + PRIOR_SUCCESSES)
    quantile = t_quantile(level, len(values) * (samples - 1))
    return _wilson(share, number / effect, quantile)


def mean_interval(
    values: Sequence[float],
    level: float = LEVEL,
    bounds: tuple[float, float] | None = None,
    samples: float = math.inf,
) -> Interval:
    """The mean of `values`, one of each prompt, with its interval for new prompts; the values may be any numbers.

    Where `bounds` are known, or no value lies outside [0, 1], it is that of a share of the range. Otherwise it is, at
    each end, the wider of Student's and that of a share of the range seen. Without bounds a value never seen cannot be
    allowed for: if all are equal, and neither 0 nor 1, the interval is that number. One prompt alone bounds nothing.

    `samples` is for values that are means of as many outcomes at either end of the range, right and wrong say: a mean
    then spreads by chance at least.
    """
    numbers = _array(values)
    if not len(numbers):
        return NOTHING
    mean = float(numbers.mean())
    if len(numbers) == 1:
        low, high = bounds or (-math.inf, math.inf)
        return Interval(mean, low, high)
    is_bounded = bounds is not None or (numbers.min() >= 0 and numbers.max() <= 1)
    low, high = bounds or ((0.0, 1.0) if is_bounded else (numbers.min(), numbers.max()))
    if low == high or (numbers.min() == numbers.max() and 0 < mean < 1 and bounds is None):
        return Interval(mean, mean, mean)
    shares = numpy.clip((numbers - low) / (high - low), 0, 1)
    share = share_interval(shares.tolist(), samples, level)
    half = 0.0 if is_bounded else _student_half(numbers, level)
    return Interval(
        value=mean,
        low=float(min(low + share.low * (high - low), mean - half)),
        high=float(max(low + share.high * (high - low), mean + half)),
    )


def _student_half(numbers: numpy.ndarray, level: float) -> float:
    """Half the width of Student's interval of the mean."""
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return t_quantile(level, len(numbers) - 1) * error


def _array(values: Sequence[float]) -> numpy.ndarray:
    return numpy.asarray(values, dtype=numpy.float64)
