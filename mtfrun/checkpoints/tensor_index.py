"""Checks the index of a TensorFlow checkpoint before TensorFlow reads it.

TensorFlow trusts the sizes and offsets in `PREFIX.index`: a negative size, a size of 2^63, 300
dimensions or the type of a later version abort the process from C++, and a part that is larger than
its slice is read past the end of memory.

The file is a LevelDB table (tensorflow/core/lib/io/format.cc): blocks of ascending keys, each
stored as its difference from the previous key, and a block with the positions of the blocks. A key
is the name of a tensor, or of a part of one; a value is a BundleEntryProto
(tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

from mtfrun.errors import RAISE_THE_LIMIT, InputError, is_shortage
from mtfrun.errors.untrusted import open_regular
from mtfrun.files.errors import RunDirError, reason

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES, _TRAILER_BYTES, _SNAPPY = 48, 5, 1
# Limits for reading; an index has about 150 bytes for a variable.
_MOST_BYTES, _MOST_ENTRIES, _LONGEST_KEY = 1 << 26, 200_000, 4096
# For all compressed blocks; Python decompresses some megabytes a second.
_MOST_UNPACKED = 1 << 23
# numpy has no more dimensions; checking parts compares them with each other.
_MOST_DIMENSIONS, _MOST_PARTS, _MOST_STRINGS = 32, 10_000, 100_000
# Kinds of a part of a block in the Snappy format, and the length from which on it follows the tag.
_LITERAL, _SHORT_COPY, _LONGEST_IN_TAG = 0, 1, 60
_TYPES = {
    dtype.as_datatype_enum: dtype.size
    for dtype in (
        *(tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128),
        *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
        tf.bool,
    )
}


def check_index(prefix: str) -> None:
    """Raises RunDirError unless the index of a checkpoint describes tensors that its files hold."""
    path = pathlib.Path(f"{prefix}.index")
    try:
        with open_regular(path) as file:
            _check(path, file.read(_MOST_BYTES + 1))
    except (OSError, InputError, IndexError, DecodeError) as error:
        why = "it ends too early" if isinstance(error, IndexError) else reason(error)
        named = error.filename if isinstance(error, OSError) else path
        remedy = RAISE_THE_LIMIT if is_shortage(why) else "copy it again"
        raise RunDirError(f"cannot read the checkpoint: {named}: {why}; {remedy}") from error


def _check(path: pathlib.Path, content: bytes) -> None:
    if len(content) > _MOST_BYTES:
        raise InputError(f"it has more than {_MOST_BYTES >> 20} MiB, and is not an index")
    entries: dict[bytes, bytes] = {}
    last = None
    for key, value in _entries(content):
        if last is not None and key <= last:
            raise InputError("its keys are not in order")
        if len(entries) == _MOST_ENTRIES:
            raise InputError(f"it has more than {_MOST_ENTRIES:,} entries")
        entries[key] = value
        last = key
    header = BundleHeaderProto.FromString(entries.pop(b"", b""))
    if header.num_shards < 1 or header.endianness != header.LITTLE:
        raise InputError("it has no header, or numbers of another byte order")
    files = _Files(path.with_suffix(""), header.num_shards)
    parsed = {key: BundleEntryProto.FromString(value) for key, value in entries.items()}
    for key, entry in parsed.items():
        name = key.decode("utf-8", "backslashreplace") if key[0] else "a part of a tensor"
        try:
            _check_entry(entry, files)
            if entry.slices:
                _check_parts(key, entry, parsed)
        except InputError as error:
            raise InputError(f"{name:.200}: {error}") from error


class _Files:
    def __init__(self, prefix: pathlib.Path, count: int) -> None:
        self._prefix, self._count = prefix, count
        self._sizes: dict[int, int] = {}

    def path(self, number: int) -> pathlib.Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{number:05}-of-{self._count:05}")

    def size(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise InputError(f"it is in file {number} of {self._count}")
        if number not in self._sizes:
            with open_regular(self.path(number)) as file:
                self._sizes[number] = file.seek(0, 2)
        return self._sizes[number]


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise InputError("it is not an index of TensorFlow, or truncated")
    _, position = _handle(footer, 0)  # the metadata block, which is empty
    index, _ = _handle(footer, position)
    unpacked_bytes = 0
    for _, value in _block(*_plain(content, index)):
        handle, _ = _handle(value, 0)
        block, place = _plain(content, handle)
        if block is not content:
            unpacked_bytes += place.size
            if unpacked_bytes > _MOST_UNPACKED:
                raise InputError(f"it has more than {_MOST_UNPACKED >> 20} MiB, unpacked")
        yield from _block(block, place)


class _Handle(NamedTuple):
    """Position and size of a block, without its trailer."""

    offset: int
    size: int


def _handle(content: bytes, position: int) -> tuple[_Handle, int]:
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return _Handle(offset, size), position


def _plain(content: bytes, place: _Handle) -> tuple[bytes, _Handle]:
    """Returns the uncompressed bytes that contain a block, and the block's place in them."""
    end = place.offset + place.size
    if end + _TRAILER_BYTES > len(content):
        raise InputError("a block lies outside of it")
    if not content[end]:
        return content, place
    if content[end] != _SNAPPY:
        raise InputError("its compression is of an unknown kind")
    size, begin = _varint(content, place.offset)
    if size > _MOST_UNPACKED:
        raise InputError(f"it has more than {_MOST_UNPACKED >> 20} MiB, unpacked")
    return _decompress(content[begin:end], size), _Handle(0, size)


