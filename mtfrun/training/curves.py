"""Averages of metrics over windows of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mtfrun.errors import InputError
from mtfrun.models import means

# Tags of curves that every model has; SKIPPED_STEPS only where updates may be skipped.
OBJECTIVE, LEARNING_RATE, SKIPPED_STEPS = "objective", "learning_rate", "skipped_steps"
PADDING = "data/padding_fraction"
EXAMPLES_SEEN = "data/examples_seen"


class HostMetric(NamedTuple):
    """A `Metric` on the host: sums over the examples of steps, [steps, ...], and divisors."""

    total: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass
class Curves:
    """Averages of metrics over windows of steps, which end at multiples of `every_steps`.

    The last window ends at `last_step`, the end of training. The sums since the last multiple can
    be saved with a checkpoint, so that an interruption does not change the curves.
    """

    every_steps: int
    last_step: int
    with_perplexity: bool = True

    def __post_init__(self) -> None:
        self._totals: dict[str, np.ndarray] = {}
        self._weights: dict[str, float] = {}

    def add(
        self,
        step: int,
        count: int,
        metrics: Mapping[str, HostMetric],
        values: Mapping[str, np.ndarray],
        skipped: np.ndarray,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Yields (step, values) of every window that ends among the `count` steps after `step`.

        A curve is the weighted mean of a metric over the window, one for every entry of a vector,
        or one of the `values` [steps] at the window's last step. Steps whose update was `skipped`
        are left out, except for their learning rate.
        """
        for i in range(count):
            is_skipped = skipped[i] > 0
            for name, value in values.items():
                if not is_skipped or name == LEARNING_RATE:
                    self._totals[name], self._weights[name] = np.asarray(value[i], np.float64), 1.0
            for name, metric in metrics.items() if not is_skipped else ():
                total = np.asarray(metric.total[i], np.float64)
                self._totals[name] = self._totals.get(name, np.float64(0.0)) + total
                self._weights[name] = self._weights.get(name, 0.0) + float(metric.weight[i])
            after = step + i + 1
            if after % self.every_steps == 0 or after == self.last_step:
                yield (
                    after,
                    means(self._totals, self._weights, with_perplexity=self.with_perplexity),
                )
            if after % self.every_steps == 0:
                self._totals.clear()
                self._weights.clear()

    def sums(self) -> dict[str, Any]:
        """Returns the sums of the unfinished window as JSON values, exact to the bit."""
        return {
            name: {
                "weight": self._weights[name].hex(),
                "shape": list(np.shape(total)),
                # As texts: JSON has no number for a metric that is not finite.
                "total": [float(entry).hex() for entry in np.ravel(total)],
            }
            for name, total in self._totals.items()
        }

    def restore(self, sums: Mapping[str, Any]) -> None:
        """Sets the unfinished window to what `sums` returned; InputError for other values."""
        try:
            for name, saved in sums.items():
                total = [float.fromhex(entry) for entry in saved["total"]]
                self._totals[name] = np.reshape(np.array(total, np.float64), saved["shape"])
                self._weights[name] = float.fromhex(saved["weight"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the sums of curves are not as they were saved: {error!r}") from error
