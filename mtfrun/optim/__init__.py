"""Optimizers, learning-rate schedules, clipping, and rules by variable path."""

from mtfrun.optim.adafactor import Adafactor, AdamDecay, ParameterScale, PowerDecay
from mtfrun.optim.adam import Adam
from mtfrun.optim.clipping import clip_by_global_norm, global_norm, half_squares, norm_of
from mtfrun.optim.momentum import Momentum
from mtfrun.optim.optimizer import Optimizer
from mtfrun.optim.partition import PatternError, trainable_variables
from mtfrun.optim.schedules import (
    Constant,
    CosineDecay,
    LinearDecay,
    LinearWarmup,
    Product,
    Schedule,
    Shifted,
    SlantedTriangular,
    TruncatedRsqrt,
    noam,
)
from mtfrun.optim.sgd import Sgd
from mtfrun.optim.slot_optimizer import MissingGradientError, SlotOptimizer
from mtfrun.optim.weight_average import WeightAverage, average_decay

__all__ = [
    "Adafactor",
    "Adam",
    "AdamDecay",
    "Constant",
    "CosineDecay",
    "LinearDecay",
    "LinearWarmup",
    "MissingGradientError",
    "Momentum",
    "Optimizer",
    "ParameterScale",
    "PatternError",
    "PowerDecay",
    "Product",
    "Schedule",
    "Sgd",
    "Shifted",
    "SlantedTriangular",
    "SlotOptimizer",
    "TruncatedRsqrt",
    "WeightAverage",
    "average_decay",
    "clip_by_global_norm",
    "global_norm",
    "half_squares",
    "noam",
    "norm_of",
    "trainable_variables",
]