def _decompress(block: bytes, size: int) -> bytes:
    """Decompresses a block in the Snappy format, as in T5's checkpoints, to `size` bytes.

    https://github.com/google/snappy/blob/main/format_description.txt; the size stands before it.

    InputError if the block is damaged, IndexError if it is truncated.

    >>> _decompress(bytes([2 << 2]) + b"abc" + bytes([(6 << 2) | 2, 3, 0]), 10)
    b'abcabcabca'
    """
    position = 0
    content = bytearray()
    while position < len(block):
        tag = block[position]
        kind, upper = tag & 3, tag >> 2
        position += 1
        if kind == _LITERAL:
            length, position = _length(block, upper, position)
            part = block[position : position + length]
            position += length
        else:
            if kind == _SHORT_COPY:
                length, offset = 4 + (upper & 7), (tag >> 5 << 8) | block[position]
                position += 1
            else:
                width = 2 if kind == 2 else 4
                length, offset = 1 + upper, _little(block, position, width)
                position += width
            if not 0 < offset <= len(content):
                raise InputError("a compressed block is damaged")
            start = len(content) - offset
            part = bytes(content[start : start + length])
            # A copy may overlap its output.
            part = (part * (length // len(part) + 1))[:length]
        content += part
        if len(part) != length or len(content) > size:
            raise InputError("a compressed block is damaged")
    if len(content) != size:
        raise InputError("a compressed block is damaged")
    return bytes(content)


def _length(block: bytes, upper: int, position: int) -> tuple[int, int]:
    if upper < _LONGEST_IN_TAG:
        return upper + 1, position
    width = upper - _LONGEST_IN_TAG + 1
    return _little(block, position, width) + 1, position + width


def _little(block: bytes, position: int, width: int) -> int:
    if position + width > len(block):
        raise IndexError(position)
    return int.from_bytes(block[position : position + width], "little")


def _block(content: bytes, place: _Handle) -> Iterator[tuple[bytes, bytes]]:
    end = place.offset + place.size
    if place.size < 4:
        raise InputError("a block lies outside of it")
    restarts = int.from_bytes(content[end - 4 : end], "little")
    end -= 4 * (restarts + 1)
    position, key = place.offset, b""
    while position < end:
        shared, position = _varint(content, position)
        added, position = _varint(content, position)
        size, position = _varint(content, position)
        if shared > len(key) or position + added + size > end or shared + added > _LONGEST_KEY:
            raise InputError("an entry lies outside of its block, or has too long a name")
        key = key[:shared] + content[position : position + added]
        position += added + size
        yield key, content[position - size : position]


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Reads an integer with seven bits per byte, and returns the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InputError("a number has more than 64 bits")


def _check_entry(entry: BundleEntryProto, files: _Files) -> None:
    sizes = _sizes(entry)
    elements = math.prod(sizes)
    if entry.dtype not in _TYPES and entry.dtype != types_pb2.DT_STRING:
        raise InputError(
            f"its type is number {entry.dtype} of TensorFlow's, which is not supported"
        )
    if entry.slices:
        return  # its parts have places instead
    if min(entry.offset, entry.size) < 0 or entry.offset + entry.size > files.size(entry.shard_id):
        raise InputError("it lies outside of its file")
    if entry.dtype == types_pb2.DT_STRING:
        _check_strings(entry, elements, files)
    elif entry.size != elements * _TYPES[entry.dtype]:
        raise InputError(f"it has {entry.size} bytes, which differ from its sizes {list(sizes)}")


def _sizes(entry: BundleEntryProto) -> tuple[int, ...]:
    dimensions = entry.shape.dim
    if len(dimensions) > _MOST_DIMENSIONS or entry.shape.unknown_rank:
        raise InputError(f"it has {len(dimensions)} dimensions")
    sizes = tuple(dimension.size for dimension in dimensions)
    # Zeros count as 1, since TensorFlow multiplies the sizes one after another.
    if min(sizes, default=0) < 0 or math.prod(max(size, 1) for size in sizes) >= 2**60:
        raise InputError(f"its sizes {list(sizes)} are impossible")
    return sizes


def _check_strings(entry: BundleEntryProto, count: int, files: _Files) -> None:
    """Raises InputError unless lengths, a checksum of four bytes, and strings fill the tensor."""
    if count > _MOST_STRINGS:
        raise InputError(f"it has {count} texts")
    with open_regular(files.path(entry.shard_id)) as file:
        file.seek(entry.offset)
        content = file.read(min(entry.size, 10 * count))
    position = total = 0
    for _ in range(count):
        length, position = _varint(content, position)
        total += length
    if entry.size != (position + 4 + total if count else 0):
        raise InputError("the lengths of its texts differ from its place")


def _check_parts(
    key: bytes, entry: BundleEntryProto, entries: Mapping[bytes, BundleEntryProto]
) -> None:
    missing = math.prod(_sizes(entry))
    for part_key, sizes in _parts(key, entry):
        part = entries.get(part_key, BundleEntryProto())
        if part.dtype != entry.dtype or _sizes(part) != sizes or part.slices:
            raise InputError("a part of it is missing, or has another size")
        missing -= math.prod(sizes)
    if missing:
        raise InputError("its parts are not the whole of it")


def _parts(key: bytes, entry: BundleEntryProto) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    sizes = _sizes(entry)
    if len(entry.slices) > _MOST_PARTS:
        raise InputError(f"it has {len(entry.slices)} parts")
    for part in entry.slices:
        if len(part.extent) != len(sizes):
            raise InputError("a part of it has other dimensions")
        extents = [(e.start, e.length if e.HasField("length") else -1) for e in part.extent]
        part_sizes = []
        for (start, length), size in zip(extents, sizes, strict=True):
            is_whole = length == -1
            if not (start == 0 if is_whole else 0 <= start < start + length <= size):
                raise InputError("a part of it lies outside")
            part_sizes.append(size if is_whole else length)
        if all(length == -1 for _, length in extents):
            raise InputError("a part of it is all of it")
        yield _part_key(key, extents), tuple(part_sizes)


def _part_key(name: bytes, extents: list[tuple[int, int]]) -> bytes:
    """Returns the key of a part, as EncodeTensorNameSlice in saved_tensor_slice_util.cc.

    >>> _part_key(b"a", [(0, 4), (64, -1)]).hex(" ")
    '00 61 00 01 01 02 80 84 c0 40 7f'
    """
    escapes = {0: b"\x00\xff", 255: b"\xff\x00"}
    text = b"".join(escapes.get(byte, bytes([byte])) for byte in name)
    numbers = b"".join(_sortable(number) for extent in extents for number in extent)
    count = len(extents).to_bytes(1, "big")
    return b"\x00" + text + b"\x00\x01" + (b"\x01" + count if extents else b"\x00") + numbers


def _sortable(number: int) -> bytes:
    """Encodes a number in bytes that sort like numbers, as WriteSignedNumIncreasing.

    Starts with as many 1 bits as there are bytes, inverted for negative numbers.
    """
    length = (number if number >= 0 else ~number).bit_length() // 7 + 1
    header = ((1 << length) - 1) << (8 * length - length)
    return ((number & ((1 << 8 * length) - 1)) ^ header).to_bytes(length, "big")
