"""Statistics of texts as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from mtfrun.cli.data.length_statistics import LengthStatistics
from mtfrun.cli.data.rows_text import heading_lines

# Columns of the longest bar.
_LONGEST_BAR = 50


def statistics_lines(
    feature: str, statistics: LengthStatistics, text_bytes: int, width: int
) -> Iterator[str]:
    """Yields lines on the texts of a feature.

    Args:
      feature: its name.
      statistics: of its lengths.
      text_bytes: that all its ids represent.
      width: columns of the terminal.
    """
    s = statistics
    yield from heading_lines(
        f"{feature}: {s.count:,} texts, {s.tokens:,} tokens, {text_bytes:,} bytes, "
        f"{text_bytes / s.tokens:.2f} bytes a token",
        width,
        "  ",
    )
    percentiles = ", ".join(f"{p}%: {length:,}" for p, length in s.percentiles.items())
    yield from heading_lines(
        f"tokens of a text: mean {s.mean:,.1f}, {percentiles}, longest {s.longest:,}", width, "    "
    )
    if s.capacity is not None:
        yield from heading_lines(
            f"cut at {s.capacity:,} tokens: {s.cut_texts:,} texts ({s.cut_texts / s.count:.2%}), "
            f"{s.cut_tokens:,} tokens ({s.cut_tokens / s.tokens:.2%})",
            width,
            "    ",
        )
    yield from _bars(s.histogram, s.count, width)


def _bars(histogram: dict[tuple[int, int], int], count: int, width: int) -> Iterator[str]:
    labels = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in histogram]
    label_width = max(map(len, labels))
    room = max(5, min(_LONGEST_BAR, width - label_width - len("      100.0 %  ")))
    largest = max(histogram.values())
    for label, number in zip(labels, histogram.values(), strict=True):
        # A bin that is not empty has a bar.
        bar = "#" * max(round(room * number / largest), int(number > 0))
        yield f"    {label:>{label_width}} {100 * number / count:5.1f} %  {bar}".rstrip()
