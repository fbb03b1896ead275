"""Reads and writes safetensors files; checks the header before anything is read.

The format: 8 bytes with the length of a JSON header, the header, then the tensors one after the
other; https://huggingface.co/docs/safetensors. The library reads no bfloat16 into numpy, and writes
several metadata in a random order.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from mtfrun.errors.untrusted import parse_json
from mtfrun.experiment.conversion.importer import ConversionError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""The file of a small model, and the index of a large model's files."""

# As the library that everybody uses.
LONGEST_HEADER = 100_000_000

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""The types of numpy by their names in headers."""

FLOATS = ("F32", "BF16", "F16")
"""The types of weights, all of which float32 holds."""

_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
# The order of types in a file, as in the library: the widest first.
_ORDER = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
_METADATA = "__metadata__"
# numpy's maximum.
_MOST_DIMENSIONS = 64


class StoredTensor(NamedTuple):
    """A tensor's place in a file; `begin` is its first byte."""

    file: pathlib.Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * int(np.dtype(DTYPES[self.dtype]).itemsize)

    def read(self) -> np.ndarray:
        with self.file.open("rb") as file:
            file.seek(self.begin)
            content = file.read(self.size)
        if len(content) != self.size:
            raise ConversionError(f"{self.file} was truncated while it was read")
        return np.frombuffer(content, DTYPES[self.dtype]).reshape(self.shape)


class Header(NamedTuple):
    """The tensors of a file in order, and texts of the program that wrote it."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: pathlib.Path, open_file: BinaryIO) -> Header:
    """Raises ConversionError for damaged files, and types that are not supported."""
    size = open_file.seek(0, 2)
    open_file.seek(0)
    length = int.from_bytes(open_file.read(8), "little")
    if size < 8 or length > min(LONGEST_HEADER, size - 8):
        raise ConversionError(
            f"{path}: a header of {length} bytes in a file of {size}: it is truncated or not a "
            "safetensors file; copy it again"
        )
    try:
        content = parse_json(open_file.read(length))
        metadata = content.pop(_METADATA, {})
        tensors = {
            name: _read_header(path, name, entry, 8 + length, size)
            for name, entry in content.items()
        }
        texts = {str(key): str(value) for key, value in dict(metadata or {}).items()}
    except ConversionError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConversionError(f"{path}: its header is damaged: {error}; copy it again") from error
    _check_order(path, list(tensors.values()), 8 + length, size)
    return Header(tensors, texts)


def _check_order(
    path: pathlib.Path, tensors: Sequence[StoredTensor], start: int, size: int
) -> None:
    """Every byte belongs to one tensor: overlaps would let a small file stand for much memory."""
    end = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.size)):
        if tensor.begin != end:
            raise ConversionError(
                f"{path}: its tensors overlap, or there are bytes between them; copy it again"
            )
        end += tensor.size
    if end != size:
        raise ConversionError(f"{path} has {size - end} bytes after its last tensor; copy it again")


def _read_header(path: pathlib.Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    dtype = entry["dtype"]
    if dtype not in DTYPES:
        raise ConversionError(
            f"{path}: {name} has type {dtype!r:.20}, which is not supported: float32, float16 and "
            "bfloat16 are; quantised weights must be converted to one of these first"
        )
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    numbers = (*shape, begin, end)
    if len(shape) > _MOST_DIMENSIONS or not all(
        type(number) is int and 0 <= number < 2**63 for number in numbers
    ):
        raise ConversionError(f"{path}: {name} has impossible sizes; copy it again")
    if end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize or start + end > size:
        raise ConversionError(
            f"{path}: {name} lies outside of the file: it is truncated; copy it again"
        )
    return StoredTensor(path, dtype, shape, start + begin)


def write_file(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the same bytes as the library."""
    with path.open("wb") as file:
        file.writelines(file_content(tensors, metadata))


def file_content(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yields the bytes of a file of these tensors."""
    types = {name: _NAMES[value.dtype] for name, value in tensors.items()}
    names = sorted(tensors, key=lambda name: (_ORDER.index(types[name]), name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name in names:
        end = begin + tensors[name].nbytes
        header[name] = {
            "dtype": types[name],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield np.ascontiguousarray(tensors[name]).tobytes()


# The size of the largest file, by default, as in transformers 5.
_MAX_SHARD_BYTES = 50 * 10**9


def shards_by_size(
    tensors: Mapping[str, np.ndarray], max_bytes: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the tensors of every file, in their order, as transformers spreads them.

    A file ends before it would exceed `max_bytes`; a larger tensor has a file alone. See
    `split_state_dict_into_shards_factory` in https://github.com/huggingface/huggingface_hub.
    """
    max_bytes = max_bytes or _MAX_SHARD_BYTES
    parts: list[dict[str, np.ndarray]] = []
    current: dict[str, np.ndarray] = {}
    size = 0
    for name, value in tensors.items():
        if value.nbytes > max_bytes:
            parts.append({name: value})
            continue
        if size + value.nbytes > max_bytes:
            parts.append(current)
            current, size = {}, 0
        current[name] = value
        size += value.nbytes
    if current:
        parts.append(current)
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    stem, _, suffix = SINGLE.rpartition(".")
    return {
        f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}": part
        for number, part in enumerate(parts, 1)
    }


def write_shards(
    directory: pathlib.Path,
    shards: Mapping[str, Mapping[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Writes files of tensors, and the index of several, in the form of transformers."""
    for name, shard in shards.items():
        write_file(directory / name, shard, metadata)
    if list(shards) == [SINGLE]:
        return
    tensors = [value for shard in shards.values() for value in shard.values()]
    index = {
        "metadata": {
            "total_parameters": sum(value.size for value in tensors),
            "total_size": sum(value.nbytes for value in tensors),
        },
        "weight_map": {name: file for file, shard in shards.items() for name in shard},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (directory / INDEX).write_text(text, encoding="utf-8")
