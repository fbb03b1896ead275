"""Metrics in TensorBoard: scalars, and for the loads of experts histograms and heat maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mtfrun.display import pictures
from mtfrun.rundir.tensorboard.metric_tags import tag_of, vectors
from mtfrun.rundir.tensorboard.scalar_charts import scalar_charts
from mtfrun.rundir.tensorboard.summaries import Summaries

# The last part of the name of a load, "<layer>/level_1/load".
_LOAD = "load"


def write_metrics(
    summaries: Summaries,
    values: Mapping[str, float],
    step: int,
    *,
    tasks: Collection[str] = (),
    with_pictures: bool = False,
) -> None:
    """Writes all numbers as scalars, and the first time the charts of the page Custom Scalars.

    For every layer and level the greatest and the least load, and a histogram of the experts'
    shares times their number (1: an equal share); for every level a heat map, see
    `pictures.expert_loads`. Shares that are not finite have no charts.

    Args:
      summaries: of a run.
      values: by name; `metric_tags` has their tags.
      step: finished training steps.
      tasks: the names of the tasks of a mixture of data, whose metrics are named "task/metric".
      with_pictures: whether heat maps are drawn, which takes a tenth of a second each.
    """
    scalars = dict(values)
    levels: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, shares in vectors(values).items():
        *layer, level, kind = ["", "", *name.split("/")]
        if kind != _LOAD or not np.isfinite(shares).all():
            continue
        relative = shares * len(shares)
        of_level = name.removesuffix(_LOAD)
        scalars[f"{of_level}greatest_load"] = float(relative.max())
        scalars[f"{of_level}least_load"] = float(relative.min())
        of_layer = tag_of(f"{name}/0", tasks).rpartition("/")[0]
        summaries.histogram(f"{of_layer}/load", relative, step)
        levels.setdefault((level, len(shares)), {})["/".join(layer).strip("/")] = relative
    by_tag = {tag_of(name, tasks): value for name, value in scalars.items()}
    if not summaries.has_layout:
        summaries.layout(scalar_charts(by_tag), step)
    summaries.scalars(by_tag, step)
    if not with_pictures:
        return
    for (level, experts), rows in levels.items():
        tag = f"routing/{level}/{experts}_experts"
        image = pictures.expert_loads(
            np.stack(list(rows.values())), pictures.layer_names(list(rows))
        )
        summaries.image(tag, image, step)
