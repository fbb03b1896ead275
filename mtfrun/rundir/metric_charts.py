"""Metrics in TensorBoard: scalars, and for the loads of experts histograms and heat maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mtfrun.rundir.metric_tags import tag_of, vectors
from mtfrun.rundir.scalar_charts import scalar_charts
from mtfrun.rundir.summaries import Summaries

# Side of an expert's square in the heat map, in pixels.
_CELL = 16
# The last part of the name of a load, "<layer>/level_1/load".
_LOAD = "load"


def write_metrics(
    summaries: Summaries, values: Mapping[str, float], step: int, tasks: Collection[str] = ()
) -> None:
    """Writes all numbers as scalars, and the first time the charts of the page Custom Scalars.

    For every layer and level the greatest and the least load, and a histogram of the experts'
    shares times their number (1: an equal share); for every level a heat map, a row for each layer
    and a column for each expert: black for none, white for an equal share, red for twice as much or
    more. Shares that are not finite have no charts.

    Args:
      summaries: of a run.
      values: by name; `metric_tags` has their tags.
      step: finished training steps.
      tasks: the names of the tasks of a mixture of data, whose metrics are named "task/metric".
    """
    scalars = dict(values)
    levels: dict[tuple[str, int], list[np.ndarray]] = {}
    for name, shares in vectors(values).items():
        *_, level, kind = ["", "", *name.split("/")]
        if kind != _LOAD or not np.isfinite(shares).all():
            continue
        relative = shares * len(shares)
        of_level = name.removesuffix(_LOAD)
        scalars[f"{of_level}greatest_load"] = float(relative.max())
        scalars[f"{of_level}least_load"] = float(relative.min())
        of_layer = tag_of(f"{name}/0", tasks).rpartition("/")[0]
        summaries.histogram(f"{of_layer}/load", relative, step)
        levels.setdefault((level, len(shares)), []).append(relative)
    by_tag = {tag_of(name, tasks): value for name, value in scalars.items()}
    if not summaries.has_layout:
        summaries.layout(scalar_charts(by_tag), step)
    summaries.scalars(by_tag, step)
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
