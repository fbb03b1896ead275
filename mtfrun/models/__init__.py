"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, TextModel
from mtfrun.models.reporting import Reporting

__all__ = [
    "Loss",
    "Metric",
    "Model",
    "Reporting",
    "TextModel",
    "means",
]
