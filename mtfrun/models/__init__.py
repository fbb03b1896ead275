"""Models."""

from mtfrun.models.means import means
from mtfrun.models.model import Loss, Metric, Model, ids_in_use, no_metrics, reads_at_once_only
from mtfrun.models.non_finite import FiniteCheck, NonFiniteError
from mtfrun.models.reporting import Reporting, reporting

__all__ = [
    "FiniteCheck",
    "Loss",
    "Metric",
    "Model",
    "NonFiniteError",
    "Reporting",
    "ids_in_use",
    "means",
    "no_metrics",
    "reads_at_once_only",
    "reporting",
]
