"""Decoding with any model that is a step function with a state: greedy, sampled, beam search."""

from mtfrun.decoding.beam_search import BeamSearch
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.fitted_state import fitted
from mtfrun.decoding.generate import generate
from mtfrun.decoding.hypotheses import EMPTY_BELOW, END_ID, Hypotheses, n_best
from mtfrun.decoding.limits import decode_limits
from mtfrun.decoding.prompt import number_of_known, worth_reading_at_once
from mtfrun.decoding.sampling import ChooseToken, Greedy, Sample
from mtfrun.decoding.search import Search

__all__ = [
    "EMPTY_BELOW",
    "END_ID",
    "BeamSearch",
    "ChooseToken",
    "Decoder",
    "Greedy",
    "Hypotheses",
    "Sample",
    "Search",
    "StepFunction",
    "decode_limits",
    "fitted",
    "generate",
    "n_best",
    "number_of_known",
    "worth_reading_at_once",
]
