"""Evaluation of a model on a split: metrics, and images of its predictions."""

from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.evaluation.confusion_matrix_image import confusion_matrix_image
from mtfrun.evaluation.label_metrics import (
    BinaryF1,
    matthews_correlation,
    mean_f1,
    pearson_correlation,
    spearman_correlation,
)
from mtfrun.evaluation.labelled_images import LabelledImage, image_grid
from mtfrun.evaluation.loop import Evaluator, Measured, Sums
from mtfrun.evaluation.rouge import Rouge
from mtfrun.evaluation.scoring import target_log_probs
from mtfrun.evaluation.squad import squad
from mtfrun.evaluation.text_metrics import bleu, chrf, exact_match, text_metrics, token_accuracy

__all__ = [
    "BinaryF1",
    "Evaluator",
    "LabelledImage",
    "Measured",
    "Rouge",
    "Sums",
    "bits_per_byte",
    "bleu",
    "chrf",
    "confusion_matrix_image",
    "exact_match",
    "image_grid",
    "matthews_correlation",
    "mean_f1",
    "pearson_correlation",
    "spearman_correlation",
    "squad",
    "target_log_probs",
    "text_metrics",
    "token_accuracy",
]
