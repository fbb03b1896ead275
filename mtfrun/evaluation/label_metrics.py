"""Metrics of labels and numbers, which a task's `postprocess` makes of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun.evaluation.text_metrics import check_paired


@dataclasses.dataclass(frozen=True)
class BinaryF1:
    """Computes "f1" of the class `positive`, the harmonic mean of its precision and recall."""

    positive: object = 1

    def __call__(
        self, targets: Sequence[object], predictions: Sequence[object]
    ) -> dict[str, float]:
        """Returns the metric: 0 if the class is neither a target nor predicted."""
        check_paired("BinaryF1", targets, predictions)
        return {"f1": _f1_of(self.positive, targets, predictions)}


def mean_f1(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "mean_f1", the mean of the F1 of every class among the targets."""
    check_paired("mean_f1", targets, predictions)
    classes = dict.fromkeys(targets)
    return {"mean_f1": float(np.mean([_f1_of(x, targets, predictions) for x in classes]))}


def matthews_correlation(
    targets: Sequence[object], predictions: Sequence[object]
) -> dict[str, float]:
    """Returns "matthews_correlation", -1 to 1, of any number of classes; 0 if one side is constant.

    Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006, equation 8.
    """
    check_paired("matthews_correlation", targets, predictions)
    classes = list(dict.fromkeys([*targets, *predictions]))
    x, y = (
        np.array([[value == label for label in classes] for value in values], np.float64)
        for values in (targets, predictions)
    )
    x, y = x - x.mean(0), y - y.mean(0)
    return {"matthews_correlation": _ratio(np.sum(x * y), np.sum(x * x) * np.sum(y * y))}


def pearson_correlation(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns "pearson_correlation", -1 to 1; 0 if one side is constant."""
    check_paired("pearson_correlation", targets, predictions)
    return {"pearson_correlation": _correlation(np.asarray(targets), np.asarray(predictions))}


def spearman_correlation(
    targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
    """Returns "spearman_correlation", -1 to 1, of ranks; equal values have equal ranks."""
    check_paired("spearman_correlation", targets, predictions)
    return {"spearman_correlation": _correlation(_ranks(targets), _ranks(predictions))}


def _f1_of(label: object, targets: Sequence[object], predictions: Sequence[object]) -> float:
    pairs = list(zip(targets, predictions, strict=True))
    correct = sum(target == label == prediction for target, prediction in pairs)
    total = sum((target == label) + (prediction == label) for target, prediction in pairs)
    return 2.0 * correct / max(total, 1)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Returns the mean rank of every value in ascending order, float64 [values]."""
    _, groups, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2.0)[groups]
    return ranks


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return _ratio(np.sum(x * y), np.sum(x * x) * np.sum(y * y))


def _ratio(covariance: np.floating, product_of_variances: np.floating) -> float:
    return float(covariance / np.sqrt(product_of_variances)) if product_of_variances else 0.0
