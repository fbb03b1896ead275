"""Points of the training curves, averaged over windows of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from mtfrun.data import Padding
from mtfrun.errors import InputError
from mtfrun.models.metrics import means
from mtfrun.training.norms import Norms
from mtfrun.training.step import LEARNING_RATE, NON_FINITE_GRADIENT, NORMS, SKIPPED


class HostMetric(Protocol):
    """A `Metric` on the host.

    Attributes:
      total: sums over the examples of each step, [steps, ...].
      weight: what they are divided by, [steps].
    """

    total: np.ndarray
    weight: np.ndarray


History: TypeAlias = Mapping[str, HostMetric]

PADDING = "data/padding_fraction"
EXAMPLES_SEEN = "data/examples_seen"

# What the loop itself reads of a step.
_NOT_CURVES = (SKIPPED, NON_FINITE_GRADIENT)
# Values of a step, not means over examples: the names begin so.
_LAST_VALUES = (LEARNING_RATE, "norm/")


@dataclasses.dataclass
class _Counted:
    """A `HostMetric` of what the host itself has counted."""

    total: np.ndarray
    weight: np.ndarray


def padding_history(padding: Sequence[Padding]) -> History:
    """Returns the share of padding in the batch of every step; nothing for data without text."""
    empty, positions = np.array(padding, np.float64).reshape(-1, 2).T
    return {PADDING: _Counted(empty, positions)} if positions.any() else {}


def with_norms(history: History, norms: Norms) -> History:
    """Returns a history with norms in the place of the sums that the devices have computed."""
    others = {name: metric for name, metric in history.items() if name != NORMS}
    sums = history[NORMS]
    named = norms.by_tag(sums.total)
    return {**others, **{tag: _Counted(x, sums.weight) for tag, x in named.items()}}


def summaries_history(
    summaries: Mapping[str, tuple[np.ndarray, np.ndarray]], history: History
) -> History:
    """Returns `mtf.curves_of` as metrics: "loss" is "summary/loss" if the history has a "loss"."""
    return {
        f"summary/{name}" if name in history else name: _Counted(*of_steps)
        for name, of_steps in summaries.items()
    }


def examples_seen(examples: Mapping[str, float]) -> dict[str, float]:
    """Returns the curves of the numbers of examples by the name of their task, "" for a single one.

    Examples:
      >>> examples_seen({"spell": 64.0})
      {'data/examples_seen/spell': 64.0}
    """
    return {f"{EXAMPLES_SEEN}/{name}".rstrip("/"): count for name, count in examples.items()}


class Curves:
    """Averages of metrics over windows of steps, which end at multiples of `every_steps`.

    The last window ends at the end of training. The sums since the last multiple can be saved with
    a checkpoint, so that an interrupted run has the same points as one that was not interrupted.

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

        Metrics are weighted means over the window, one value for every entry of a vector; learning
        rate and norms are those of its last step. Steps whose update was skipped are left out,
        except for their learning rate.
        """
        for i in range(count):
            after = step + i + 1
            is_skipped = SKIPPED in history and history[SKIPPED].total[i] > 0
            for name, metric in history.items():
                if name in _NOT_CURVES or (is_skipped and name != LEARNING_RATE):
                    continue
                total = np.asarray(metric.total[i], np.float64)
                weight = float(metric.weight[i])
                if name.startswith(_LAST_VALUES):
                    self._totals[name], self._weights[name] = total, weight
                else:
                    self._totals[name] = self._totals.get(name, np.float64(0.0)) + total
                    self._weights[name] = self._weights.get(name, 0.0) + weight
            if after % self._every_steps == 0 or after == self._last_step:
                values = means(self._totals, self._weights, with_perplexity=self._with_perplexity)
                yield after, values
            if after % self._every_steps == 0:
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
        """Sets the sums of the unfinished window to those that `sums` has returned.

        Raises:
          InputError: `sums` has not returned them.
        """
        try:
            for name, saved in sums.items():
                total = [float.fromhex(entry) for entry in saved["total"]]
                self._totals[name] = np.reshape(np.array(total, np.float64), saved["shape"])
                self._weights[name] = float.fromhex(saved["weight"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the sums of curves are not as they were saved: {error!r}") from error
