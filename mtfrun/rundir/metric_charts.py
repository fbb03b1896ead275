"""Metrics in TensorBoard: scalars, and for the loads of experts histograms and heat maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtfrun import pictures
from mtfrun.rundir.metric_tags import vectors
from mtfrun.rundir.summaries import Summaries

# The last part of the name of a load, "<layer>/level_1/load".
_LOAD = "load"


def write_metrics(
    summaries: Summaries, values: Mapping[str, float], step: int, *, with_pictures: bool = False
) -> None:
    """Writes all numbers as scalars, and the loads of experts as charts too.

    For every layer and level a histogram of the experts' shares times their number (1: an equal
    share); for every level a heat map, see `pictures.expert_loads`. Shares that are not finite have
    no charts.

    Args:
      summaries: of a run.
      values: by tag, see `metric_tags`.
      step: finished training steps.
      with_pictures: whether heat maps are drawn, which takes a tenth of a second each.
    """
    summaries.scalars(values, step)
    levels: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, shares in vectors(values).items():
        *layer, level, kind = ["", "", *name.split("/")]
        if kind != _LOAD or not np.isfinite(shares).all():
            continue
        relative = shares * len(shares)
        summaries.histogram(f"{name}/histogram", relative, step)
        levels.setdefault((level, len(shares)), {})["/".join(layer).strip("/")] = relative
    if not with_pictures:
        return
    for (level, experts), rows in levels.items():
        tag = f"routing/{level}/{experts}_experts"
        image = pictures.expert_loads(
            np.stack(list(rows.values())), pictures.layer_names(list(rows))
        )
        summaries.image(tag, image, step)
