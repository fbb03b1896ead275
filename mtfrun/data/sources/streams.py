"""Reading files in blocks, of which lines and parts of texts are made: memory stays bounded."""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from mtfrun.data.errors import DataError

# A longer text is read in parts of at most so many bytes.
LONGEST_PART = 1 << 20
# The longest line that is held in memory.
LONGEST_LINE = 1 << 26
# A part ends before a line end or a space if there is one in so many of its last bytes.
_REACH = 1 << 12
_BLOCK = 1 << 20
# Bytes that are decompressed together by Zstandard.
_COMPRESSED_BLOCK = 1 << 16


def unreadable(path: str, reason: object) -> DataError:
    """Returns the error that a file cannot be read, with the reason."""
    line = " ".join(str(reason).split())
    return DataError(f"{path} cannot be read: {line}; is it damaged, or another kind of file?")


@contextlib.contextmanager
def naming_the_file(path: str) -> Iterator[None]:
    """Turns errors of reading and decompressing into DataErrors that name the file."""
    try:
        yield
    except OSError as error:
        # Errors of gzip are OSErrors without a number.
        raise unreadable(path, error.strerror or error) from error
    except (EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def is_compressed(path: str) -> bool:
    """Returns whether `open_stream` decompresses the file."""
    return path.endswith((".gz", ".zst"))


def blocks(path: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """Yields the content of a file in blocks, decompressed if its name ends in `.gz` or `.zst`.

    Args:
      path: of the file.
      start: the first byte.
      size: number of bytes; by default all that follow.

    Raises:
      DataError: it cannot be read, or the package that decompresses it is not installed.
    """
    end = sys.maxsize if size is None else start + size
    with naming_the_file(path), Path(path).open("rb") as file:
        position = 0
        if not is_compressed(path):
            position = file.seek(start)
        for block in _decompressed(path, file):
            if position >= end:
                return
            part = block[max(start - position, 0) : end - position]
            position += len(block)
            if part:
                yield part


def lines(contents: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    r"""Yields the lines of a text in blocks, without their LF or CRLF, and whether each is whole.

    A line that is longer than LONGEST_PART comes in parts, all but the last of which are not whole.

    Examples:
      >>> list(lines([b"one\ntw", b"o\r\n\n", b"three"]))
      [(b'one', True), (b'two', True), (b'', True), (b'three', True)]
    """
    pending = b""
    for block in contents:
        ended = (pending + block).split(b"\n")
        pending = ended.pop()
        for line in ended:
            if line.endswith(b"\r"):
                line = line[:-1]
            while len(line) > LONGEST_PART:
                part, line = _cut(line)
                yield part, False
            yield line, True
        while len(pending) > LONGEST_PART:
            part, pending = _cut(pending)
            yield part, False
    if pending:
        yield pending, True


def whole_lines(path: str, contents: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the lines of a text in blocks, without their LF or CRLF.

    Raises:
      DataError: one is longer than LONGEST_LINE.
    """
    number = 1
    pending: list[bytes] = []
    for line, is_whole in lines(contents):
        if is_whole and not pending:
            yield line
        else:
            pending.append(line)
            if sum(map(len, pending)) > LONGEST_LINE:
                raise DataError(
                    f"{path}:{number}: a line of more than {LONGEST_LINE >> 20} MiB; "
                    "is this another kind of file?"
                )
            if is_whole:
                yield b"".join(pending)
                pending = []
        number += is_whole


def parts(contents: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yields a text in parts of at most LONGEST_PART bytes, and whether each is the last one."""
    pending = b""
    for block in contents:
        pending += block
        while len(pending) > LONGEST_PART:
            part, pending = _cut(pending)
            yield part, False
    yield pending, True


def character_start(text: bytes, position: int) -> int:
    r"""Returns the beginning of the UTF-8 character that the byte at `position` belongs to.

    `position` itself where the text is not UTF-8.

    Examples:
      >>> character_start("a\u20acb".encode(), 3), character_start(b"a\x80\x80\x80\x80\x80", 5)
      (1, 5)
    """
    # The bytes of a character after its first, at most three, are 10xxxxxx.
    for start in range(position, max(position - 4, -1), -1):
        if text[start] >> 6 != 0b10:
            return start
    return position


def _cut(text: bytes) -> tuple[bytes, bytes]:
    """Returns the first part of a long text, and what follows.

    It ends before a line end or a space, so that a vocabulary of subwords, which treats the
    beginning of a text as that of a word, splits no word.
    """
    for separator in (b"\n", b" "):
        position = text.rfind(separator, LONGEST_PART - _REACH, LONGEST_PART)
        if position > 0:
            return text[:position], text[position:]
    position = character_start(text, LONGEST_PART)
    return text[:position], text[position:]


def _decompressed(path: str, file: IO[bytes]) -> Iterator[bytes]:
    if path.endswith(".zst"):
        yield from _zstandard_blocks(path, file)
        return
    with contextlib.ExitStack() as stack:
        if path.endswith(".gz"):
            file = stack.enter_context(cast(IO[bytes], gzip.open(file)))  # noqa: SIM115
        while block := file.read(_BLOCK):
            yield block


def _zstandard_blocks(path: str, file: IO[bytes]) -> Iterator[bytes]:
    """Yields the content of Zstandard frames, one after the other.

    The package's own reader of files takes a truncated file for a whole one.
    """
    try:
        # Imported when a file needs it: an optional package.
        import zstandard  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f'{path} needs the package zstandard: pip install "mtfrun[zstd]", or decompress it'
        ) from error
    # None between frames.
    frame = None
    compressed = b""
    while compressed := compressed or file.read(_COMPRESSED_BLOCK):
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            block = frame.decompress(compressed)
        except zstandard.ZstdError as error:
            raise unreadable(path, error) from error
        compressed = b""
        if frame.eof:
            compressed, frame = frame.unused_data, None
        if block:
            yield block
    if frame is not None:
        raise unreadable(path, "it ends within a frame")
