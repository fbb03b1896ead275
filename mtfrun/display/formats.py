from __future__ import annotations

import math
import re
import textwrap
import time

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape
from mtfrun.errors.url_secrets import mask_urls

WIDTH = 80
"""The columns that every terminal has."""

# Blanks would not be seen.
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "▁": "␣"}

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?|)B?(?:/s)?")


def mark_blanks(text: str) -> str:
    r"""Returns the text of a token with signs for blanks and invisible characters.

    >>> mark_blanks("a b" + chr(10) + chr(0))
    'a␣b↵\\x00'
    """
    return escape("".join(_SIGNS.get(c, c) for c in text))


def number_text(value: float | None) -> str:
    """Returns a metric with four decimals or digits, "-" for None.

    >>> number_text(2.30259), number_text(0.00001234), number_text(123456.7)
    ('2.3026', '1.234e-05', '123457')
    """
    if value is None:
        return "-"
    if value and abs(value) < 1e-3:
        return f"{value:.3e}"
    return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.4f}"


def metric_text(value: float) -> str:
    """Returns a value as `number_text` does, "-" where it is not finite."""
    return number_text(value) if math.isfinite(value) else "-"


def bytes_text(count: int) -> str:
    """Returns a size with a unit.

    >>> bytes_text(999), bytes_text(2_340_000)
    ('999 B', '2.3 MB')
    """
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def parse_size(text: str) -> int:
    """Returns the bytes of a text such as "16GB", "15.5 GiB", "25GB/s" or "1000000".

    >>> parse_size("1.5GB"), parse_size("2KiB")
    (1500000000, 2048)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r} is not a number of bytes: write 16GB, 15.5GiB or 25GB/s")
    return round(float(match[1]) * _UNITS[match[2]])


def time_text(secs: float) -> str:
    """Returns a time since 1970 as "2026-11-26 13:05", in the local time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(secs))


def json_time(secs: float) -> str:
    """Returns a time since 1970 in ISO 8601, in the local time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(secs))


def duration_text(secs: float) -> str:
    """Returns "1:20" for 80 seconds, "1:00:00" for an hour.

    >>> duration_text(80), duration_text(3600)
    ('1:20', '1:00:00')
    """
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def short_number(number: float | None) -> str:
    """Returns "41.2k" for 41200, "-" for None."""
    if number is None:
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def four_digits(value: float) -> str:
    """Returns four digits, of large numbers with zeros behind them.

    >>> four_digits(0.00123456), four_digits(1234567.0)
    ('0.001235', '1,235,000')
    """
    return f"{float(f'{value:.4g}'):,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def shorten_cell(text: str, width: int) -> str:
    """Returns at most `width` characters: the end of a path, both ends of other texts, an ellipsis.

    >>> shorten_cell("blocks/0/norm/scale", 14), shorten_cell("a long sentence", 8)
    ('…/0/norm/scale', 'a l…ence')
    """
    text = mask_urls(text)
    if len(text) <= width:
        return text
    end = width - 1 if "/" in text else width // 2
    return f"{text[: width - end - 1]}…{text[len(text) - end :]}"


def wrap_lines(text: str, *, first: str = "", other: str | None = None) -> list[str]:
    lines = textwrap.wrap(
        mask_urls(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if other is None else other,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]
