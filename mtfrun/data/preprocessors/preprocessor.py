"""The interface of preprocessors; a list is fields "answers/0", "answers/1", ... of an example."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mtfrun.data.errors import DataError
from mtfrun.errors import did_you_mean

Fields = Mapping[str, bytes]
# Maps an example to one, several or no examples (an empty list).
Preprocessor = Callable[[Fields], Fields | Sequence[Fields]]

NO_LABEL = b"<unk>"
"""T5's target for an example without label."""


class StreamPreprocessor(abc.ABC):
    """A preprocessor that needs all examples of a split, for example to combine or count them."""

    @abc.abstractmethod
    def of_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        """Yields new examples from all examples of a split, which can be read once."""


def field_of(preprocessor: object, fields: Fields, name: str) -> bytes:
    """Returns a field; raises DataError if the example does not have it."""
    if name not in fields:
        raise DataError(
            f'{preprocessor}: an example has no field "{name}"; it has '
            f"{', '.join(fields) or 'none'}{did_you_mean(name, fields)}"
        )
    return fields[name]


def texts_of(fields: Fields, name: str) -> list[bytes]:
    """Returns the texts of a list, "name/0", "name/1", ..., or of a single field "name"."""
    if name in fields:
        return [fields[name]]
    names = itertools.takewhile(fields.__contains__, (f"{name}/{i}" for i in itertools.count()))
    return [fields[each] for each in names]


def required_texts_of(preprocessor: object, fields: Fields, name: str) -> list[bytes]:
    """Returns the texts of a list; raises DataError if it is empty or not read."""
    texts = texts_of(fields, name)
    if not texts:
        raise DataError(
            f'{preprocessor}: an example has no text in "{name}"; it has '
            f'{", ".join(fields) or "none"}. The fields of a source read a list as "{name}/*"'
        )
    return texts


def label_name(preprocessor: object, label: bytes, names: Sequence[str]) -> bytes:
    """Returns the name of a class for its index or name; raises DataError if it is neither."""
    text = label.decode("utf-8", "replace")
    if text in names:
        return label
    if not text.isdecimal() or int(text) >= len(names):
        raise DataError(
            f'{preprocessor}: the label "{text}" is neither a name nor a number below {len(names)}'
        )
    return names[int(text)].encode()
