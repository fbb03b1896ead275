"""Files of records with named fields: JSON lines, TFRecord, Parquet; some may be malformed."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from mtfrun.data.errors import DataError, import_package, lacks
from mtfrun.data.sources.source import Example, FileSource, in_parts
from mtfrun.data.sources.streams import (
    check_expansion,
    is_compressed,
    naming_the_file,
    unreadable,
    whole_lines,
)
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import check_record_lengths

T = TypeVar("T")
FieldNames = Mapping[str, str] | Sequence[str]
"""Our name of each field to the name in the data; a sequence where both are the same."""

ALL = "*"
"""Selects all elements of a list."""


class BadRecordError(Exception):
    """A record is malformed; the message says why, without the place of the record."""


class MissingFieldError(BadRecordError):
    """A record lacks a requested field."""


def skip_bad(
    records: Iterable[T | BadRecordError], source: object, split: str, limit: int
) -> Iterator[T]:
    """Yields good records, and a warning at the end; DataError for one bad one more than `limit`.

    The message of a bad record says which it is and why.
    """
    messages: list[str] = []
    has_good = False
    for record in records:
        if not isinstance(record, BadRecordError):
            has_good = True
            yield record
            continue
        messages.append(str(record))
        if len(messages) > limit:
            name, skip = type(source).__name__, f"skip_bad_records={len(messages)} or more"
            remedy = f"correct or delete it, or leave out bad records with {name}.{skip}"
            if isinstance(record, MissingFieldError) and not has_good:
                remedy = f"name one of these in {name}.fields, or in its gin macro"
            raise DataError(f"{record}; {remedy}")
    if messages:
        logging.warning(
            '%s: left out %d bad record(s) of split "%s"; the first: %s',
            *(source, len(messages), split, messages[0]),
        )


@dataclasses.dataclass(frozen=True)
class RecordFiles(FileSource):
    """Files of records with named fields.

    Attributes:
      skip_bad_records: the maximum number of malformed records of a split that are left out, with
        a warning. A file that cannot be read to its end is always an error.
    """

    skip_bad_records: int = dataclasses.field(default=0, kw_only=True)

    # Where a record stands, for messages.
    place: ClassVar[str] = "{path}:{number}"

    def examples(self, split: str) -> Iterator[Example]:
        records = self._records_of_split(split)
        for fields in skip_bad(records, self, split, self.skip_bad_records):
            yield from () if fields is None else in_parts(fields)

    def _records_of_split(
        self, split: str
    ) -> Iterator[Mapping[str, bytes] | BadRecordError | None]:
        is_in_split = self._in_split(split)
        for path in self.paths(split):
            for number, record in self._records(path):
                if is_in_split(self._key(record)):
                    try:
                        yield self._fields(record)
                    except BadRecordError as error:
                        place = self.place.format(path=path, number=number)
                        yield type(error)(f"{place}: {error}")

    def _records(self, path: str) -> Iterator[tuple[int, Any]]:
        """Yields every record and its number for messages; by default the lines of a text file."""
        return enumerate(whole_lines(path, self._blocks(path)), 1)

    @abc.abstractmethod
    def _fields(self, record: Any) -> Mapping[str, bytes] | None:
        """Returns the fields of a record, None to leave it out; may raise BadRecordError."""

    def _key(self, record: Any) -> bytes:
        """Returns the bytes of a record that decide its split, by their hash."""
        key: bytes = record
        return key


@dataclasses.dataclass(frozen=True)
class FieldRecords(RecordFiles):
    """Files of records with fields that are chosen by name.

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


def by_our_name(fields: FieldNames) -> dict[str, str]:
    return dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}


def outermost_columns(
    selected: Mapping[str, str], columns: Collection[str], source: str
) -> list[str]:
    outermost = set()
    for name in selected.values():
        column = name if name in columns else name.split("/", maxsplit=1)[0]
        if column not in columns:
            raise DataError(lacks(source, "column", name, columns))
        outermost.add(column)
    return sorted(outermost)


