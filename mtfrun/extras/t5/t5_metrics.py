"""T5's metrics under T5's names, from 0 to 100.

They equal t5.evaluation.metrics, version 0.9.4,
https://github.com/google-research/text-to-text-transfer-transformer. Each maps all references and
predictions, in order, to values by name. `task_metrics` has `bleu` and `Rouge`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun.errors import InputError
from mtfrun.experiment.inference.scoring import Score
from mtfrun.extras.t5.references import GroupedReference, PossibleReferent, RankedClass
from mtfrun.metrics import task_metrics
from mtfrun.metrics.task_metrics import check_paired

Metric = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]

_NO_WORD = re.compile(r"[^\w]")
# Determiners and possessives, which do not distinguish referents.
_DETERMINERS = frozenset(
    [
        *("a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some"),
        *("that", "the", "their", "these", "this", "those", "which", "whose", "your"),
    ]
)


def accuracy(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "accuracy", the percentage of predictions that equal their target."""
    return {"accuracy": _percent_equal("accuracy", targets, predictions)}


def sequence_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "sequence_accuracy", the percentage of texts that equal their target."""
    return {"sequence_accuracy": _percent_equal("sequence_accuracy", targets, predictions)}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "em" and "f1" of answers, see `task_metrics.squad`."""
    return _percent(task_metrics.squad(targets, predictions))


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "em" and "f1" as `squad` does, with spaces in place of punctuation.

    The normalisation of TriviaQA's program, Joshi et al. 2017, https://aclanthology.org/P17-1147.
    """
    return _percent(task_metrics.trivia_qa(targets, predictions))


def coqa_f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "f1" as `squad` does, but two empty answers are equal."""
    scores = task_metrics.squad_scores(targets, predictions)
    f1s = [max(f1, float(exact)) for exact, f1 in scores]
    return {"f1": 100.0 * float(np.mean(f1s))}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns "pearson_corrcoef", -100 to 100; 0 if one side is constant, where T5's is NaN."""
    value = task_metrics.pearson_correlation(targets, predictions)
    return {"pearson_corrcoef": 100.0 * value["pearson_correlation"]}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns "spearman_corrcoef", -100 to 100; 0 if one side is constant, where T5's is NaN."""
    value = task_metrics.spearman_correlation(targets, predictions)
    return {"spearman_corrcoef": 100.0 * value["spearman_correlation"]}


