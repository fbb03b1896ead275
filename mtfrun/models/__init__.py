"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, no_metrics

__all__ = ["Loss", "Metric", "Model", "means", "no_metrics"]
