"""Where a metric of a sweep is best: the minimum of a parabola in the logarithm of a setting."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, TEXT, Canvas, plain, points
from mtfrun.errors import InputError, did_you_mean
from mtfrun.extras.sweeps.analysis.pictures import plot_axes
from mtfrun.extras.sweeps.result import RunResult
from mtfrun.metrics.catalogue import LOWEST, best_mode

# The parabola is fitted to this many values on each side of the best one: further away a loss
# rises faster.
_NEIGHBOURS = 2


class Parabola(NamedTuple):
    """height + curvature * log2(value / lowest) ** 2."""

    lowest: float
    height: float
    curvature: float

    def at(self, value: float) -> float:
        return self.height + self.curvature * math.log2(value / self.lowest) ** 2


def parabola(
    values: Sequence[float], metrics: Sequence[float], sign: float = 1.0
) -> Parabola | None:
    """Returns the least-squares parabola around the best metric, in the logarithm of the value.

    Values are positive and ascending; metrics that are not finite are left out. None if the best
    value is the first or the last, or the parabola has no optimum between its values: then more
    values must be tried. `sign` is -1.0 for a metric of which more is better.

    >>> [round(x, 3) for x in parabola([1, 2, 4, 8], [1.5, 1.0, 1.1, 1.9])]
    [2.462, 0.956, 0.325]
    """
    pairs = zip(values, metrics, strict=True)
    points = [(math.log2(x), sign * y) for x, y in pairs if math.isfinite(y)]
    best = min(range(len(points)), key=lambda i: points[i][1], default=0)
    if not 0 < best < len(points) - 1:
        return None
    x, y = np.array(points[max(0, best - _NEIGHBOURS) : best + _NEIGHBOURS + 1]).T
    curvature, slope, constant = (float(c) for c in np.polyfit(x - points[best][0], y, 2))
    lowest = -slope / (2 * curvature) if curvature > 0 else math.inf
    if not x[0] <= points[best][0] + lowest <= x[-1]:
        return None
    height = constant - curvature * lowest**2
    return Parabola(2 ** (points[best][0] + lowest), sign * height, sign * curvature)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best value of a setting for one row of a sweep."""

    values: Sequence[float]  # values that were tried, in ascending order
    means: Sequence[float]  # means of the metric over the seeds by value; NaN where a run has none
    curve: Parabola | None  # the parabola of the means
    # the standard error of log2 of the optimum over the seeds; None for one seed
    octaves: float | None


def optima(results: Sequence[RunResult], parameter: str, metric: str) -> dict[str, Optimum]:
    """Returns the optimum of a varied parameter for every row, by the row's name without it.

    Raises:
      InputError: no finished run has the metric, or a value of the parameter.
    """
    sign = 1.0 if best_mode(metric) == LOWEST else -1.0
    by_row: dict[str, dict[float, dict[int, float]]] = collections.defaultdict(dict)
    for result in results:
        if result.state != "finished":
            continue
        if metric not in result.metrics:
            metrics = ", ".join(result.metrics)
            raise InputError(f"{result.name} has no metric {metric!r}, but {metrics}")
        name, value = _row_and_value(result, parameter)
        by_row[name].setdefault(value, {})[result.seed] = result.metrics[metric]
    if not by_row:
        raise InputError("no run of the sweep has finished")
    return {name: _optimum(by_value, sign) for name, by_value in by_row.items()}


def _row_and_value(result: RunResult, parameter: str) -> tuple[str, float]:
    try:
        value = float(result.values[parameter])
    except KeyError:
        problem = did_you_mean(parameter, result.values) or ", which the sweep does not vary"
        raise InputError(f"{result.name} has no value of {parameter!r}{problem}") from None
    except ValueError:
        raise InputError(f"{parameter}={result.values[parameter]} is not a number") from None
    if value <= 0:
        raise InputError(f"{parameter}={value} has no logarithm")
    parts = [part for part in result.row.split(",") if not part.startswith(f"{parameter}=")]
    return ",".join(parts), value


def _optimum(by_value: Mapping[float, Mapping[int, float]], sign: float) -> Optimum:
    values = sorted(by_value)
    means = [float(np.mean(list(by_value[value].values()))) for value in values]
    seeds = sorted(set.intersection(*map(set, by_value.values())))
    curves = (parabola(values, [by_value[x][seed] for x in values], sign) for seed in seeds)
    lowest = [math.log2(curve.lowest) for curve in curves if curve is not None]
    error = float(np.std(lowest, ddof=1)) / math.sqrt(len(lowest)) if len(lowest) > 1 else None
    return Optimum(values, means, parabola(values, means, sign), error)


def picture(by_row: Mapping[str, Optimum], parameter: str, metric: str) -> Canvas:
    """Draws the means of every row and the minima of their parabolas."""
    canvas, axes = plot_axes(f"{parameter} (stars: minima of parabolas)", metric)
    axes.set_xscale("log", base=2)
    for i, (name, row) in enumerate(by_row.items()):
        colour = PALETTE[i % len(PALETTE)]
        axes.plot(row.values, row.means, "o-", color=colour, ms=4, lw=1.0, label=plain(name))
        if row.curve is not None:
            axes.plot([row.curve.lowest], [row.curve.height], "*", color=colour, ms=11)
    ticks = sorted({value for row in by_row.values() for value in row.values})[::2]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.legend(fontsize=points(11), frameon=False, labelcolor=TEXT)
    return canvas
