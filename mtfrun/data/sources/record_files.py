"""Base classes of files of records, some of which may be malformed."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from absl import logging

from mtfrun.data.errors import DataError
from mtfrun.data.sources.file_source import FileSource
from mtfrun.data.sources.record_fields import (
    BadRecordError,
    FieldNames,
    by_our_name,
    texts_of_record,
)
from mtfrun.data.sources.source import Example, in_parts
from mtfrun.data.sources.streams import whole_lines


class BadRecords:
    """Counts the malformed records of a split, of which at most `limit` are left out."""

    def __init__(self, source: object, split: str, limit: int) -> None:
        self._source, self._split, self._limit = source, split, limit
        self._messages: list[str] = []

    def add(self, message: str) -> None:
        """Raises DataError for one more than the limit; the message says which it is and why."""
        self._messages.append(message)
        count = len(self._messages)
        if count > self._limit:
            raise DataError(
                f"{message}; correct or delete it, or leave out bad records with "
                f"{type(self._source).__name__}.skip_bad_records={count} or more"
            )

    def warn(self) -> None:
        if self._messages:
            logging.warning(
                '%s: left out %d bad record(s) of split "%s"; the first: %s',
                *(self._source, len(self._messages), self._split, self._messages[0]),
            )


@dataclasses.dataclass(frozen=True)
class RecordFiles(FileSource):
    """Files of records with named fields.

    Attributes:
      skip_bad_records: at most so many malformed records of a split are left out, with a warning;
        one more is an error. A file that cannot be read to its end is always an error.
    """

    skip_bad_records: int = dataclasses.field(default=0, kw_only=True)

    # Where a record stands, for messages.
    place: ClassVar[str] = "{path}, record {number}"

    def examples(self, split: str) -> Iterator[Example]:
        is_in_split = self._in_split(split)
        bad = BadRecords(self, split, self.skip_bad_records)
        for path in self.paths(split):
            for number, record in self._numbered_records(path):
                if not is_in_split(self._key(record)):
                    continue
                try:
                    fields = self._fields(record)
                except BadRecordError as error:
                    bad.add(f"{self.place.format(path=path, number=number)}: {error}")
                    continue
                if fields is not None and len(fields) > 1:
                    yield Example(fields)
                elif fields is not None:
                    yield from in_parts(fields)
        bad.warn()

    def _numbered_records(self, path: str) -> Iterator[tuple[int, Any]]:
        """Yields the records of a file, numbered for messages."""
        return enumerate(self._records(path), 1)

    @abc.abstractmethod
    def _records(self, path: str) -> Iterator[Any]:
        """Yields the records of a file."""

    @abc.abstractmethod
    def _fields(self, record: Any) -> Mapping[str, bytes] | None:
        """Returns the fields of a record, None to leave it out; may raise BadRecordError."""

    def _key(self, record: Any) -> bytes:
        """Returns the bytes whose hash decides the split of a record."""
        key: bytes = record
        return key

    def _keys(self, path: str) -> Iterator[bytes]:
        return (self._key(record) for _, record in self._numbered_records(path))


@dataclasses.dataclass(frozen=True)
class LineRecordFiles(RecordFiles):
    """Text files of one record per line."""

    place: ClassVar[str] = "{path}:{number}"

    def _records(self, path: str) -> Iterator[bytes]:
        return whole_lines(path, self._blocks(path))


@dataclasses.dataclass(frozen=True)
class FieldRecords(RecordFiles):
    """Files of records whose fields are chosen by name.

    Attributes:
      fields: our name of each field to the name in the records, {"inputs": "question"}, or a
        sequence of names that do not change. "outer/inner" is nested; a number selects an element
        of a list, "answers/0"; "answers/*" selects all as "answers/0", "answers/1", .... By default
        all values that are texts, numbers or truth values.
    """

    fields: FieldNames | None = None

    def _fields(self, record: Any) -> Mapping[str, bytes] | None:
        values = self._values(record)
        return None if values is None else texts_of_record(values, self._selected)

    @abc.abstractmethod
    def _values(self, record: Any) -> Mapping[str, object] | None:
        """Returns the values of a record, None to leave it out; may raise BadRecordError."""

    @functools.cached_property
    def _selected(self) -> dict[str, str] | None:
        return None if self.fields is None else by_our_name(self.fields)
