"""Indices of TensorFlow's checkpoints that would end the process are refused in one line."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.summary.writer.record_writer import masked_crc32c
from tensorflow.core.protobuf import tensor_bundle_pb2

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.manifest import manifest_text, read_manifest, record_file
from mtfrun.checkpoints.tensor_index import _MAGIC, _decompress, _entries, _part_key
from mtfrun.checkpoints.values import StoredTensors
from mtfrun.errors import InputError
from mtfrun.files import RunDirError
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from tests.faults.fuzzing import KINDS, damaged, fuzz

Entry = Any


def _save(directory: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    prefix = directory / "model.ckpt-1"
    values: dict[str, Any] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "global_step": np.int64(7),
        "parts": np.arange(400, dtype=np.int32).reshape(100, 4),
    }
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=["a", "global_step", "parts", "parts", "text"],
        shape_and_slices=["", "", "100 4 0,70:-", "100 4 70,30:-", ""],
        tensors=[
            values["a"],
            values["global_step"],
            values["parts"][:70],
            values["parts"][70:],
            tf.constant([b"x", b"y" * 200]),
        ],
    )
    return prefix, values


def write_index(
    path: pathlib.Path, entries: Mapping[bytes, bytes], *, compressed: bool = False
) -> None:
    """Writes a table whose checksums are right."""

    def varint(number: int) -> bytes:
        low, high = number & 127, number >> 7
        return bytes([low | 128]) + varint(high) if high else bytes([low])

    def block(pairs: Mapping[bytes, bytes]) -> bytes:
        body = b"".join(
            b"\0" + varint(len(key)) + varint(len(value)) + key + value
            for key, value in pairs.items()
        )
        body += bytes(4) + (1).to_bytes(4, "little")
        if compressed:  # a literal; the last three zeros copy the bytes five before them
            literal = bytes([61 << 2]) + (len(body) - 4).to_bytes(2, "little") + body[:-3]
            body = varint(len(body)) + literal + bytes([(3 - 1) << 2 | 2, 5, 0])
        body += bytes([compressed])
        return body + masked_crc32c(body).to_bytes(4, "little")

    content, handles = b"", []
    for pairs in (entries, {}):
        handles.append(varint(len(content)) + varint(len(block(pairs)) - 5))
        content += block(pairs)
    handles.append(varint(len(content)) + varint(len(block({b"\xff": handles[0]})) - 5))
    content += block({b"\xff": handles[0]})
    path.write_bytes(content + (handles[1] + handles[2]).ljust(40, b"\0") + _MAGIC)


def forge(prefix: pathlib.Path, name: bytes, change: Callable[[Entry], object]) -> None:
    path = prefix.with_name(f"{prefix.name}.index")
    entries = dict(_entries(path.read_bytes()))
    kind = tensor_bundle_pb2.BundleEntryProto if name else tensor_bundle_pb2.BundleHeaderProto
    entry = kind.FromString(entries[name])
    change(entry)
    entries[name] = entry.SerializePartialToString()
    write_index(path, entries)


def _sized(*sizes: int) -> Callable[[Entry], object]:
    def change(entry: Entry) -> None:
        del entry.shape.dim[:]
        for size in sizes:
            entry.shape.dim.add(size=size)

    return change


FORGERIES: dict[str, tuple[bytes, Callable[[Entry], object]]] = {
    "a negative size": (b"a", _sized(-2, 3)),
    "sizes of 2^63 together": (b"a", _sized(2**62, 2**62)),
    "no element of 2^124": (b"a", _sized(2**62, 2**62, 0)),
    "300 dimensions": (b"a", _sized(*[1] * 300)),
    "an unknown number of dimensions": (b"a", lambda e: setattr(e.shape, "unknown_rank", True)),
    "an unknown type": (b"a", lambda e: setattr(e, "dtype", 999)),
    "no type": (b"a", lambda e: setattr(e, "dtype", 0)),
    "a variant": (b"a", lambda e: setattr(e, "dtype", 21)),
    "a resource": (b"a", lambda e: setattr(e, "dtype", 20)),
    "a reference": (b"a", lambda e: setattr(e, "dtype", 101)),
    "a text of numbers": (b"a", lambda e: setattr(e, "dtype", 7)),
    "a larger size": (b"a", lambda e: setattr(e, "size", 2**62)),
    "a negative place": (b"a", lambda e: setattr(e, "offset", -8)),
    "a place behind the end": (b"a", lambda e: setattr(e, "offset", 2**62)),
    "another file": (b"a", lambda e: setattr(e, "shard_id", 5)),
    "texts of another length": (b"text", _sized(3)),
    "2^40 texts": (b"text", _sized(2**40)),
    "a part that is larger": (b"parts", lambda e: setattr(e.slices[0].extent[0], "length", 71)),
    "a part outside": (b"parts", lambda e: setattr(e.slices[1].extent[0], "start", 2**62)),
    "a negative part": (b"parts", lambda e: setattr(e.slices[0].extent[0], "start", -1)),
    "a part of other dimensions": (b"parts", lambda e: e.slices[0].extent.add(start=0, length=1)),
    "parts of a larger tensor": (b"parts", _sized(2**30, 4)),
    "no files": (b"", lambda h: setattr(h, "num_shards", 0)),
    "another byte order": (b"", lambda h: setattr(h, "endianness", 1)),
}


def test_tensors_and_parts_are_read(tmp_path: pathlib.Path) -> None:
    prefix, values = _save(tmp_path)
    forge(prefix, b"a", lambda e: e)  # TensorFlow reads our table
    tensors = StoredTensors(str(prefix))
    for name, value in values.items():
        np.testing.assert_array_equal(tensors[name], value)
    assert tensors.step("global_step") == 7
    with pytest.raises(RunDirError, match="is not a number of steps"):
        tensors.step("a")
    with pytest.raises(RunDirError, match="no real numbers"):
        tensors["text"]


def test_other_tensors_are_read_after_a_damaged_part(tmp_path: pathlib.Path) -> None:
    prefix, values = _save(tmp_path)
    forge(prefix, _part_key(b"parts", [(70, 30), (0, -1)]), lambda e: setattr(e, "crc32c", 1))
    tensors = StoredTensors(str(prefix))
    with pytest.raises(RunDirError, match="cannot read parts of"):
        tensors["parts"]
    np.testing.assert_array_equal(tensors["a"], values["a"])


def test_a_compressed_index_is_read(tmp_path: pathlib.Path) -> None:
    prefix, values = _save(tmp_path)
    path = prefix.with_name(f"{prefix.name}.index")
    write_index(path, dict(_entries(path.read_bytes())), compressed=True)
    np.testing.assert_array_equal(StoredTensors(str(prefix))["parts"], values["parts"])
    forge_compressed = dict(_entries(path.read_bytes())) | {b"a": b"\xff"}
    write_index(path, forge_compressed, compressed=True)
    with pytest.raises(RunDirError, match="copy it again"):
        StoredTensors(str(prefix))


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (b"\x08abc", 4),  # another size
        (b"\x08abc", 2),
        (b"\x08ab", 3),  # a literal that ends too early
        (b"\x08abc\x02\x04\x00", 4),  # a copy from before the beginning
        (b"\x08abc\x02\x00\x00", 4),
        (b"\x08abc\x02\x01", 4),
        (b"\xfc\xff\xff\xff\x7f", 9),
        (b"\x01", 4),
    ],
)
def test_damaged_blocks_are_refused(block: bytes, size: int) -> None:
    with pytest.raises((InputError, IndexError)):
        _decompress(block, size)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_entry_is_refused(name: str, tmp_path: pathlib.Path) -> None:
    prefix, _ = _save(tmp_path)
    forge(prefix, *FORGERIES[name])
    with pytest.raises(RunDirError, match=r"cannot read the checkpoint: .*; copy it again"):
        InitCheckpoint(str(prefix))({})


def test_a_forged_checkpoint_of_a_run_is_refused(tmp_path: pathlib.Path) -> None:
    variables = {"x": tf.Variable([1.0, 2.0])}
    Checkpoints(tmp_path).save(1, variables)
    key = b"variables/x/.ATTRIBUTES/VARIABLE_VALUE"
    forge(tmp_path / "ckpt-1", key, _sized(-2))
    manifest = read_manifest(tmp_path, 1)
    manifest.files["ckpt-1.index"] = record_file(tmp_path / "ckpt-1.index")
    (tmp_path / "ckpt-1.json").write_text(manifest_text(manifest))
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        Checkpoints(tmp_path).restore(1, variables)


@pytest.mark.slow
def test_many_entries_and_long_names_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.index"
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString()
    write_index(path, {b"": header, **{b"%08d" % n: b"" for n in range(250_000)}})
    with pytest.raises(RunDirError, match="more than 200,000 entries"):
        StoredTensors(str(path.with_suffix("")))
    write_index(path, {b"": header, b"a" * 5000: b""})
    with pytest.raises(RunDirError, match="too long a name"):
        StoredTensors(str(path.with_suffix("")))


@pytest.mark.parametrize("count", KINDS)
def test_damaged_indices_are_input_errors(count: int, tmp_path: pathlib.Path) -> None:
    prefix, _ = _save(tmp_path)
    path = prefix.with_name(f"{prefix.name}.index")
    valid = dict(_entries(path.read_bytes()))
    joined = b"|".join(valid.values())

    def read(content: bytes) -> None:
        values = content.split(b"|")
        write_index(path, dict(zip(valid, [*values, *[b""] * len(valid)], strict=False)))
        tensors = StoredTensors(str(prefix))
        for name in tensors.shapes:
            try:
                tensors[name]
            except InputError:
                continue

    fuzz(count, damaged([joined]), read)
