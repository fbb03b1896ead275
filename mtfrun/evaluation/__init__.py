"""Evaluation: metrics of a model over a split."""

from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.evaluation.loop import Evaluator

__all__ = ["Evaluator", "bits_per_byte"]
