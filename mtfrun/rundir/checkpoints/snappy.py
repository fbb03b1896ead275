"""Decompresses blocks in the Snappy format, as in T5's checkpoints.

https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

from mtfrun.errors import InputError

_LITERAL, _SHORT_COPY = 0, 1
# The length of a longer literal follows the tag, in one to four bytes.
_LONGEST_IN_TAG = 60


def decompress(block: bytes, size: int) -> bytes:
    """Decompresses a block to `size` bytes; the caller has read the size in front of the block.

    InputError if the block is damaged, IndexError if it is truncated.

    >>> decompress(bytes([2 << 2]) + b"abc" + bytes([(6 << 2) | 2, 3, 0]), 10)
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
