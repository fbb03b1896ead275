"""Writes the figures of runs into README.md, docs/ and the headers of gin files.

A figure stands once in the text, behind a comment that names where it comes from: a file of
docs/results, a row (in quotes if it has a space), a metric or a cost, what of it, and a format:

    dense models end at <!-- = mixtures.jsonl dense bits_per_byte .3f -->1.729 bits per byte
    better by <!-- = mixtures.jsonl "two levels" bits_per_byte difference .3f -->0.010

What of it is the mean (if nothing is named), half_width, low, high, difference, or half_width, low,
high, p or q of the difference: difference.q. Without + in the format a difference has no sign; %
writes percent without the sign.

In a gin file the line `Result:` has the first figure, in as many decimals as it has, of the metric
of the sweep, and names its row: `Result:    1.73 bits per byte, row "quickstart" of
docs/results/baselines.md`.

    python docs/figures.py           names the figures that differ, and how many there are
    python docs/figures.py --write   rewrites them
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.analysis.comparison import ComparedRow, Comparison, compare

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
_NUMBER = r"[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?"
_REFERENCE = re.compile(rf"<!-- = (?P<reference>[^>]*?) -->(?P<figure>{_NUMBER})?")
_RESULT = re.compile(
    rf"^# Result: +(?P<figure>{_NUMBER})(?P<percent> %)?(?P<words>[^\n]*(?:\n#  [^\n]*)*?)"
    r'row "(?P<row>[^"]+)" of\s(?:# +)?docs/results/(?P<page>\w+)\.md',
    re.MULTILINE,
)
_COSTS = ("parameters", "active_parameters", "flops_per_token", "seconds")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure in a file, and the text that the results give."""

    path: pathlib.Path
    reference: str
    written: str
    span: tuple[int, int]
    expected: str


def figures(path: pathlib.Path, text: str) -> Iterator[Figure]:
    """Yields the figures of a page or of a gin file; InputError for a wrong reference."""
    if path.suffix == ".gin":
        for match in _RESULT.finditer(text):
            decimals = len(match["figure"].partition(".")[2])
            spec = f".{decimals}{'%' if match['percent'] else 'f'}"
            comparison = _comparison(match["page"])
            value = _value(comparison, match["row"], comparison.metrics[0], "mean")
            reference = f'row "{match["row"]}" of {match["page"]}'
            span = match.span("figure")
            yield Figure(path, reference, match["figure"], span, _format(value, spec))
        return
    for match in _REFERENCE.finditer(text):
        reference = match["reference"]
        try:
            file, row, metric, *of, spec = shlex.split(reference)
        except ValueError as error:
            form = "FILE ROW METRIC [WHAT] FORMAT"
            raise InputError(f"{path}: <!-- = {reference} -->: write {form}") from error
        comparison = _comparison(file.removesuffix(".jsonl"))
        value = _value(comparison, row, metric, *of)
        expected = _format(value, spec, is_signed=not of or "difference" not in of[0])
        start = match.end() - len(match["figure"] or "")
        yield Figure(path, reference, match["figure"] or "", (start, match.end()), expected)


@functools.cache
def _comparison(name: str, metric: str | None = None) -> Comparison:
    return compare(RESULTS / f"{name}.jsonl", [] if metric is None else [metric])


def _value(comparison: Comparison, row: str, metric: str, of: str = "mean") -> float:
    rows = {x.name: x for x in comparison.rows}
    if row not in rows:
        raise InputError(f"{comparison.name}: no row {row!r}: there are {', '.join(rows)}")
    found = _find(rows[row], metric, of)
    if found is None:
        again = _comparison(comparison.name, metric)
        found = _find({x.name: x for x in again.rows}[row], metric, of)
    if found is None:
        raise InputError(f"{comparison.name}, row {row}: no {of} of {metric}")
    return found


def _find(row: ComparedRow, metric: str, of: str) -> float | None:
    if metric in _COSTS:
        return getattr(row.cost, metric)
    if metric not in row.metrics:
        return None
    measured = row.metrics[metric]
    estimate, name = measured.mean, of
    if of.startswith("difference"):
        estimate, name = measured.difference, of.partition(".")[2] or "mean"
    if name == "half_width":
        low, high = estimate.low, estimate.high
        return None if low is None or high is None else (high - low) / 2
    return getattr(estimate, name)


def _format(value: float, spec: str, *, is_signed: bool = True) -> str:
    shown = value if is_signed or "+" in spec else abs(value)
    return f"{shown:{spec}}".removesuffix("%")


def files() -> list[pathlib.Path]:
    """Returns the files that may have figures."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [*pages, *sorted(ROOT.glob("gin/**/*.gin"))]


def rewrite(text: str, found: list[Figure]) -> str:
    """Returns the text with the figures that the results give."""
    for figure in reversed(found):
        start, end = figure.span
        text = f"{text[:start]}{figure.expected}{text[end:]}"
    return text


def main() -> int:
    """Returns the exit code: 1 for figures that differ and are not rewritten."""
    number = different = 0
    for path in files():
        text = path.read_text()
        found = list(figures(path, text))
        number += len(found)
        for figure in found:
            if figure.written != figure.expected:
                different += 1
                place = path.relative_to(ROOT)
                print(f"{place}: {figure.reference}: {figure.written} is now {figure.expected}")
        if "--write" in sys.argv:
            path.write_text(rewrite(text, found))
    print(f"{number} figures, {different} of them differed from the results")
    return 0 if not different or "--write" in sys.argv else 1


if __name__ == "__main__":
    sys.exit(main())
