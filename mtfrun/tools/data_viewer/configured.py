"""The data of a configuration, without its model."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun.configuration import config
from mtfrun.data import Data
from mtfrun.experiment import Evaluation, Experiment
from mtfrun.experiment.experiment import ALL_DATA
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.settings import Settings
from mtfrun.tools.data_viewer.row_view import TRAIN


class ConfiguredData(NamedTuple):
    """`splits` are the ones of training and of evaluation."""

    data: Data
    splits: list[str]
    seed: int


def configure(settings: Settings, run_config: str | None) -> ConfiguredData:
    """See `Settings.parse` for `run_config`."""
    with config.exclusive():
        settings.parse(run_config)
        data = config.argument(Experiment, "data")
        require(data, Data, "Experiment.data", ALL_DATA)
        evaluated = config.argument(Evaluation, "split", "validation")
        seed = config.argument(Experiment, "seed", 0)
    return ConfiguredData(data, list(dict.fromkeys([TRAIN, evaluated])), seed)
