"""Evaluation of a model on a split: metrics."""

from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.evaluation.label_metrics import (
    BinaryF1,
    matthews_correlation,
    mean_f1,
    pearson_correlation,
    spearman_correlation,
)
from mtfrun.evaluation.loop import Evaluator, Measured, Sums
from mtfrun.evaluation.rouge import Rouge
from mtfrun.evaluation.scoring import target_log_probs
from mtfrun.evaluation.squad import squad
from mtfrun.evaluation.text_metrics import bleu, chrf, exact_match, text_metrics, token_accuracy

__all__ = [
    "BinaryF1",
    "Evaluator",
    "Measured",
    "Rouge",
    "Sums",
    "bits_per_byte",
    "bleu",
    "chrf",
    "exact_match",
    "matthews_correlation",
    "mean_f1",
    "pearson_correlation",
    "spearman_correlation",
    "squad",
    "target_log_probs",
    "text_metrics",
    "token_accuracy",
]
