"""What is measured of a split besides the model's own metrics: the contract."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from mtfrun.experiment.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation that has measured the model's own metrics.

    metrics: their means over the split.
    tables: sums over the split of what has two dimensions, such as a confusion matrix.
    is_shown: somebody sees texts and images; otherwise they need not be made.
    progress: to be called between batches with the number of inputs that are done; may raise to
        stop.
    """

    metrics: Mapping[str, float]
    tables: Mapping[str, np.ndarray]
    is_shown: bool
    progress: Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a measurement found.

    metrics: numbers by name, which are printed and drawn as curves.
    texts: Markdown that TensorBoard shows, by tag.
    images: uint8 [height, width, 3] that TensorBoard shows, by tag.
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measurement(abc.ABC):
    """Measures a split; a class that the program calls with these two, and gin with all others.

    experiment: whose model, data and inference.
    split: of the data.

    Attributes:
      uses_model: it is left out where the model's own metrics are not finite.
    """

    uses_model: ClassVar[bool] = True

    experiment: Experiment
    split: str

    @abc.abstractmethod
    def __call__(self, evaluated: Evaluated) -> Measured:
        """Returns what is found of the model as it is."""
