"""Objectives: what a model is to learn from running text."""

from mtfrun.data.objectives.iid_denoising import IidDenoising
from mtfrun.data.objectives.masked_language_model import MaskedLanguageModel
from mtfrun.data.objectives.mixture_of_denoisers import Denoiser, MixtureOfDenoisers
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText
from mtfrun.data.objectives.prefix_language_model import PrefixLanguageModel
from mtfrun.data.objectives.span_corruption import SpanCorruption

__all__ = [
    "Denoiser",
    "FeatureLengths",
    "IidDenoising",
    "MaskedLanguageModel",
    "MixtureOfDenoisers",
    "Objective",
    "PrefixLanguageModel",
    "RawText",
    "SpanCorruption",
]
