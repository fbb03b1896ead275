"""The construction of the objects that a configuration describes."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun.configuration import config
from mtfrun.experiment import Evaluation, Experiment, Training

# The classes that the program itself calls; their arguments are the other objects of a gin file.
ROOTS = (Experiment, Evaluation, Training)


class Built(NamedTuple):
    """The objects that all commands need."""

    experiment: Experiment
    evaluation: Evaluation


def build() -> Built:
    """Returns the objects of the parsed configuration."""
    experiment = config.build(Experiment)
    return Built(experiment, config.build(Evaluation, experiment))
