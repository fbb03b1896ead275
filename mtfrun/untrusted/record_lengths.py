"""The lengths of TFRecords, which TensorFlow allocates memory for before it reads any data."""

from __future__ import annotations

import gzip
import struct
from typing import IO, BinaryIO, cast

from mtfrun.errors import InputError

LONGEST_RECORD = 1 << 28
"""The largest number of bytes of a record."""

# A length and its checksum before the data, and a checksum after them.
_HEADER, _TRAILER = struct.Struct("<QI"), 4


def check_record_lengths(file: BinaryIO, *, is_compressed: bool = False) -> None:
    """Raises InputError if the length field of a record is larger than LONGEST_RECORD.

    Without that much memory TensorFlow aborts the process, from C++. An incomplete record at the
    end is left to the reader.

    Args:
      file: positioned at its beginning.
      is_compressed: whether it is compressed with gzip.

    Raises:
      OSError: it cannot be read, or is not compressed.
    """
    content = cast(IO[bytes], gzip.open(file)) if is_compressed else file  # noqa: SIM115
    number = 0
    while len(header := content.read(_HEADER.size)) == _HEADER.size:
        number += 1
        length, _ = _HEADER.unpack(header)
        if length > LONGEST_RECORD:
            raise InputError(f"record {number} is of {length:,} bytes")
        content.seek(length + _TRAILER, 1)
