"""Writes the figures of runs into README.md, docs/ and the headers of gin files.

A figure stands once in the text, behind a comment that names where it comes from: a file of
docs/results, a row (in quotes if it has a space), a metric or a cost, what of it, and a format:

    dense models end at <!-- = mixtures_quickstart.jsonl dense bits_per_byte .3f -->1.731 bits
    it is better by <!-- = ladder.jsonl 128 bits_per_byte difference .3f -->0.022

What of it is the mean (if nothing is named), its ratio to the baseline's mean, the inverse_ratio,
half_width, low, high, different_outputs, difference, or half_width, low, high, p or q of the
difference: difference.q.
Without + in the format a difference has no sign; % writes percent without the sign. `width 64
LEARNING_RATE optimum` is the best value of a setting that the sweep varies, by `table --fit`, and
optimum.height the sweep's metric there.

In a gin file the line `Result:` has the first figure, in as many decimals as it has, and names its
row, and the metric if it is not the sweep's: `Result:    99.9 % of 1,024 numbers are right:
exact_match of row "number_words" of docs/results/runs.md`.

    python docs/figures.py           names the figures that differ, and how many there are
    python docs/figures.py --write   rewrites them
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.analysis.comparison import ComparedRow, Comparison, compare
from mtfrun.extras.sweeps.analysis.optimum import optima
from mtfrun.extras.sweeps.result import results_of

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
_NUMBER = r"[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?"
_REFERENCE = re.compile(rf"<!-- = (?P<reference>[^>]*?) -->(?P<figure>{_NUMBER})?")
_RESULT = re.compile(
    rf"^# Result: +(?P<figure>{_NUMBER})(?P<percent> %)?(?P<words>[^\n]*(?:\n#  [^\n]*)*?)"
    r'row "(?P<row>[^"]+)" of\s(?:# +)?docs/results/(?P<page>\w+)\.md',
    re.MULTILINE,
)
_METRIC = re.compile(r"(\w+) of\s(?:# +)?$")
_RATIOS = ("ratio", "inverse_ratio")
_OPTIMUM = "optimum"
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
            named = _METRIC.search(match["words"])
            metric = named[1] if named else _comparison(match["page"]).metrics[0]
            value = _value(match["page"], match["row"], metric)
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
        value = _value(file.removesuffix(".jsonl"), row, metric, *of)
        expected = _format(value, spec, is_signed=not of or "difference" not in of[0])
        start = match.end() - len(match["figure"] or "")
        yield Figure(path, reference, match["figure"] or "", (start, match.end()), expected)


@functools.cache
def _comparison(name: str, metric: str | None = None) -> Comparison:
    """Returns the table of a metric, by default the sweep's."""
    return compare(RESULTS / f"{name}.jsonl", [] if metric is None else [metric])


def _value(name: str, row: str, metric: str, of: str = "mean") -> float:
    if of.startswith(_OPTIMUM):
        return _optimum(name, row, metric, of.partition(".")[2] or "lowest")
    table = _comparison(name, None if metric in _COSTS else metric)
    rows = {x.name: x for x in table.rows}
    if row not in rows:
        raise InputError(f"{name}: no row {row!r}: there are {', '.join(rows)}")
    baseline = rows[row].baseline
    if of in _RATIOS and baseline is not None:
        ratio = _value(name, row, metric) / _value(name, baseline, metric)
        return ratio if of == "ratio" else 1 / ratio
    found = _find(rows[row], metric, of)
    if found is None:
        raise InputError(f"{name}, row {row}: no {of} of {metric}")
    return found


def _optimum(name: str, row: str, parameter: str, of: str) -> float:
    sweep, results = results_of(str(RESULTS / f"{name}.jsonl"))
    assert sweep.metric is not None
    curve = optima(results, parameter, sweep.metric)[row].curve
    if curve is None:
        raise InputError(f"{name}, row {row}: no optimum of {parameter}")
    return getattr(curve, of)


def _find(row: ComparedRow, metric: str, of: str) -> float | None:
    if metric in _COSTS:
        return getattr(row.cost, metric)
    measured = row.metrics[metric]
    if of == "different_outputs":
        return measured.different_outputs
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


def figures_by_file() -> dict[pathlib.Path, list[Figure]]:
    """Returns the figures of all files that may have some."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    files = [*pages, *sorted(ROOT.glob("gin/**/*.gin"))]
    return {path: list(figures(path, path.read_text())) for path in files}


def rewrite(text: str, found: list[Figure]) -> str:
    """Returns the text with the figures that the results give."""
    for figure in reversed(found):
        start, end = figure.span
        text = f"{text[:start]}{figure.expected}{text[end:]}"
    return text


def main() -> int:
    """Returns the exit code: 1 for figures that differ and are not rewritten."""
    found = figures_by_file()
    different = [x for x in itertools.chain(*found.values()) if x.written != x.expected]
    for figure in different:
        place = figure.path.relative_to(ROOT)
        print(f"{place}: {figure.reference}: {figure.written} is now {figure.expected}")
    number = sum(map(len, found.values()))
    print(f"{number} figures, {len(different)} of them differed from the results")
    if "--write" not in sys.argv:
        return 1 if different else 0
    for path in {figure.path for figure in different}:
        path.write_text(rewrite(path.read_text(), found[path]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
