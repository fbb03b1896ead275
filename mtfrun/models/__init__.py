"""Base classes of models, means of their metrics, and checks of their numbers."""

from mtfrun.layers import Metric
from mtfrun.models.means import means
from mtfrun.models.model import ImageModel, Loss, Model, TextModel
from mtfrun.models.non_finite import FiniteCheck, NonFiniteError
from mtfrun.models.reporting import Reporting

__all__ = [
    "FiniteCheck",
    "ImageModel",
    "Loss",
    "Metric",
    "Model",
    "NonFiniteError",
    "Reporting",
    "TextModel",
    "means",
]
