"""Evaluation: metrics of a model over a split."""

from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.evaluation.loop import Evaluator
from mtfrun.evaluation.rouge import Rouge
from mtfrun.evaluation.scoring import target_log_probs
from mtfrun.evaluation.text_metrics import bleu, chrf, exact_match, text_metrics, token_accuracy

__all__ = [
    "Evaluator",
    "Rouge",
    "bits_per_byte",
    "bleu",
    "chrf",
    "exact_match",
    "target_log_probs",
    "text_metrics",
    "token_accuracy",
]
