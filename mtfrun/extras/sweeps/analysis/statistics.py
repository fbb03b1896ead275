"""Means over seeds, differences to a baseline, and their confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

CONFIDENCE = 0.95
UPPER = (1 + CONFIDENCE) / 2
"""The higher percentile of an interval."""

BOOTSTRAP_FROM = 10
"""Intervals of at least this many values are bootstrapped; of fewer they would be too narrow."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval; one value has no interval, and none has no mean."""

    mean: float | None = None
    count: int = 0
    low: float | None = None
    high: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the mean differs from 0, by a two-sided test at 5 %."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Returns the mean of independent values and its interval.

    Student 1908, "The probable error of a mean", https://doi.org/10.2307/2331554: mean +-
    t * s / sqrt(n), with the standard deviation s and the quantile t of n - 1 degrees of freedom.
    From 10 values on the BCa bootstrap of Efron 1987, https://doi.org/10.2307/2289144, which does
    not assume a normal distribution. The interval of equal values has the width 0.
    """
    array = np.asarray(values, np.float64)
    count = array.size
    if not count:
        return Estimate()
    if np.ptp(array) == 0:
        mean = float(array[0])  # exactly, which a sum of many may not be
        return Estimate(mean, count) if count == 1 else Estimate(mean, count, mean, mean)
    mean = float(array.mean())
    if count >= BOOTSTRAP_FROM:
        interval = scipy.stats.bootstrap(
            (array,),
            np.mean,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(0),  # the same table each time
        ).confidence_interval
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            return Estimate(mean, count, float(interval.low), float(interval.high))
    quantile = float(scipy.special.stdtrit(count - 1, UPPER))
    half_width = quantile * float(array.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, count, mean - half_width, mean + half_width)


def interval(values: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Returns the percentiles between which 95 % of the values lie."""
    low, high = np.quantile(values, [1 - UPPER, UPPER])
    return float(low), float(high)


def estimate_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate:
    """Returns the mean of `values` minus `baseline` over the seeds of both.

    Paired: what a seed does to both, such as the order of the data, does not widen the interval.
    """
    return estimate_mean([x - baseline[seed] for seed, x in values.items() if seed in baseline])
