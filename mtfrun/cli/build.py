"""The objects that a configuration describes."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun.cli.configuration import config
from mtfrun.experiment import Evaluation, Experiment, Training

# What the program itself calls; the other classes of a gin file are called by these.
ROOTS = (Experiment, Evaluation, Training)


class Built(NamedTuple):
    """What all commands share: one experiment, hence one mesh.

    Attributes:
      experiment: the model, its data, and what is done with it beyond training.
      evaluation: what is measured.
    """

    experiment: Experiment
    evaluation: Evaluation


def build() -> Built:
    """Returns the objects of the configuration that was parsed."""
    experiment = config.configured(Experiment)
    return Built(experiment, config.configured(Evaluation, experiment))
