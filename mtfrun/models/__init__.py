"""Models."""

from mtfrun.models.model import Loss, Metric, Model, no_metrics

__all__ = ["Loss", "Metric", "Model", "no_metrics"]
