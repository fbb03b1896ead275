"""Reading files in blocks, lines and parts of texts, in bounded memory."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from mtfrun.configuration.errors import path_hint
from mtfrun.data.errors import DataError, import_package
from mtfrun.errors import RAISE_THE_LIMIT, is_shortage

# Bytes of the longest text that is read as a whole, and of parts.
LONGEST_PART = 1 << 20
# The longest line that is held in memory.
LONGEST_LINE = 1 << 26
# A part ends before a line end or a space, if possible, within this number of its last bytes.
_REACH = 1 << 12
_BLOCK = 1 << 20
# Bytes that are decompressed together by Zstandard.
_COMPRESSED_BLOCK = 1 << 16
# Formats that Python's standard library reads; `.zst` needs a package.
_OPEN: dict[str, Callable[[IO[bytes]], object]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_SUFFIXES = (*_OPEN, ".zst")
# Maximum ratio of decompressed to compressed bytes, and decompressed bytes that are always allowed.
_LARGEST_EXPANSION, _ALWAYS_ALLOWED = 200, 1 << 26
# Magic numbers of files that are not text, and their descriptions.
_KINDS = {
    rb"\x1f\x8b": "compressed by gzip, which its name must end in: .gz",
    rb"BZh[1-9]1AY&SY": "compressed by bzip2, which its name must end in: .bz2",
    rb"\xfd7zXZ\0": "compressed by xz, which its name must end in: .xz",
    rb"\x28\xb5\x2f\xfd": "compressed by Zstandard, which its name must end in: .zst",
    rb"\x04\x22\x4d\x18": "compressed by LZ4: decompress it",
    rb"PK\x03\x04|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07": "an archive: extract its files",
    rb"(?s:.{257})ustar": "a tar archive: extract its files",
    rb"PAR1": "Parquet, which data.Parquet reads",
    rb"%PDF-": "PDF: extract its text",
    rb"\xff\xfe|\xfe\xff": "UTF-16: convert it, such as with iconv -f UTF-16 -t UTF-8",
}


def unreadable(path: str, reason: object) -> DataError:
    line = " ".join(str(reason).split())
    if is_shortage(line):
        return DataError(f"{path} cannot be read: {line}; {RAISE_THE_LIMIT}")
    return DataError(f"{path} cannot be read: {line}; is it damaged, or another kind of file?")


@contextlib.contextmanager
def naming_the_file(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or is_shortage(error):  # decompressors set no errno
            raise unreadable(path, error.strerror or error) from error
        raise DataError(f"{path} cannot be read: {error.strerror}{path_hint(error)}") from error
    except (EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise unreadable(path, str(error) or "it needs too much memory") from error


def is_compressed(path: str) -> bool:
    return path.lower().endswith(_SUFFIXES)


def kind_of(path: str) -> str:
    """Returns the suffix that tells a file's format, in lower case: .csv for "pairs.CSV.gz"."""
    plain = Path(path).with_suffix("") if is_compressed(path) else Path(path)
    return plain.suffix.lower()


def blocks(
    path: str, start: int = 0, size: int | None = None, *, is_raw: bool = False
) -> Iterator[bytes]:
    """Yields a file, or `size` bytes from `start`, in blocks, decompressed if its suffix says so.

    `is_raw` includes a byte-order mark, and allows files that are not text.
    """
    end = sys.maxsize if size is None else start + size
    with naming_the_file(path), Path(path).open("rb") as file:
        position = 0
        if start and not is_compressed(path):
            position = file.seek(start)
        for block in _decompress(path, file):
            if position >= end:
                return
            first = max(start - position, 0)
            if position == 0 and not is_raw:
                if kinds := [kind for magic, kind in _KINDS.items() if re.match(magic, block)]:
                    raise DataError(f"{path} is not text but {kinds[0]}")
                first = max(first, len(codecs.BOM_UTF8) * block.startswith(codecs.BOM_UTF8))
            part = block[first : end - position]
            position += len(block)
            check_expansion(path, position, file.tell())
            if part:
                yield part


