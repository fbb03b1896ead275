"""Evaluation: metrics of a model over a split."""

from mtfrun.evaluation.loop import Evaluator
from mtfrun.evaluation.metrics import bits_per_byte, perplexity

__all__ = ["Evaluator", "bits_per_byte", "perplexity"]
