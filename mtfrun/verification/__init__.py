"""Comparison of training on a mesh with training on one device, number by number."""

from mtfrun.verification.comparison import Comparison, Difference, compare
from mtfrun.verification.inputs import FirstRows
from mtfrun.verification.observation import Observation, observe
from mtfrun.verification.report import as_json, as_lines, reference_lines

__all__ = [
    "Comparison",
    "Difference",
    "FirstRows",
    "Observation",
    "as_json",
    "as_lines",
    "compare",
    "observe",
    "reference_lines",
]
