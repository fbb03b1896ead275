"""The objects that a configuration describes."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun.cli.configuration import config
from mtfrun.experiment import Classification, Decoding, Evaluation, Experiment, Training

# What the program itself calls; the other classes of a gin file are called by these.
ROOTS = (Experiment, Decoding, Classification, Evaluation, Training)


class Built(NamedTuple):
    """What all commands share: one experiment, hence one mesh.

    Attributes:
      experiment: the model and its data.
      decoding: how texts are made; None for a classifier of images.
      classification: how images are classified; None for a model of text.
      evaluation: what is measured.
    """

    experiment: Experiment
    decoding: Decoding | None
    classification: Classification | None
    evaluation: Evaluation


def build() -> Built:
    """Returns the objects of the configuration that was parsed."""
    experiment = config.configured(Experiment)
    decoding = classification = None
    if experiment.is_of_text:
        decoding = config.configured(Decoding, experiment)
    else:
        classification = config.configured(Classification, experiment)
    evaluation = config.configured(Evaluation, experiment, decoding, classification)
    return Built(experiment, decoding, classification, evaluation)
