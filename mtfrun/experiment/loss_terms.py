"""Terms that a training adds to the loss of its model."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from mtfrun.checkpoints import Manifest
from mtfrun.data import Data
from mtfrun.experiment.experiment import Experiment, RowFeatures


class PreparedTerm:
    """A term of one training, and its source, such as another run; by default without a source."""

    def read(self, experiment: Experiment, *, planned: bool) -> None:
        """Reads the source, but for values if `planned`."""

    def describe(self) -> Mapping[str, str]:
        """Returns lines of the run summary by their label."""
        return {}

    def metadata(self) -> Mapping[str, object]:
        """Returns entries of the checkpoints' manifests."""
        return {}

    def check_unchanged(self, manifest: Manifest, *, accept_changes: bool) -> None:
        """Raises InputError if the training of a checkpoint had another source."""


class LossTerm(abc.ABC):
    """A term of the loss of a training, such as the divergence from a teacher."""

    @abc.abstractmethod
    def prepare(self, experiment: Experiment) -> PreparedTerm:
        """Adds the term to the model, which has no values yet, and its features to the experiment.

        InputError if the model can have no such term.
        """

    def features(self, data: Data) -> RowFeatures | None:
        """Returns further features of the rows of training; None without any."""
        return None
