"""Base classes of models, means of their metrics, and checks for non-finite values."""

from mtfrun.layers.collector import Metric as Metric
from mtfrun.models.model import FiniteCheck as FiniteCheck
from mtfrun.models.model import ImageModel as ImageModel
from mtfrun.models.model import Loss as Loss
from mtfrun.models.model import Model as Model
from mtfrun.models.model import NonFiniteError as NonFiniteError
from mtfrun.models.model import Reporting as Reporting
from mtfrun.models.model import TextModel as TextModel
from mtfrun.models.model import means as means
