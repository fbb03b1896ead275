"""What a kind of model does beyond training: the contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment.experiment import Experiment

T = TypeVar("T")


class Record(NamedTuple):
    """What is written of one input.

    Attributes:
      fields: of its JSON line.
      texts: for people to read, the best one first.
    """

    fields: dict[str, object]
    texts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to make records of; they are read once, one after the other.

    count: how many.
    examples: of each the pixels, uint8 [rows, cols, channels], and the fields that say which it is.
    """

    count: int
    examples: Iterable[tuple[np.ndarray, dict[str, object]]]

    def __len__(self) -> int:
        return self.count


class Source(Protocol):
    """What a command is given to read."""

    @property
    def split(self) -> str | None:
        """The split of the experiment's data that is to be read; None for something else."""

    def texts(self) -> Sequence[bytes]:
        """Returns texts, of any bytes. Raises InputError if the source has something else."""

    def images(self, size: tuple[int, int, int]) -> Images:
        """Returns images scaled to [rows, cols, channels]. Raises InputError as `texts`."""


class Inference:
    """What the commands `decode` and `score`, and measurements, do with a trained model.

    A subclass is a class that the program calls with the experiment. This one refuses everything:
    its model is trained and evaluated only.

    Attributes:
      experiment: whose model.
      settings: the settings of a command line that it has, such as "top_k".
    """

    settings: ClassVar[Sequence[str]] = ()
    experiment: Experiment

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Returns this with other settings.

        Raises:
          InputError: it does not have one of them.
        """
        for name in settings:
            if name not in self.settings:
                others = ", ".join(f"--{setting}" for setting in self.settings)
                remedy = f"it has {others}" if others else "leave it out"
                raise InputError(f"{type(self).__name__} has no setting --{name}: {remedy}")
        return self._changed(settings) if settings else self

    def read(self, source: Source) -> Sized:
        """Returns the inputs that a source has, for `records`.

        Raises:
          InputError: it has none that this reads.
        """
        raise InputError(
            f"{type(self.experiment.model).__name__} is trained and evaluated only: "
            "Experiment.inference says what else to do with it, such as @experiment.Decoding"
        )

    def records(
        self, inputs: Any, progress: Callable[[int], None] = lambda done: None
    ) -> Sequence[Record]:
        """Returns a record of each input, in order; tells `progress` how many are done.

        `progress` may raise to stop.

        Raises:
          NonFiniteError: what the model made is infinite or not a number.
        """
        raise NotImplementedError(f"{type(self).__name__} reads inputs and makes no records")

    def scores(self, pairs: Sequence[tuple[bytes, bytes]]) -> Sequence[Record]:
        """Returns a record of how likely the target of each (input, target) is, in order.

        Raises:
          InputError: it cannot score pairs.
          NonFiniteError: a score is infinite or not a number.
        """
        raise InputError(
            f"{type(self).__name__} scores no pairs: its model does not read and make text"
        )

    def _changed(self, settings: Mapping[str, Any]) -> Self:
        """Returns this with other values for some of `self.settings`."""
        raise NotImplementedError(f"{type(self).__name__} names settings and has no _changed")


def required(value: object, contract: type[T], who: str, remedy: str) -> T:
    """Returns the value, which has a type.

    Raises:
      InputError: it does not; `who` needs it.
    """
    if isinstance(value, contract):
        return value
    raise InputError(
        f"{who} needs {contract.__name__}, which {type(value).__name__} is not: {remedy}"
    )
