"""TFRecord files of tf.train.Example."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from mtfrun.data import DataError, Tfrecord


def serialized(**values: list[bytes] | list[int] | list[float]) -> bytes:
    """Returns a tf.train.Example of lists."""
    features = {}
    for name, items in values.items():
        if items and isinstance(items[0], int):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=items))
        elif items and isinstance(items[0], float):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=items))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=items))
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write(path: Path, records: list[bytes]) -> Tfrecord:
    """Returns the source of a file of records, all for training."""
    options = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)
    return Tfrecord({"train": str(path)})


def examples(source: Tfrecord) -> list[dict[str, bytes]]:
    """Returns the fields of all examples."""
    return [dict(example.fields) for example in source.examples("train")]


def message(source: Tfrecord) -> str:
    """Returns the one-line error of the source."""
    with pytest.raises(DataError) as error:
        examples(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_features_of_one_value_become_text(tmp_path: Path, suffix: str) -> None:
    record = serialized(text=[b"\xff"], number=[7], score=[0.5], several=[b"a", b"b"], none=[])
    path = tmp_path / f"a.tfrecord{suffix}"
    source = write(path, [record, serialized(text=[b""])])
    assert examples(source) == [{"text": b"\xff", "number": b"7", "score": b"0.5"}, {"text": b""}]
    chosen = Tfrecord({"train": str(path)}, {"inputs": "several/1"}, skip_bad_records=1)
    assert examples(chosen) == [{"inputs": b"b"}]


def test_records_that_are_no_examples_or_lack_a_feature_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, [serialized(text=[b"a"]), b"\xff\xff\xff", serialized(other=[b"b"])])
    assert message(Tfrecord({"train": str(path)}, ["text"])).startswith(
        f"{path}, record 2: it is not a tf.train.Example; "
    )
    source = Tfrecord({"train": str(path)}, ["text"], skip_bad_records=1)
    assert message(source).startswith(
        f'{path}, record 3: it has no field "text"; it has other; correct or delete it'
    )


def test_damaged_and_truncated_files_are_errors_with_the_record(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, [serialized(text=[b"a" * 50])] * 3)
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:-20] + b"\x00" * 10 + whole[-10:]):
        path.write_bytes(damaged)
        line = message(Tfrecord({"train": str(path)}, skip_bad_records=9))
        assert line.startswith(f"{path} cannot be read: ") and ", at record 3; is it" in line
    for suffix in (".zst", ".bz2", ".xz"):
        path.with_suffix(suffix).write_bytes(b"")
        assert "read plain or .gz" in message(Tfrecord({"train": f"{tmp_path}/*{suffix}"}))
