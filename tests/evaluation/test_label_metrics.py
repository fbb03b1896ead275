"""Metrics of labels and numbers, against values calculated by hand and numpy's correlation."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.evaluation import (
    BinaryF1,
    matthews_correlation,
    mean_f1,
    pearson_correlation,
    spearman_correlation,
)

TARGETS = [1, 1, 1, 0, 0, 0, 0, 1]
PREDICTIONS = [1, 1, 0, 0, 0, 1, -1, 1]
# Of class 1: 3 correct of 4 predicted and 4 true. Of class 0: 2 of 3 predicted and 4 true.
F1_OF_1, F1_OF_0 = 2 * 3 / (4 + 4), 2 * 2 / (3 + 4)


def test_f1_of_a_class() -> None:
    assert BinaryF1()(TARGETS, PREDICTIONS) == pytest.approx({"f1": F1_OF_1})
    assert BinaryF1(positive=0)(TARGETS, PREDICTIONS) == pytest.approx({"f1": F1_OF_0})
    assert BinaryF1(positive="yes")(["no"], ["no"]) == {"f1": 0.0}


def test_mean_f1_is_over_the_classes_of_the_targets() -> None:
    assert mean_f1(TARGETS, PREDICTIONS) == pytest.approx({"mean_f1": (F1_OF_0 + F1_OF_1) / 2})


def test_matthews_correlation_of_two_classes_is_that_of_the_confusion_matrix() -> None:
    targets, predictions = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1]
    tp, tn, fp, fn = 2, 3, 1, 1
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / product**0.5
    metrics = matthews_correlation(targets, predictions)
    assert metrics == pytest.approx({"matthews_correlation": expected})


def test_matthews_correlation_of_more_classes_is_1_for_equal_ones_and_0_for_constants() -> None:
    assert matthews_correlation([0, 1, 2], [0, 1, 2])["matthews_correlation"] == pytest.approx(1)
    assert matthews_correlation([0, 1, 2], [1, 1, 1]) == {"matthews_correlation": 0.0}
    # 3 classes, confusion matrix [[1, 1, 0], [0, 1, 0], [0, 0, 1]]: (3*4 - 5) / sqrt(10 * 10).
    metrics = matthews_correlation([0, 0, 1, 2], [0, 1, 1, 2])
    assert metrics == pytest.approx({"matthews_correlation": 0.7})


def test_pearson_correlation_is_numpys() -> None:
    x, y = np.random.default_rng(0).normal(size=[2, 50])
    metrics = pearson_correlation(x.tolist(), y.tolist())
    assert metrics == pytest.approx({"pearson_correlation": float(np.corrcoef(x, y)[0, 1])})
    assert pearson_correlation([1.0, 2.0], [3.0, 3.0]) == {"pearson_correlation": 0.0}


def test_spearman_correlation_is_of_ranks_and_equal_values_share_theirs() -> None:
    monotonic = spearman_correlation([1.0, 2.0, 30.0], [-5.0, 0.0, 0.5])
    assert monotonic == pytest.approx({"spearman_correlation": 1.0})
    expected = np.corrcoef([1.0, 2.5, 2.5, 4.0], [2.0, 1.0, 3.5, 3.5])[0, 1]
    metrics = spearman_correlation([1.0, 7.0, 7.0, 9.0], [5.0, 4.0, 6.0, 6.0])
    assert metrics == pytest.approx({"spearman_correlation": float(expected)})
