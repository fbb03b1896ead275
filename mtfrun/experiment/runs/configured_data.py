"""The data of a configuration, without its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mtfrun.configuration import config
from mtfrun.data import Data
from mtfrun.experiment.evaluation.evaluation import Evaluation
from mtfrun.experiment.experiment import ALL_DATA, Experiment
from mtfrun.experiment.loss_terms import LossTerm
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.settings import Settings
from mtfrun.experiment.training import Training

_TRAIN = "train"


class ConfiguredData(NamedTuple):
    """`splits`: training and evaluation; `loss_terms`: see `Training`."""

    data: Data
    splits: list[str]
    seed: int
    batch_size: int
    loss_terms: Sequence[LossTerm] = ()


def configure_data(settings: Settings, run_config: str | None) -> ConfiguredData:
    """See `Settings.parse` for `run_config`."""
    with config.exclusive():
        settings.parse(run_config)
        data = config.argument(Experiment, "data")
        require(data, Data, "Experiment.data", ALL_DATA)
        evaluated = config.argument(Evaluation, "split", "validation")
        seed = config.argument(Experiment, "seed", 0)
        batch_size = config.argument(Training, "batch_size", 0)
        loss_terms = config.argument(Training, "loss_terms", ())
        excluded = config.argument(Training, "exclude_documents")
    if excluded:
        data = data.remove(excluded)
    splits = list(dict.fromkeys([_TRAIN, evaluated]))
    return ConfiguredData(data, splits, seed, batch_size, loss_terms)
