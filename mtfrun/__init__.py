"""Train and serve sharded Transformers, mixtures of experts and ResNets from one gin file."""

__version__ = "0.1.0"
