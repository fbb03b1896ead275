"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, no_metrics
from mtfrun.models.reporting import Reporting, reporting

__all__ = ["Loss", "Metric", "Model", "Reporting", "means", "no_metrics", "reporting"]
