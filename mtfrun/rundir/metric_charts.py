"""Metrics in TensorBoard: scalars, and for the loads of experts histograms and heat maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtfrun.rundir.metric_tags import vectors
from mtfrun.rundir.summaries import Summaries

# Side of an expert's square in the heat map, in pixels.
_CELL = 16
# The last part of the name of a load, "<layer>/level_1/load".
_LOAD = "load"


def write_metrics(summaries: Summaries, values: Mapping[str, float], step: int) -> None:
    """Writes all numbers as scalars, and the loads of experts as charts too.

    For every layer and level a histogram of the experts' shares times their number (1: an equal
    share); for every level a heat map, a row for each layer and a column for each expert: black for
    none, white for an equal share, red for twice as much or more. Shares that are not finite have
    no charts.

    Args:
      summaries: of a run.
      values: by tag, see `metric_tags`.
      step: finished training steps.
    """
    summaries.scalars(values, step)
    levels: dict[tuple[str, int], list[np.ndarray]] = {}
    for name, shares in vectors(values).items():
        *_, level, kind = ["", "", *name.split("/")]
        if kind != _LOAD or not np.isfinite(shares).all():
            continue
        relative = shares * len(shares)
        summaries.histogram(f"{name}/histogram", relative, step)
        levels.setdefault((level, len(shares)), []).append(relative)
    for (level, experts), rows in levels.items():
        tag = f"routing/{level}/{experts}_experts"
        summaries.image(tag, heat_map(np.stack(rows)), step)


def heat_map(relative_loads: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [height, width, 3] of loads [layers, experts], 1 for the mean."""
    up_to_mean = np.clip(relative_loads, 0.0, 1.0)
    beyond = np.clip(relative_loads - 1.0, 0.0, 1.0)
    green_and_blue = up_to_mean * (1.0 - beyond)
    pixels = np.stack([up_to_mean, green_and_blue, green_and_blue], axis=-1)
    pixels = np.round(255.0 * pixels).astype(np.uint8)
    return pixels.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
