"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, ids_in_use, no_metrics
from mtfrun.models.reporting import Reporting, reporting

__all__ = ["Loss", "Metric", "Model", "Reporting", "ids_in_use", "means", "no_metrics", "reporting"]
