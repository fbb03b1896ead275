"""Inputs and outputs of a trained model: prompts, images, answers, records."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from mtfrun.errors import InputError

T = TypeVar("T")

# Called between batches with the number of inputs that are done; may raise to stop.
Progress = Callable[[int], None]


class Record(NamedTuple):
    """The output for one input: fields of its JSON line, and texts for people, best first."""

    fields: dict[str, object]
    texts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, uint8 [rows, cols, channels], read once and in order, with identifying fields."""

    count: int
    examples: Iterable[tuple[np.ndarray, dict[str, object]]]

    def __len__(self) -> int:
        return self.count


class Prompts(list[bytes]):
    """Prompts, and identifying fields of each, which come first in its record."""

    fields: Sequence[Mapping[str, object]] = ()


class Source(Protocol):
    """Inputs of a command."""

    @property
    def split(self) -> str | None:
        """The split of the experiment's data to read; None for other inputs."""

    def texts(self) -> Sequence[bytes]:
        """Returns texts, of any bytes. Raises InputError if the inputs are not texts."""

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        """Returns images, each read by its path. Raises InputError as `texts`."""


class LogProb(NamedTuple):
    """The log-probability of an id in nats, without processors and temperature; its text."""

    id: int
    token: str
    log_prob: float


class TokenLogProb(NamedTuple):
    """As `LogProb`, of an id of an output; `top`: of the most likely ids at its position."""

    id: int
    token: str
    log_prob: float
    top: list[LogProb]


class Output(NamedTuple):
    """One output for a prompt.

    Attributes:
      score: log-probability; with beam search, divided by the length penalty.
      tokens: number of tokens of the text, without the end.
      finished: whether it ends with the end id, not at the limit of its length.
      log_probs: of its tokens and the end id, if `decoding.Controls.log_probs` asks for them.
    """

    text: str
    score: float
    tokens: int
    finished: bool
    log_probs: list[TokenLogProb] | None = None


class Answer(NamedTuple):
    """A prompt and its outputs.

    Attributes:
      prompt: the text, with U+FFFD for invalid UTF-8, which the model reads as it is.
      outputs: best first; samples in the order in which they were drawn. `output`, `output_tokens`
        and `finished` are of the first one.
      truncated_tokens: number of tokens of the prompt that were cut off.
    """

    prompt: str
    output: str
    outputs: list[Output]
    prompt_tokens: int
    truncated_tokens: int
    output_tokens: int
    finished: bool
    valid_utf8: bool


def record_of(answer: Answer) -> Record:
    """Returns the answer as a JSON line, and its texts."""
    outputs = [_fields_of(output) for output in answer.outputs]
    texts = [output.text for output in answer.outputs]
    return Record({**answer._asdict(), "outputs": outputs}, texts)


def _fields_of(output: Output) -> dict[str, object]:
    fields = output._asdict()
    log_probs = fields.pop("log_probs")
    if log_probs is not None:
        fields["log_probs"] = [
            {**token._asdict(), "top": [other._asdict() for other in token.top]}
            for token in log_probs
        ]
    return fields


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items, the last one shorter; `itertools.batched` of Python 3.12."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def require(value: object, contract: type[T], who: str, remedy: str) -> T:
    """Returns the value if it fulfils the contract, else an InputError says who needs it."""
    if isinstance(value, contract):
        return value
    raise InputError(
        f"{who} needs {contract.__name__}, which {type(value).__name__} is not: {remedy}"
    )