def matthews_corrcoef(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "matthews_corrcoef", -100 to 100; 0 if one side is constant."""
    value = task_metrics.matthews_correlation(targets, predictions)
    return {"matthews_corrcoef": 100.0 * value["matthews_correlation"]}


def f1_score_with_invalid(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Returns "f1" of class 1; predictions other than 0 and 1 count as wrong."""
    check_paired("f1_score_with_invalid", targets, predictions)
    pairs = zip(targets, predictions, strict=True)
    valid = [p if p in (0, 1) else 1 - t for t, p in pairs]
    return _percent(task_metrics.BinaryF1()(targets, valid))


@dataclasses.dataclass(frozen=True)
class MeanMulticlassF1:
    """Computes the mean F1 of all classes, such as "mean_3class_f1"; absent classes have 0."""

    num_classes: int

    def __call__(self, targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        check_paired(type(self).__name__, targets, predictions)
        weights = np.ones(len(targets))
        return {self.name: 100.0 * self.mean(targets, predictions, weights)}

    @property
    def name(self) -> str:
        return f"mean_{self.num_classes}class_f1"

    def mean(
        self, targets: Sequence[int], predictions: Sequence[int], weights: np.ndarray
    ) -> float:
        classes = range(self.num_classes)
        return float(np.mean([_weighted_f1(x, targets, predictions, weights) for x in classes]))


def all_match(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "exact_match", 100 if all predictions equal their targets, else 0."""
    return {"exact_match": 100.0 * (list(targets) == list(predictions))}


@dataclasses.dataclass(frozen=True)
class MeanGroupMetric:
    """Computes the mean of a metric over groups of examples, see `t5.Grouped`.

    It equals T5's only if the evaluation has all examples of each group.
    """

    metric: Metric

    def __call__(
        self, targets: Sequence[GroupedReference], predictions: Sequence[object]
    ) -> dict[str, float]:
        groups = _pairs_by_group(type(self).__name__, targets, predictions)
        by_group = [self.metric(*zip(*pairs, strict=True)) for pairs in groups]
        return {name: float(np.mean([x[name] for x in by_group])) for name in by_group[0]}


@dataclasses.dataclass(frozen=True)
class DeduplicatedMetric:
    """Computes a metric over the first example of each group, see `t5.Grouped`."""

    metric: Metric

    def __call__(
        self, targets: Sequence[GroupedReference], predictions: Sequence[object]
    ) -> Mapping[str, float]:
        groups = _pairs_by_group(type(self).__name__, targets, predictions)
        return self.metric(*zip(*(pairs[0] for pairs in groups), strict=True))


def _pairs_by_group(
    name: str, targets: Sequence[GroupedReference], predictions: Sequence[object]
) -> list[list[tuple[object, object]]]:
    check_paired(name, targets, predictions)
    groups: dict[tuple[bytes, ...], list[tuple[object, object]]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        groups.setdefault(target.group, []).append((target.value, prediction))
    return list(groups.values())


def multirc_f1_over_all_answers(
    targets: Sequence[GroupedReference], predictions: Sequence[int]
) -> dict[str, float]:
    """Returns "f1" as `f1_score_with_invalid` does, over all groups."""
    return f1_score_with_invalid([target.value for target in targets], predictions)


def wsc_accuracy(
    targets: Sequence[PossibleReferent], predictions: Sequence[str]
) -> dict[str, float]:
    """Returns "accuracy" of whether predictions name the referent.

    T5's `postprocessors.wsc_simple`, then `accuracy`: a prediction names a referent if one contains
    all words of the other, ignoring case and determiners. Empty predictions are wrong.
    """
    check_paired("wsc_accuracy", targets, predictions)
    names = [_names(t.text, prediction) for t, prediction in zip(targets, predictions, strict=True)]
    return accuracy([target.is_correct for target in targets], names)


def auc(
    targets: Sequence[float], predictions: Sequence[float], targets_threshold: float | None = None
) -> dict[str, float]:
    """Returns "auc-roc" and "auc-pr", 0 to 1: areas under the ROC and precision-recall curves.

    Targets are 0 and 1, or numbers, with 1 from `targets_threshold` on. NaN if all are the same.
    """
    check_paired("auc", targets, predictions)
    labels = np.asarray(targets, np.float64)
    if targets_threshold is not None:
        labels = (labels >= targets_threshold).astype(np.float64)
    return _areas(labels, np.asarray(predictions), np.ones(len(labels)))


def score_auc(
    targets: Sequence[float], scores: Sequence[Score], targets_threshold: float | None = None
) -> dict[str, float]:
    """Returns `auc` of log-likelihoods, for `t5.ScoredTargets`."""
    return auc(targets, [score.log_likelihood for score in scores], targets_threshold)


def edit_distance(
    targets: Sequence[str], predictions: Sequence[str], *, lower: bool = True
) -> dict[str, float]:
    """Returns "min_edit", "max_edit", "mean_edit", "median_edit" and "sum_edit", in words.

    Tokenises on non-word characters, as T5 does; words may be empty. `lower` ignores case.
    """
    check_paired("edit_distance", targets, predictions)
    words = (
        [_NO_WORD.split(text.lower() if lower else text) for text in texts]
        for texts in (predictions, targets)
    )
    sparse = (tf.ragged.constant(lists).to_sparse() for lists in words)
    distances = tf.edit_distance(*sparse, normalize=False).numpy().astype(np.float64)
    return {
        "min_edit": float(min(distances)),
        "max_edit": float(max(distances)),
        "mean_edit": float(np.mean(distances)),
        "median_edit": float(np.median(distances)),
        "sum_edit": float(sum(distances)),
    }


@dataclasses.dataclass(frozen=True)
class RankClassificationMetrics:
    """Computes metrics of the likeliest class of each example, for `t5.ScoredTargets`.

    "accuracy" alone if the number of classes varies, or if several are correct; otherwise also
    "f1", "auc-roc" and "auc-pr" of class 1 for two classes, and the mean F1 for more.

    Attributes:
      num_classes: the number of classes of every example; None if it varies.
      normalize_by_target_length: whether log-likelihoods are divided by the number of tokens.
    """

    num_classes: int | None = None
    normalize_by_target_length: bool = False

    def __call__(self, targets: Sequence[RankedClass], scores: Sequence[Score]) -> dict[str, float]:
        check_paired(type(self).__name__, targets, scores)
        by_length = self.normalize_by_target_length
        values = [x.log_likelihood / (x.tokens if by_length else 1) for x in scores]
        ranked = sorted(zip(targets, values, strict=True), key=lambda pair: pair[0].idx)
        if self.num_classes is None:
            return _accuracy_of_groups(ranked)
        shape = (-1, self.num_classes)
        if len(ranked) % self.num_classes:
            raise InputError(
                f"RankClassificationMetrics.num_classes={self.num_classes} does not divide "
                f"{len(ranked)} scores: set None if the number varies"
            )
        correct = np.array([target.is_correct for target, _ in ranked]).reshape(shape)
        weights = np.array([target.weight for target, _ in ranked]).reshape(shape)[:, 0]
        # In 32 bits, as T5, which affects ties.
        log_likelihoods = np.array([value for _, value in ranked], np.float32).reshape(shape)
        return self._metrics(correct, log_likelihoods, weights)

    def _metrics(
        self, correct: np.ndarray, log_likelihoods: np.ndarray, weights: np.ndarray
    ) -> dict[str, float]:
        predictions = log_likelihoods.argmax(-1)
        is_right = correct[np.arange(len(correct)), predictions]
        metrics = {"accuracy": 100.0 * float(np.average(is_right, weights=weights))}
        if np.any(correct.sum(-1) > 1):
            return metrics
        classes = correct.argmax(-1).tolist()
        if correct.shape[-1] > 2:
            mean_f1 = MeanMulticlassF1(correct.shape[-1])
            f1 = mean_f1.mean(classes, predictions.tolist(), weights)
            return {**metrics, mean_f1.name: 100.0 * f1}
        odds = np.exp(log_likelihoods - log_likelihoods.max(-1, keepdims=True))
        probabilities = (odds / odds.sum(-1, keepdims=True))[:, 1]
        f1 = _weighted_f1(1, classes, predictions.tolist(), weights)
        return {
            **metrics,
            "f1": 100.0 * f1,
            **_percent(_areas(correct[:, 1].astype(np.float64), probabilities, weights)),
        }


def _accuracy_of_groups(ranked: Sequence[tuple[RankedClass, float]]) -> dict[str, float]:
    correct = total = 0.0
    for _, group in itertools.groupby(ranked, key=lambda pair: pair[0].idx[0]):
        likeliest, _ = max(group, key=lambda pair: pair[1])
        correct += likeliest.is_correct * likeliest.weight
        total += likeliest.weight
    return {"accuracy": 100.0 * correct / total}


def _percent(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: 100.0 * share for name, share in shares.items()}


def _percent_equal(name: str, targets: Sequence[object], predictions: Sequence[object]) -> float:
    check_paired(name, targets, predictions)
    return 100.0 * task_metrics.exact_match(targets, predictions)["exact_match"]


def _weighted_f1(
    label: int, targets: Sequence[int], predictions: Sequence[int], weights: np.ndarray
) -> float:
    is_target, is_predicted = np.equal(targets, label), np.equal(predictions, label)
    total = np.sum(weights * is_target) + np.sum(weights * is_predicted)
    return float(2.0 * np.sum(weights * (is_target & is_predicted)) / total) if total else 0.0


def _areas(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """As in scikit-learn: ROC by trapezoids, precision as a step function of recall."""
    _, groups = np.unique(-scores, return_inverse=True)  # the highest scores first
    positive = np.bincount(groups, weights * labels)
    negative = np.bincount(groups, weights * (1.0 - labels))
    if not positive.sum() or not negative.sum():
        return {"auc-roc": float("nan"), "auc-pr": float("nan")}
    found, wrong = np.cumsum(positive), np.cumsum(negative)
    roc = np.sum(negative * (found - positive / 2.0)) / (found[-1] * wrong[-1])
    precision = np.divide(found, found + wrong, out=np.ones_like(found), where=found + wrong > 0)
    return {"auc-roc": float(roc), "auc-pr": float(np.sum(positive * precision) / found[-1])}


def _names(referent: str, prediction: str) -> object:
    """Whether a prediction names a referent; None if it is empty."""
    cleaned = _without_determiners(prediction)
    if not cleaned:
        return None
    referent = _without_determiners(referent)
    if ("'" in cleaned) != ("'" in referent):  # "Bob" is not "Bob's hat"
        return False
    words, referent_words = set(cleaned.split(" ")), set(referent.split(" "))
    return words <= referent_words or referent_words <= words


def _without_determiners(text: str) -> str:
    words = text.strip().lower().split(" ")
    return " ".join(word for word in words if word not in _DETERMINERS)
