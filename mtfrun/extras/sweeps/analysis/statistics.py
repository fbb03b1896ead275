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
    """A mean and its 95 % confidence interval; without values there is no mean.

    One value has no interval, and neither have several that are equal: they do not say how far
    others would be from them.
    """

    mean: float | None = None
    count: int = 0  # of independent values, such as seeds
    low: float | None = None
    high: float | None = None
    examples: int = 0  # that the interval is resampled over; 0 for an interval over `count` values


@dataclasses.dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference, whose test against 0 has the value `p`."""

    p: float | None = None  # of a two-sided test; None without an interval
    q: float | None = None  # `p`, corrected for the number of differences of the table

    @property
    def is_significant(self) -> bool:
        return self.q is not None and self.q < 1 - CONFIDENCE


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Returns the mean of independent values and its interval.

    Student 1908, "The probable error of a mean", https://doi.org/10.2307/2331554: mean +-
    t * s / sqrt(n), with the standard deviation s and the quantile t of n - 1 degrees of freedom.
    From 10 values on the BCa bootstrap of Efron 1987, https://doi.org/10.2307/2289144, which does
    not assume a normal distribution.
    """
    array = np.asarray(values, np.float64)
    count = array.size
    if not count:
        return Estimate()
    if np.ptp(array) == 0:
        return Estimate(float(array[0]), count)  # exactly, which a mean of many may not be
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
    test = scipy.stats.ttest_1samp(array, 0.0).confidence_interval(CONFIDENCE)
    return Estimate(mean, count, float(test.low), float(test.high))


def estimate_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Returns the mean of `values` minus `baseline` over the seeds of both.

    Paired: what a seed does to both, such as the order of the data, does not widen the interval.
    `p` is Student's, also where the interval is bootstrapped.
    """
    pairs = [x - baseline[seed] for seed, x in values.items() if seed in baseline]
    estimate = estimate_mean(pairs)
    has_interval = estimate.low is not None
    p = float(scipy.stats.ttest_1samp(pairs, 0.0).pvalue) if has_interval else None
    return Difference(**dataclasses.asdict(estimate), p=p)


def resampled_mean(score: float, resamples: Sequence[float], examples: int) -> Estimate:
    """Returns a score of one model on many examples, with its interval over resamples of these."""
    return Estimate(score, 1, *interval(resamples), examples)


def resampled_difference(
    score: float,
    resamples: Sequence[float],
    baseline_score: float,
    baseline_resamples: Sequence[float],
    examples: int,
) -> Difference:
    """Returns the difference of two scores by the paired bootstrap over examples.

    Koehn 2004, https://aclanthology.org/W04-3250. `resamples` are the scores of the same resamples
    of the examples; `p` is computed as by sacrebleu: the share of resamples whose difference is
    further from their mean difference than the difference of the scores is from 0.
    """
    difference = score - baseline_score
    resampled = np.subtract(resamples, baseline_resamples)
    if np.ptp(resampled) == 0:
        return Difference(difference, 1)
    distances = np.abs(resampled)
    further = int(np.sum(distances - distances.mean() > abs(difference)))
    p = (further + 1) / (len(resampled) + 1)
    return Difference(difference, 1, *interval(resampled), examples, p)


def correct_for_number(differences: Sequence[Difference]) -> list[Difference]:
    """Returns the differences with q: the false discovery rate of calling them different.

    Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x. Of the
    differences with q < 0.05 at most 5 % are expected to be none. Differences without an interval
    are not counted, and have no q.
    """
    tested = [difference.p for difference in differences if difference.p is not None]
    corrected = iter(scipy.stats.false_discovery_control(tested) if tested else ())
    return [
        x if x.p is None else dataclasses.replace(x, q=float(next(corrected))) for x in differences
    ]


def interval(values: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Returns the percentiles between which 95 % of the values lie."""
    low, high = np.quantile(values, [1 - UPPER, UPPER])
    return float(low), float(high)
