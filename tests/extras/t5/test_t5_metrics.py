"""Metrics of T5, against the values of its functions (tests/oracle/t5_metrics.json)."""

from __future__ import annotations

import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.errors import InputError
from mtfrun.experiment.inference.scoring import Score
from mtfrun.extras import t5
from mtfrun.extras.t5 import t5_metrics
from mtfrun.extras.t5.references import GroupedReference, PossibleReferent, RankedClass
from mtfrun.metrics import Rouge, bleu
from tests.experiment.test_evaluators_by_task import CONTEXT, named_task, small_experiment

CASES = json.loads(
    (pathlib.Path(__file__).parents[2] / "oracle" / "t5_metrics.json").read_text(encoding="utf-8")
)
# Sums in another order.
TOLERANCE = 1e-9
GROUPED = {"multirc_f1_over_all_answers", "mean_group_metric", "deduplicate_metric"}
CLASSES = {"2": 2, "3": 3, "several": 4, "by_length": 2}


def _group(name: object) -> tuple[bytes, ...]:
    parts = name if isinstance(name, list) else [name]
    return tuple(str(part).encode() for part in parts)


def _metric(name: str, variant: str) -> Callable[..., Any]:
    if name == "rank_classification":
        return t5_metrics.RankClassificationMetrics(CLASSES.get(variant), variant == "by_length")
    if variant == "threshold":
        return functools.partial(t5_metrics.auc, targets_threshold=2.5)
    metrics: dict[str, Callable[..., Any]] = {
        "mean_3class_f1": t5_metrics.MeanMulticlassF1(3),
        "mean_group_metric": t5_metrics.MeanGroupMetric(t5_metrics.all_match),
        "deduplicate_metric": t5_metrics.DeduplicatedMetric(t5_metrics.squad),
        "bleu": bleu,
        "rouge": Rouge(),
    }
    metric: Callable[..., Any] = metrics.get(name) or getattr(t5_metrics, name)
    return metric


@pytest.mark.parametrize("case", [name for name in CASES if name != "wsc_simple"])
def test_the_values_are_those_of_t5(case: str) -> None:
    targets, predictions, values = CASES[case].values()
    name, _, variant = case.partition("/")
    if name == "rank_classification":
        predictions = [
            Score(score, length, 0)
            for (*_, length), score in zip(targets, predictions, strict=True)
        ]
        targets = [RankedClass(tuple(idx), *more) for idx, *more, _ in targets]
    elif name in GROUPED:
        targets = [
            GroupedReference(_group(group), value) for group, value in zip(*targets[0], strict=True)
        ]
    assert _metric(name, variant)(targets, predictions) == pytest.approx(values, rel=TOLERANCE)


def test_a_referent_is_named_as_in_t5() -> None:
    case = CASES["wsc_simple"]
    referents = [PossibleReferent(text, label == 1) for text, label in case["referents"]]
    for referent, prediction, named in zip(
        referents, case["predictions"], case["named"], strict=True
    ):
        right = t5_metrics.wsc_accuracy([referent], [prediction])
        assert right == {"accuracy": 100.0 * (named == referent.is_correct)}
    of_all = t5_metrics.wsc_accuracy(referents, case["predictions"])
    assert of_all == pytest.approx(case["values"], rel=TOLERANCE)


def test_an_auc_needs_both_classes() -> None:
    areas = t5_metrics.auc([1, 1], [0.1, 0.2])
    assert math.isnan(areas["auc-roc"]) and math.isnan(areas["auc-pr"])


def test_incomplete_examples_are_refused() -> None:
    targets = [RankedClass((0, i), i == 0, 1.0) for i in range(3)]
    with pytest.raises(InputError, match="num_classes=2 does not divide 3 scores"):
        t5_metrics.RankClassificationMetrics(2)(targets, [Score(-1.0, 1, 0)] * 3)


def test_the_likeliest_class_of_each_example_is_ranked() -> None:
    classes = t5.RankClassification("{inputs}", ["no", "yes", "may"], label_key="targets")
    task = named_task("ranked", [("a", "0"), ("b", "1"), ("c", "2")], preprocessors=[classes])
    experiment = small_experiment(task)
    metrics = [t5_metrics.RankClassificationMetrics(3)]
    scored = t5.ScoredTargets(experiment, "validation", metrics, reference=t5.ranked_class)
    result = scored(CONTEXT)
    pairs = experiment.data.by_task()[""]
    assert isinstance(pairs, data.TextData)
    texts = pairs.pairs("validation", None)
    scores = [x.fields["log_likelihood"] for x in experiment.inference.scores(texts)]
    likeliest = np.argmax(np.array(scores, float).reshape(3, 3), axis=1)
    assert result.metrics["accuracy"] == pytest.approx(100 * np.mean(likeliest == [0, 1, 2]))
    assert set(result.metrics) == {"accuracy", "mean_3class_f1"}
    assert not t5.ScoredTargets(experiment, "validation")(CONTEXT).metrics
