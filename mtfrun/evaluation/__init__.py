"""Evaluation: metrics of a model over a split."""

from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.evaluation.confusion_picture import confusion_picture
from mtfrun.evaluation.labelled_pictures import Labelled, labelled_pictures
from mtfrun.evaluation.loop import Evaluator, Measured
from mtfrun.evaluation.rouge import Rouge
from mtfrun.evaluation.scoring import target_log_probs
from mtfrun.evaluation.text_metrics import bleu, chrf, exact_match, text_metrics, token_accuracy

__all__ = [
    "Evaluator",
    "Labelled",
    "Measured",
    "Rouge",
    "bits_per_byte",
    "bleu",
    "chrf",
    "confusion_picture",
    "exact_match",
    "labelled_pictures",
    "target_log_probs",
    "text_metrics",
    "token_accuracy",
]