def check_expansion(path: str, produced: int, compressed: int) -> None:
    """Raises DataError if a file decompresses to far more bytes than text, e.g. 2 GB of zeros."""
    if produced > _ALWAYS_ALLOWED + _LARGEST_EXPANSION * compressed:
        sizes = f"{compressed:,} bytes became more than {produced >> 20} MiB"
        remedy = "if that is meant, decompress it yourself"
        raise DataError(f"{path}: {sizes}, over {_LARGEST_EXPANSION} times as many: {remedy}")


def check_utf8(contents: Iterator[bytes], report: Callable[[int, int], None]) -> Iterator[bytes]:
    """Yields blocks; calls `report` with the line and the byte of the first invalid UTF-8, or 0."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    for block in contents:
        try:
            decoder.decode(block)
            if b"\0" in block:  # not text, and a frequent byte of other files
                raise UnicodeDecodeError("utf-8", block, place := block.index(0), place + 1, "zero")
            line += block.count(b"\n")
        except UnicodeDecodeError as error:
            report(line + error.object[: error.start].count(b"\n"), error.object[error.start])
            yield block
            yield from contents
            return
        yield block
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        report(line, error.object[error.start])


def lines(contents: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    r"""Yields the lines of a text in blocks, without LF or CRLF, and whether each is whole.

    If the first block has CR but no LF, lines end with CR, as on old Macintoshes. A line longer
    than LONGEST_PART is yielded in parts, all but the last of which are not whole.

    Examples:
      >>> list(lines([b"one\ntw", b"o\r\n\n", b"three"]))
      [(b'one', True), (b'two', True), (b'', True), (b'three', True)]
    """
    pending = line_end = b""
    for block in contents:
        line_end = line_end or (b"\n" if b"\n" in block or b"\r" not in block[:-1] else b"\r")
        ended = (pending + block).split(line_end)
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
    """As `lines`, but a line longer than LONGEST_LINE is a DataError."""
    number = 1
    pending: list[bytes] = []
    for line, is_whole in lines(contents):
        if is_whole and not pending:
            yield line
        else:
            pending.append(line)
            if sum(map(len, pending)) > LONGEST_LINE:
                size = f"a line of more than {LONGEST_LINE >> 20} MiB"
                raise DataError(f"{path}:{number}: {size}; is this another kind of file?")
            if is_whole:
                yield b"".join(pending)
                pending = []
        number += is_whole


def parts(contents: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yields a text in parts of at most LONGEST_PART bytes, and whether each is the last."""
    pending = b""
    for block in contents:
        pending += block
        while len(pending) > LONGEST_PART:
            part, pending = _cut(pending)
            yield part, False
    yield pending, True


def character_start(text: bytes, position: int) -> int:
    r"""Returns where the UTF-8 character of the byte at `position` begins; else `position`.

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
    """Cuts before a line end or a space: subword vocabularies begin a word where a text begins."""
    for separator in (b"\n", b" "):
        position = text.rfind(separator, LONGEST_PART - _REACH, LONGEST_PART)
        if position > 0:
            return text[:position], text[position:]
    position = character_start(text, LONGEST_PART)
    return text[:position], text[position:]


def _decompress(path: str, file: IO[bytes]) -> Iterator[bytes]:
    if path.lower().endswith(".zst"):
        yield from _zstandard_blocks(path, file)
        return
    with contextlib.ExitStack() as stack:
        if is_compressed(path):
            opened = _OPEN[Path(path).suffix.lower()](file)
            file = stack.enter_context(cast(IO[bytes], opened))
        while block := file.read(_BLOCK):
            yield block


def _zstandard_blocks(path: str, file: IO[bytes]) -> Iterator[bytes]:
    """Yields all Zstandard frames; the package's reader takes a truncated file for a whole one."""
    zstandard = import_package("zstandard", path, or_else=", or decompress it")
    frame = None  # between frames
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
