"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, ids_in_use, no_metrics, reads_at_once_only
from mtfrun.models.reporting import Reporting, reporting

__all__ = [
    "Loss",
    "Metric",
    "Model",
    "Reporting",
    "ids_in_use",
    "means",
    "no_metrics",
    "reads_at_once_only",
    "reporting",
]
