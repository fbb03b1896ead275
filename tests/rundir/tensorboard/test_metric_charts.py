"""Tests of metrics that are vectors: names of their entries, heat maps."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from mtfrun.rundir.tensorboard.metric_charts import write_metrics
from mtfrun.rundir.tensorboard.metric_tags import entries, vectors
from mtfrun.rundir.tensorboard.summaries import Summaries


def test_vectors_come_back_from_the_names_of_their_entries() -> None:
    values: dict[str, np.ndarray | float] = {
        "loss": 2.0,
        "blocks/1/load": np.array([0.25, 0.75]),
        "experts_per_token": np.arange(3.0),
    }
    named = entries(values)
    assert list(named) == [
        "loss",
        "blocks/1/load/0",
        "blocks/1/load/1",
        "experts_per_token/0",
        "experts_per_token/1",
        "experts_per_token/2",
    ]
    named_vectors = vectors(named)
    assert named_vectors.keys() == {"blocks/1/load", "experts_per_token"}
    np.testing.assert_array_equal(named_vectors["experts_per_token"], values["experts_per_token"])


def test_loads_become_scalars_histograms_and_one_heat_map_a_level(tmp_path: pathlib.Path) -> None:
    values = {
        "loss": 1.0,
        **{f"blocks/{i}/level_1/load/{e}": 0.5 for i in range(2) for e in range(2)},
        **{f"blocks/{i}/level_2/load/{e}": 0.25 for i in range(2) for e in range(4)},
    }
    with Summaries(tmp_path) as summaries:
        write_metrics(summaries, values, 7, with_pictures=True)
    (path,) = tmp_path.iterdir()
    tags: dict[str, str] = {}
    for record in tf.compat.v1.io.tf_record_iterator(str(path)):
        event = tf.compat.v1.Event.FromString(record)
        tags |= {v.tag: v.metadata.plugin_data.plugin_name for v in event.summary.value}
    assert {tag for tag, plugin in tags.items() if plugin == "images"} == {
        "routing/level_1/2_experts",
        "routing/level_2/4_experts",
    }
    assert sum(plugin == "histograms" for plugin in tags.values()) == 4
    assert {tag for tag, plugin in tags.items() if plugin == "scalars"} == {
        "loss",
        *(
            f"{group}/block_{i}/level_{level}/{name}"
            for i in range(2)
            for level, experts in ((1, 2), (2, 4))
            for group, names in (
                ("moe", ["greatest_load", "least_load"]),
                ("moe_load", [f"expert_{e}" for e in range(experts)]),
            )
            for name in names
        ),
    }


def test_loads_that_are_not_finite_are_scalars_without_charts(tmp_path: pathlib.Path) -> None:
    values = {f"blocks/0/level_1/load/{e}": share for e, share in enumerate((np.nan, 0.5))}
    with Summaries(tmp_path) as summaries:
        write_metrics(summaries, values, 7, with_pictures=True)
    (path,) = tmp_path.iterdir()
    records = list(tf.compat.v1.io.tf_record_iterator(str(path)))
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    tags = {value.tag for event in events for value in event.summary.value}
    assert tags >= {f"moe_load/block_0/level_1/expert_{e}" for e in range(2)}
    assert not any("greatest" in tag or tag.endswith("/load") for tag in tags)
