"""Metrics in TensorBoard: scalars, their charts, and for the loads of experts heat maps.

The page Custom Scalars has several curves in one chart, training and evaluation. A chart has the
curves of all runs with matching tags: TensorBoard joins the charts of the training and of the
evaluation, and the charts of several runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from tensorboard.plugins.custom_scalar import layout_pb2

from mtfrun.display import pictures
from mtfrun.metrics.catalogue import chart_patterns
from mtfrun.metrics.event_files import Summaries
from mtfrun.metrics.tags import tag_of, vectors

# The last part of the name of a load, "<layer>/level_1/load".
_LOAD = "load"
# The categories of an evaluation; the other ones are charts of the training, so that they come
# after these on the page, although an evaluation has curves in them too.
_OF_EVALUATION = ("Learning", "Tasks", "Predictions")


def write_metrics(
    summaries: Summaries,
    values: Mapping[str, float],
    step: int,
    *,
    tasks: Collection[str] = (),
    with_pictures: bool = False,
) -> None:
    """Writes all values as scalars, and at first the layout of the page Custom Scalars.

    For every layer and level the greatest and the least load, and a histogram of the experts'
    shares times their number (1: an equal share); for every level a heat map, see
    `pictures.expert_loads`. Shares that are not finite have no charts.
    """
    scalars = dict(values)
    levels: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, shares in vectors(values).items():
        *layer, level, kind = ["", "", *name.split("/")]
        if kind != _LOAD or not np.isfinite(shares).all():
            continue
        relative = shares * len(shares)
        level_name = name.removesuffix(_LOAD)
        scalars[f"{level_name}greatest_load"] = float(relative.max())
        scalars[f"{level_name}least_load"] = float(relative.min())
        layer_tag = tag_of(f"{name}/0", tasks).rpartition("/")[0]
        summaries.histogram(f"{layer_tag}/load", relative, step)
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


def scalar_charts(tags: Collection[str]) -> layout_pb2.Layout:
    layout = layout_pb2.Layout()
    categories: dict[str, layout_pb2.Category] = {}
    for category, title, pattern in chart_patterns(tags):
        if not ("learning_rate" in tags or category in _OF_EVALUATION):
            continue
        if category not in categories:
            categories[category] = layout.category.add(title=category)
        content = layout_pb2.MultilineChartContent(tag=[f"({pattern})$"])
        categories[category].chart.add(title=title, multiline=content)
    return layout