def text_of_value(value: object) -> bytes | None:
    r"""Returns a text, number (decimals) or truth value (JSON's word) as UTF-8, else None.

    Examples:
      >>> [text_of_value(value) for value in ("é", b"\xff", 12, 0.5, True, ["a"])]
      [b'\xc3\xa9', b'\xff', b'12', b'0.5', b'true', None]
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        # JSON may hold halves of characters, which UTF-8 cannot.
        return value.encode("utf-8", "replace")
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float):
        return str(value).encode()
    return None


def texts_of_record(
    record: Mapping[str, object], fields: Mapping[str, str] | None
) -> dict[str, bytes]:
    """Returns texts, numbers and truth values of a record as UTF-8; may raise BadRecordError.

    `fields` maps our names to names in the record, as in `FieldRecords`; None for all values but
    lists, mappings and missing values.
    """
    if fields is None:
        all_texts = {name: text_of_value(value) for name, value in record.items()}
        present = {name: text for name, text in all_texts.items() if text is not None}
        if not present:
            raise BadRecordError("no field holds text")
        return present
    fields_by_name: dict[str, bytes] = {}
    for ours, name in fields.items():
        values: list[object] = [record[name]] if name in record else [record]
        for key in name.split("/") if name not in record else ():
            values = [inner for value in values for inner in _inner(record, name, value, key)]
        texts = [_text(value, name) for value in values]
        fields_by_name |= list_fields(ours, texts) if ALL in name.split("/") else {ours: texts[0]}
    return fields_by_name


def list_fields(ours: str, texts: Iterable[bytes]) -> dict[str, bytes]:
    """Returns a field for each text: "answers/0", "answers/1", ... for "answers/*"."""
    name = "/".join(key for key in ours.split("/") if key != ALL)
    return {f"{name}/{i}": text for i, text in enumerate(texts)}


def _text(value: object, name: str) -> bytes:
    text = text_of_value(value)
    if text is not None:
        return text
    kind = "missing (null)" if value is None else f"of type {type(value).__name__}"
    if isinstance(value, list):
        kind = f'a list (its first element is "{name}/0", all are "{name}/*")'
    elif isinstance(value, Mapping):
        kind = f'a mapping (a value of it is "{name}/{next(iter(value), "key")}")'
    raise BadRecordError(f'field "{name}" is {kind}, not text')


def _inner(record: Mapping[str, object], name: str, value: object, key: str) -> Sequence[object]:
    """Returns the value of a key within a value; several for "*"."""
    if isinstance(value, Mapping) and key in value:
        return [value[key]]
    if isinstance(value, list) and key == ALL:
        return value
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return [value[int(key)]]
    raise MissingFieldError(lacks("it", "field", name, record))


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        ((twice, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise BadRecordError(f'it has the field "{twice}" twice')
    return mapping


_NUMBERS = json.JSONDecoder(object_pairs_hook=_without_duplicates)
# As written in the file: 1.50 stays "1.50".
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, object_pairs_hook=_without_duplicates)


def json_value(line: bytes, decoder: json.JSONDecoder = _NUMBERS) -> object:
    """Raises BadRecordError for a line that is not JSON, or an object with a field twice."""
    try:
        return decoder.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecordError(f"it is not UTF-8, at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        place = f"at character {error.pos + 1}"
        raise BadRecordError(f"it is not JSON: {error.msg}, {place}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"it is not JSON: {error}") from error


@dataclasses.dataclass(frozen=True)
class JsonLines(FieldRecords):
    """One JSON object per line; blank lines are left out, numbers stay as they are written."""

    def _values(self, record: bytes) -> Mapping[str, object] | None:
        if not record.strip():
            return None
        content = json_value(record, _DECODER)
        if not isinstance(content, dict):
            raise BadRecordError('it is not a JSON object, {"name": "text", ...}')
        return content


@dataclasses.dataclass(frozen=True)
class Tfrecord(FieldRecords):
    """TFRecord files of tf.train.Example, plain or `.gz`.

    `skip_bad_records` cannot skip a wrong checksum: the next record cannot be found.
    """

    place: ClassVar[str] = "{path}, record {number}"

    def _records(self, path: str) -> Iterator[tuple[int, bytes]]:
        is_gzip = path.lower().endswith(".gz")
        if is_compressed(path) and not is_gzip:
            raise DataError(f"{path}: TFRecord files are read plain or .gz; decompress it")
        compression = "GZIP" if is_gzip else ""
        with naming_the_file(path), Path(path).open("rb") as file:
            try:
                check_record_lengths(file, is_compressed=bool(compression))
            except InputError as error:
                raise unreadable(path, error) from error
        records = tf.data.TFRecordDataset(path, compression).as_numpy_iterator()
        number = size = 0
        compressed_size = Path(path).stat().st_size
        try:
            for record in records:
                number += 1
                size += len(record)
                check_expansion(path, size, compressed_size)
                yield number, record
        except tf.errors.OpError as error:
            reason = error.message.split(" [Op:")[0].split("}} ")[-1]
            raise unreadable(path, f"{reason}, at record {number + 1}") from error

    def _values(self, record: bytes) -> Mapping[str, object]:
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise BadRecordError("it is not a tf.train.Example") from error
        return {name: _value(features[name]) for name in sorted(features)}


def _value(feature: tf.train.Feature) -> object:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    return values[0] if len(values) == 1 else values


# Rows that are in memory at once.
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Parquet(FieldRecords):
    """Parquet files, one example per row; a hash of the columns that are read decides its split."""

    place: ClassVar[str] = "{path}, record {number}"

    def expected_bytes(self, split: str) -> int | None:
        return None

    def _records(self, path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        arrow = import_package("pyarrow", path)
        parquet = import_package("pyarrow.parquet", path)
        number = produced = 0
        try:
            with parquet.ParquetFile(path) as file:
                names, selected = file.schema_arrow.names, self._selected
                columns = None if selected is None else outermost_columns(selected, names, path)
                for batch in file.iter_batches(_BATCH, columns=columns):
                    produced += batch.nbytes
                    check_expansion(path, produced, Path(path).stat().st_size)
                    for row in _rows(batch):
                        number += 1
                        yield number, row
        except (arrow.ArrowException, OSError) as error:
            raise unreadable(path, f"{error}, after record {number}") from error

    def _key(self, record: Mapping[str, Any]) -> bytes:
        return repr(record).encode()

    def _values(self, record: Mapping[str, Any]) -> Mapping[str, object]:
        if isinstance(record, _BadRow):
            raise BadRecordError(record.reason)
        return record


class _BadRow(dict[str, Any]):
    """A row that cannot be converted to Python, such as text that is not UTF-8."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.reason = " ".join(str(error).split())


def _rows(batch: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a batch, one by one if it cannot be converted as a whole."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, TypeError) as error:
        if batch.num_rows == 1:
            yield _BadRow(error)
        else:
            for index in range(batch.num_rows):
                yield from _rows(batch.slice(index, 1))
