"""Train and serve sharded Transformers, mixtures of experts and ResNets from one gin file."""

from mtfrun.errors import InputError
from mtfrun.lazy import configs, load, train

__all__ = ["InputError", "__version__", "configs", "load", "train"]

__version__ = "0.1.0"
