from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from mtfrun.errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?|)B?(?:/s)?")


@dataclasses.dataclass(frozen=True)
class Resources:
    """Memory in bytes, None to ignore it, and bytes a second by mesh axis; axes may be missing."""

    device_memory: int | None = None
    bandwidths: Mapping[str, float] = dataclasses.field(default_factory=dict)


def parse_size(text: str) -> int:
    """Returns the bytes of a text such as "16GB", "15.5 GiB", "25GB/s" or "1000000".

    >>> parse_size("1.5GB"), parse_size("2KiB")
    (1500000000, 2048)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r} is not a number of bytes: write 16GB, 15.5GiB or 25GB/s")
    return round(float(match[1]) * _UNITS[match[2]])


def parse_bandwidths(text: str) -> dict[str, float]:
    """Parses "data:12GB/s,model:300GB/s"."""
    bandwidths = {}
    for part in text.split(","):
        axis, colon, size = part.partition(":")
        if not colon or not axis.strip():
            raise InputError(f"{part!r} is not a bandwidth: write data:12GB/s,model:300GB/s")
        bandwidths[axis.strip()] = float(parse_size(size))
    return bandwidths
