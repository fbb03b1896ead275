"""Records: JSON lines and TFRecord files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from mtfrun.data import DataError, JsonLines, NoSource, Source, Tfrecord


def written(directory: Path, content: str | bytes, **options: Any) -> JsonLines:
    path = directory / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return JsonLines({"train": str(path)}, **options)


def examples(source: Source, split: str = "train") -> list[dict[str, bytes]]:
    return [dict(example.fields) for example in source.examples(split)]


def message(source: Source) -> str:
    with pytest.raises(DataError) as error:
        examples(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_objects_become_fields_of_text(tmp_path: Path) -> None:
    lines = (
        '{"a": "é", "n": 1.50, "t": true, "l": ["x"], "z": null}\n\n\ufeff{"a": "", "n": -3}\r\n'
    )
    assert examples(written(tmp_path, lines)) == [
        {"a": "é".encode(), "n": b"1.50", "t": b"true"},
        {"a": b"", "n": b"-3"},
    ]


def test_fields_are_chosen_and_renamed_nested_ones_too(tmp_path: Path) -> None:
    content = json.dumps({"q": "why", "answers": {"text": ["so", "thus"]}, "a/b": "literal"})
    fields = {"inputs": "q", "targets": "answers/text/1", "other": "a/b"}
    assert examples(written(tmp_path, content, fields=fields)) == [
        {"inputs": b"why", "targets": b"thus", "other": b"literal"}
    ]
    assert examples(written(tmp_path, content, fields=["q"])) == [{"q": b"why"}]


def test_all_elements_of_a_list_become_fields(tmp_path: Path) -> None:
    content = json.dumps({"q": [], "a": {"text": ["so", 2]}, "l": [{"x": "1"}, {"x": "2"}]})
    fields = {"q": "q/*", "answers": "a/text/*", "x": "l/*/x"}
    assert examples(written(tmp_path, content, fields=fields)) == [
        {"answers/0": b"so", "answers/1": b"2", "x/0": b"1", "x/1": b"2"}
    ]
    assert examples(written(tmp_path, content, fields=["a/text/*"])) == [
        {"a/text/0": b"so", "a/text/1": b"2"}
    ]
    assert 'field "l/*" is a mapping' in message(written(tmp_path, content, fields=["l/*"]))
    assert 'no field "a/*"' in message(written(tmp_path, content, fields=["a/*"]))


@pytest.mark.parametrize(
    "line, fields, reason",
    [
        ("{", None, "it is not JSON: Expecting property name .*, at character 2"),
        ("[" * 100_000, None, "it is not JSON: "),
        ("[1]", None, 'it is not a JSON object, {"name": "text", ...}'),
        ("{}", None, "no field holds text"),
        (b'{"a": "\xff"}', None, "it is not UTF-8, at byte 8"),
        ('{"a": "1", "b": "2", "a": "3"}', None, 'it has the field "a" twice'),
        ('{"b": {"a": 1, "a": 1}}', ["b/a"], 'it has the field "a" twice'),
        ('{"question": "x"}', ["questoin"], 'no field "questoin"; it has question, did you mean'),
        (
            '{"a": ["x", "y"]}',
            ["a"],
            'field "a" is a list (its first element is "a/0", all are "a/*"), not text',
        ),
        ('{"a": {"b": "c"}}', ["a"], 'field "a" is a mapping (a value of it is "a/b"), not text'),
        ('{"a": null}', ["a"], 'field "a" is missing (null), not text'),
        ('{"a": []}', ["a/0"], 'it has no field "a/0"; it has a'),
    ],
)
def test_a_malformed_line_is_named_and_may_be_left_out(
    line: str | bytes, fields: list[str] | None, reason: str, tmp_path: Path
) -> None:
    line = line if isinstance(line, bytes) else line.encode()
    good = json.dumps({(fields or ["a"])[0]: "good"}).encode()
    content = b"\n".join([good, line, good])
    text = message(written(tmp_path, content, fields=fields))
    assert text.startswith(f"{tmp_path}/a.jsonl:2: ")
    assert reason.partition(".*")[0] in text
    skipping = written(tmp_path, content, fields=fields, skip_bad_records=1)
    assert [list(example.values()) for example in examples(skipping)] == [[b"good"]] * 2


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    assert examples(written(tmp_path, r'{"a": "x\ud800y"}')) == [{"a": b"x?y"}]


def test_a_long_text_comes_in_parts(tmp_path: Path) -> None:
    text = "some words " * 300_000
    parts = list(written(tmp_path, json.dumps({"text": text})).examples("train"))
    assert b"".join(part.fields["text"] for part in parts) == text.encode()
    assert [part.is_whole for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 2


def test_a_field_that_no_record_has_is_to_be_corrected_and_not_the_records(tmp_path: Path) -> None:
    text = message(written(tmp_path, b'{"b": "c"}\n{"b": "d"}', fields=["a"]))
    assert text.endswith(
        'it has no field "a"; it has b; name one of these in JsonLines.fields, or in its gin macro'
    )


def serialized(**values: list[bytes] | list[int] | list[float]) -> bytes:
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
    options = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)
    return Tfrecord({"train": str(path)})


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


def test_reading_a_configuration_without_data_names_the_remedy() -> None:
    source = NoSource()
    with pytest.raises(DataError, match="names no data to train on"):
        next(source.examples("train"))
    with pytest.raises(DataError, match="set --gin"):
        source.fingerprint("train")
    with pytest.raises(DataError, match="add a file of data"):
        source.check_split("validation")
