"""Interface of the use of a trained model: decoding, scoring, classification."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment.experiment import Experiment

T = TypeVar("T")

# Called between batches with the number of inputs that are done; may raise to stop.
Progress = Callable[[int], None]


class Record(NamedTuple):
    """The output for one input.

    Attributes:
      fields: of its JSON line.
      texts: of the output in human-readable form, the best one first.
    """

    fields: dict[str, object]
    texts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to make records of, which are read once and in order.

    Attributes:
      count: number of images.
      examples: pixels, uint8 [rows, cols, channels], and identifying fields of each image.
    """

    count: int
    examples: Iterable[tuple[np.ndarray, dict[str, object]]]

    def __len__(self) -> int:
        return self.count


class Prompts(list[bytes]):
    """Prompts with fields for their records.

    Attributes:
      fields: identifying fields of each prompt, which come first in its record.
    """

    fields: Sequence[Mapping[str, object]] = ()


class Source(Protocol):
    """Inputs of a command."""

    @property
    def split(self) -> str | None:
        """The split of the experiment's data to read; None for other inputs."""

    def texts(self) -> Sequence[bytes]:
        """Returns texts, of any bytes. Raises InputError if the inputs are no texts."""

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        """Returns images, each read by its path. Raises InputError as `texts`."""


@dataclasses.dataclass(frozen=True)
class Inference(abc.ABC):
    """Use of a trained model by the commands `decode` and `score`, and by evaluators.

    The program calls a subclass with `experiment`; gin sets the other fields.

    Attributes:
      settings: names of the settings that flags of the command line change, such as "top_k".
      example: flags of `mtfrun decode` to try a trained model; empty for none.
      experiment: has the model and the data.
    """

    settings: ClassVar[Sequence[str]] = ()
    example: ClassVar[str] = ""

    experiment: Experiment

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Returns a copy with other values of some settings.

        Raises:
          InputError: it does not have one of them.
        """
        for name in settings:
            if name not in self.settings:
                available = ", ".join(f"--{setting}" for setting in self.settings)
                remedy = f"it has {available}" if available else "leave it out"
                raise InputError(f"{type(self).__name__} has no setting --{name}: {remedy}")
        return self._changed(settings) if settings else self

    @abc.abstractmethod
    def read(self, source: Source) -> Sized:
        """Returns the inputs of a source, for `records`.

        Raises:
          InputError: they are of another kind.
        """

    @abc.abstractmethod
    def records(self, inputs: Any, progress: Progress | None = None) -> Sequence[Record]:
        """Returns the record of each input, in order; reports to `progress`.

        Raises:
          NonFiniteError: an output is infinite or not a number.
        """

    def pairs(self, split: str) -> Sequence[tuple[bytes, bytes]]:
        """Returns the pairs of input and target of a split of the data, for `scores`.

        Raises:
          InputError: it cannot score pairs.
        """
        raise self._no_scores()

    def scores(self, pairs: Sequence[tuple[bytes, bytes]]) -> Sequence[Record]:
        """Returns the likelihood of the target of each (input, target), in order.

        Raises:
          InputError: it cannot score pairs.
          NonFiniteError: a score is infinite or not a number.
        """
        raise self._no_scores()

    def _no_scores(self) -> InputError:
        return InputError(
            f"{type(self).__name__} scores no pairs: its model does not read and make text"
        )

    def _changed(self, settings: Mapping[str, Any]) -> Self:
        """Returns a copy with other values of some of `self.settings`, by default its fields."""
        return dataclasses.replace(self, **settings)


class TrainingOnly(Inference):
    """Refuses all inputs: the model is only trained and evaluated."""

    def read(self, source: Source) -> Sized:
        """Raises InputError."""
        raise self._refusal()

    def records(self, inputs: Any, progress: Progress | None = None) -> Sequence[Record]:
        """Raises InputError."""
        raise self._refusal()

    def pairs(self, split: str) -> Sequence[tuple[bytes, bytes]]:
        """Returns the pairs of input and target of a split of the data, for `scores`.

        Raises:
          InputError: it cannot score pairs.
        """
        raise self._no_scores()

    def scores(self, pairs: Sequence[tuple[bytes, bytes]]) -> Sequence[Record]:
        """Raises InputError."""
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f"{type(self.experiment.model).__name__} is trained and evaluated only: "
            "Experiment.inference says what else to do with it, such as @experiment.Decoding"
        )


def required(value: object, contract: type[T], who: str, remedy: str) -> T:
    """Returns the value if it fulfils the contract.

    Raises:
      InputError: it does not; the message says who needs it, and the remedy.
    """
    if isinstance(value, contract):
        return value
    raise InputError(
        f"{who} needs {contract.__name__}, which {type(value).__name__} is not: {remedy}"
    )
