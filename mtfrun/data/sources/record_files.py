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


@dataclasses.dataclass(frozen=True)
class RecordFiles(FileSource):
    """Files of records with named fields.

    Attributes:
      patterns: as in FileSource.
      skip_bad_records: so many malformed records of a split are left out, which a warning counts;
        one more is an error. A file that cannot be read to its end is always an error.
    """

    skip_bad_records: int = dataclasses.field(default=0, kw_only=True)

    # Where a record stands, for messages.
    place: ClassVar[str] = "{path}, record {number}"

    def examples(self, split: str) -> Iterator[Example]:
        """Yields the records of a split."""
        is_in_split = self._in_split(split)
        bad = 0
        first_bad = ""
        for path in self.paths(split):
            for number, record in self._numbered_records(path):
                if not is_in_split(self._key(record)):
                    continue
                try:
                    fields = self._fields(record)
                except BadRecordError as error:
                    message = f"{self.place.format(path=path, number=number)}: {error}"
                    bad += 1
                    first_bad = first_bad or message
                    if bad > self.skip_bad_records:
                        raise self._too_many(message) from error
                    continue
                if fields is not None and len(fields) > 1:
                    yield Example(fields)
                elif fields is not None:
                    yield from in_parts(fields)
        if bad:
            logging.warning(
                '%s: left out %d bad record(s) of split "%s"; the first: %s',
                *(self, bad, split, first_bad),
            )

    def _numbered_records(self, path: str) -> Iterator[tuple[int, Any]]:
        """Yields the records of a file, each with its number for messages."""
        return enumerate(self._records(path), 1)

    @abc.abstractmethod
    def _records(self, path: str) -> Iterator[Any]:
        """Yields the records of a file as they stand there."""

    @abc.abstractmethod
    def _fields(self, record: Any) -> Mapping[str, bytes] | None:
        """Returns the fields of a record, None for one that is left out.

        Raises:
          BadRecordError: it is malformed.
        """

    def _key(self, record: Any) -> bytes:
        """Returns the bytes whose hash decides the split where the patterns do not."""
        key: bytes = record
        return key

    def _keys(self, path: str) -> Iterator[bytes]:
        return (self._key(record) for _, record in self._numbered_records(path))

    def _too_many(self, message: str) -> DataError:
        if self.skip_bad_records:
            return DataError(
                f"{message}; it is one more than skip_bad_records={self.skip_bad_records} allows"
            )
        return DataError(
            f"{message}; correct it, or leave out up to N such records with "
            f"{type(self).__name__}.skip_bad_records=N"
        )


@dataclasses.dataclass(frozen=True)
class LineRecordFiles(RecordFiles):
    """Text files of one record per line.

    Attributes:
      patterns, skip_bad_records: as in RecordFiles.
    """

    place: ClassVar[str] = "{path}:{number}"

    def _records(self, path: str) -> Iterator[bytes]:
        return whole_lines(path, self._blocks(path))


@dataclasses.dataclass(frozen=True)
class FieldRecords(RecordFiles):
    """Files of records whose fields are chosen by name.

    Attributes:
      patterns, skip_bad_records: as in RecordFiles.
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
        """Returns the values of a record, None for one that is left out; see `_fields`."""

    @functools.cached_property
    def _selected(self) -> dict[str, str] | None:
        return None if self.fields is None else by_our_name(self.fields)
