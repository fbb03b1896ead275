"""Decoding: takes a step function and knows no model."""

from mtfrun.decoding.beam_loop import beam_search
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.generate import generate
from mtfrun.decoding.hypotheses import END_ID, Hypotheses, n_best
from mtfrun.decoding.limits import decode_limits
from mtfrun.decoding.sampling import ChooseToken, Greedy, Sample
from mtfrun.decoding.search import Search

__all__ = [
    "END_ID",
    "ChooseToken",
    "Decoder",
    "Greedy",
    "Hypotheses",
    "Sample",
    "Search",
    "StepFunction",
    "beam_search",
    "decode_limits",
    "generate",
    "n_best",
]
