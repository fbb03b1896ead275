"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model

__all__ = ["Loss", "Metric", "Model", "means"]
