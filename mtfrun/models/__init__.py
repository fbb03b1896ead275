"""Models."""

from mtfrun.models.model import Loss, Metric, Model

__all__ = ["Loss", "Metric", "Model"]
