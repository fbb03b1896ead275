"""Objectives: what a model is to learn from running text."""

from mtfrun.data.objectives.iid_denoising import IidDenoising as IidDenoising
from mtfrun.data.objectives.masked_language_model import MaskedLanguageModel as MaskedLanguageModel
from mtfrun.data.objectives.mixture_of_denoisers import Denoiser as Denoiser
from mtfrun.data.objectives.mixture_of_denoisers import MixtureOfDenoisers as MixtureOfDenoisers
from mtfrun.data.objectives.objective import FeatureLengths as FeatureLengths
from mtfrun.data.objectives.objective import Objective as Objective
from mtfrun.data.objectives.objective import RawText as RawText
from mtfrun.data.objectives.prefix_language_model import PrefixLanguageModel as PrefixLanguageModel
from mtfrun.data.objectives.span_corruption import SpanCorruption as SpanCorruption
