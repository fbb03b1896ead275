"""Decoding: takes a step function and knows no model."""

from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.generate import END_ID, generate
from mtfrun.decoding.sampling import ChooseToken, Greedy, Sample

__all__ = [
    "END_ID",
    "ChooseToken",
    "Decoder",
    "Greedy",
    "Sample",
    "StepFunction",
    "generate",
]
