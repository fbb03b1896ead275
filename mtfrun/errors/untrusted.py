"""Reads of files, and prints of texts, that another person may have written.

Files: no waiting for a pipe, strict JSON, bounded sizes. `escape` is for names in one line. All
output passes through `visible`: a text of a model, of a data set or of a run directory cannot move
the cursor, change colours, or make the terminal answer.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import math
import os
import pathlib
import re
import stat
import struct
from collections.abc import Callable
from typing import IO, Any, BinaryIO, Literal, NoReturn, cast

from mtfrun.errors.errors import InputError

# Bytes of a record of a run (a manifest of 100,000 variables has 20 MB), and of a TFRecord.
LARGEST_TEXT = LONGEST_RECORD = 1 << 28
# Bytes of a name in common file systems, and of a file that are hashed at a time.
_LONGEST_NAME, _BLOCK = 255, 1 << 20
# A TFRecord has a length and its checksum before the data, and a checksum after them.
_HEADER, _TRAILER = struct.Struct("<QI"), 4
# An escaped surrogate; an unpaired one cannot be written in UTF-8.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# C0 and C1 controls except tabs and line ends, marks that reverse the direction of writing, and
# unpaired surrogates, which no encoding has.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class JsonError(InputError):
    """A text is not strict JSON; the message says why, without the name of the file."""


def is_plain_name(value: object) -> bool:
    """Returns whether a value from an untrusted record is a file name without a directory."""
    return (
        type(value) is str
        and value.isprintable()
        and "/" not in value
        and value not in ("", ".", "..")
        and len(value.encode()) <= _LONGEST_NAME
    )


def is_regular(path: pathlib.Path) -> bool:
    """Follows links; False, not an error, below a directory that is not readable."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's method raises an error there


def is_directory(path: pathlib.Path) -> bool:
    """Follows links; False, not an error, below a directory that is not readable."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def is_special(path: pathlib.Path) -> bool:
    """Whether `path`, links followed, exists and is not a regular file."""
    return os.path.exists(path) and not is_regular(path)  # noqa: PTH110 - as above


def open_regular(path: pathlib.Path, *, follows_links: bool = True) -> io.BufferedReader:
    """Opens a file for reading bytes; OSError unless it is regular.

    Opening a pipe would wait for its other end, possibly for ever: it is opened with O_NONBLOCK,
    and refused. So is a link unless `follows_links`.
    """
    if not follows_links and path.is_symlink():
        raise OSError(errno.ELOOP, "Not a regular file but a link", path)
    no_links = 0 if follows_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_links)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_to_write(path: pathlib.Path, mode: Literal["ab", "rb+"]) -> io.FileIO:
    """Opens a file for writing, unbuffered and not truncated; creates it if it is missing.

    OSError for a pipe, or for a link, which in an untrusted directory may lead to any file.
    """
    append = os.O_APPEND if mode == "ab" else 0
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | append
    file = os.fdopen(os.open(path, flags, 0o666), mode, buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return file


def read_regular(path: pathlib.Path, largest: int, *, follows_links: bool = True) -> bytes:
    """Returns the content of a regular file; OSError if it has more than `largest` bytes."""
    with open_regular(path, follows_links=follows_links) as file:
        # Check the size first: read() allocates memory for the whole file.
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest} bytes", path)
        return file.read()


def hash_of_file(path: pathlib.Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """Returns the SHA-256 of a regular file; `advance` is called with the size of each block."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def read_regular_text(path: pathlib.Path, *, follows_links: bool = True) -> str:
    """Returns UTF-8 text; see `read_regular`."""
    return read_regular(path, LARGEST_TEXT, follows_links=follows_links).decode()


def read_json(path: pathlib.Path, *, follows_links: bool = True) -> Any:
    """Returns the value of a JSON file; see `read_regular` and `parse_json` for errors."""
    return parse_json(read_regular(path, LARGEST_TEXT, follows_links=follows_links))


def parse_json(content: bytes) -> Any:
    """Returns the value of a JSON text in UTF-8; raises JsonError.

    Rejects repeated names in an object, which readers resolve differently, NaN and Infinity, which
    are not JSON, numbers beyond float64, and texts that cannot be written in UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise JsonError("a text has half of a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is no UTF-8") from error
    except RecursionError as error:
        raise JsonError("its values are too deep in each other") from error
    except JsonError:
        raise
    except ValueError as error:  # the syntax, or an integer with too many digits
        raise JsonError(str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise JsonError(f"it has {name!r:.80} twice")
        values[name] = value
    return values


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"{name:.80} is no number")


def check_record_lengths(file: BinaryIO, *, is_compressed: bool = False) -> None:
    """Raises InputError if the length field of a record is larger than LONGEST_RECORD.

    Without that much memory TensorFlow aborts the process, from C++. An incomplete record at the
    end is left to the reader. The file is at its beginning; OSError if it cannot be read.
    """
    content = cast(IO[bytes], gzip.open(file)) if is_compressed else file  # noqa: SIM115
    number = 0
    while len(header := content.read(_HEADER.size)) == _HEADER.size:
        number += 1
        length, _ = _HEADER.unpack(header)
        if length > LONGEST_RECORD:
            raise InputError(f"record {number} is of {length:,} bytes")
        content.seek(length + _TRAILER, 1)


def escape(text: str) -> str:
    r"""Returns a text with its unprintable characters escaped.

    >>> escape("a \x1b[31mb")
    'a \\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""Returns lines with control characters, and characters that an encoding lacks, escaped.

    The escapes are JSON's, so that lines of JSON keep their meaning.

    >>> visible("a\tb\x1b[31m\n"), visible("\u00e9 \U0001f600", "ascii")
    ('a\tb\\u001b[31m\n', '\\u00e9 \\ud83d\\ude00')
    """
    text = _CONTROLS.sub(lambda match: _json_escape(match[0]), text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if c.encode(encoding, "ignore") else _json_escape(c) for c in text)
    return text


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
