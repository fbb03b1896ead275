"""Train and serve sharded Transformers, mixtures of experts and ResNets from one gin file."""

from mtfrun.api import configs as configs
from mtfrun.api import load as load
from mtfrun.api import train as train
from mtfrun.errors import InputError as InputError

__version__ = "0.2.0"
