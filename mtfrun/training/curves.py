"""From the history of single steps to the points of curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeAlias

import numpy as np

from mtfrun.models.means import means
from mtfrun.training.step import GRAD_NORM, LEARNING_RATE, OBJECTIVE


class HostMetric(Protocol):
    """A `Metric` after it came to the host: numpy arrays, sums [steps, ...] and weights [steps]."""

    total: np.ndarray
    weight: np.ndarray


History: TypeAlias = Mapping[str, HostMetric]

# These are values of a step, not means over examples.
_LAST_VALUES = (LEARNING_RATE, GRAD_NORM)


class Curves:
    """Averages metrics over windows of steps: up to every multiple of `every_steps`, and the end.

    Args:
      every_steps: steps of a window.
      last_step: the end of training.
      with_perplexity: see `means`.
    """

    def __init__(self, every_steps: int, last_step: int, *, with_perplexity: bool = True):
        self._with_perplexity = with_perplexity
        self._every_steps = every_steps
        self._last_step = last_step
        self._totals: dict[str, np.ndarray] = {}
        self._weights: dict[str, float] = {}

    def add(
        self, step: int, history: History, count: int
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Yields (step, values) of every window that ends among the `count` steps after `step`.

        Metrics are weighted means over the window, a vector's under a name for every entry;
        learning rate and gradient norm are those of its last step.
        """
        for i in range(count):
            after = step + i + 1
            for name, metric in history.items():
                total = np.asarray(metric.total[i], np.float64)
                weight = float(metric.weight[i])
                if name in _LAST_VALUES:
                    self._totals[name], self._weights[name] = total, weight
                else:
                    self._totals[name] = self._totals.get(name, np.float64(0.0)) + total
                    self._weights[name] = self._weights.get(name, 0.0) + weight
            if after % self._every_steps == 0 or after == self._last_step:
                values = means(self._totals, self._weights, with_perplexity=self._with_perplexity)
                yield after, values
                self._totals.clear()
                self._weights.clear()


def first_non_finite(history: History, count: int) -> int | None:
    """Returns the index of the first of `count` steps whose loss is not finite, or None."""
    bad = ~np.isfinite(history[OBJECTIVE].total[:count])
    return int(np.argmax(bad)) if bad.any() else None
