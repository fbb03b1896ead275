"""Tests of mtfrun.tools.report.charts."""

from __future__ import annotations

import numpy as np

from mtfrun.tools.report.charts import charts_of, distinct_parts, thin_out


def test_training_and_evaluation_are_in_one_chart() -> None:
    curves = {"train": {"loss": {1: 2.0, 2: 1.0}}, "eval": {"loss": {2: 1.5}}}
    (chart,) = charts_of([("run", curves)], [0], 100)
    assert (chart.category, chart.title) == ("Learning", "loss")
    assert [series.name for series in chart.series] == ["training", "evaluation"]
    assert chart.table() == (["training", "evaluation"], [[1, 2.0, None], [2, 1.0, 1.5]])


def test_the_curves_of_several_runs_have_the_colours_of_their_groups() -> None:
    runs = [(name, {"train": {"loss": {1: 1.0}}, "eval": {}}) for name in ("a", "b", "c")]
    (chart,) = charts_of(runs, [0, 1, 1], 100)
    assert [series.name for series in chart.series] == [f"{x}, training" for x in "abc"]
    assert [series.colour for series in chart.series] == [0, 1, 1]


def test_curves_of_single_layers_are_left_out_beside_other_runs() -> None:
    tags = {f"norm/gradient/layer_{i}": {1: 1.0} for i in range(8)}
    curves = {"train": {"loss": {1: 1.0}, **tags}, "eval": {}}
    assert [x.title for x in charts_of([("a", curves)], [0], 9)] == ["loss", "gradient"]
    assert [x.title for x in charts_of([("a", curves), ("b", curves)], [0, 1], 9)] == ["loss"]


def test_thin_curves_keep_their_peaks_and_ends() -> None:
    values = np.zeros(10_000)
    values[1234], values[5000] = 7.0, np.nan
    chosen = thin_out(values, 100)
    assert len(chosen) <= 102 and 1234 in chosen and {0, 9999} <= set(chosen.tolist())
    assert thin_out(values[:50], 100).tolist() == list(range(50))


def test_names_of_curves_are_what_distinguishes_them() -> None:
    tags = ["moe/b_0/level_1/dropped", "moe/b_1/level_1/dropped"]
    assert distinct_parts(tags) == ["b_0", "b_1"]
    assert distinct_parts(["norm/gradient", "norm/gradient/a"]) == ["gradient", "gradient/a"]
    assert distinct_parts(["a", "b"]) == ["a", "b"]
