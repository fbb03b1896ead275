"""Source of tf.train.Example protocol buffers in TFRecord files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from mtfrun.data.errors import DataError
from mtfrun.data.sources.records import BadRecordError, FieldRecords
from mtfrun.data.sources.streams import check_expansion, is_compressed, naming_the_file, unreadable
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import check_record_lengths


@dataclasses.dataclass(frozen=True)
class Tfrecord(FieldRecords):
    """TFRecord files of tf.train.Example, plain or `.gz`.

    `skip_bad_records` cannot skip a wrong checksum: the next record cannot be found.
    """

    def _records(self, path: str) -> Iterator[bytes]:
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
                yield record
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
