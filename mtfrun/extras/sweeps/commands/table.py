from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_format, add_output, at_least, check_directories
from mtfrun.display import progress
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE

if TYPE_CHECKING:
    from mtfrun.display.pictures import Canvas
    from mtfrun.extras.sweeps.result import RunResult

_DESCRIPTION = """\
Prints a table of a sweep: means over seeds, differences to a baseline, sizes, costs, or a fit.

  mtfrun table /tmp/sweep
  mtfrun table /tmp/sweep --metric=loss,accuracy --baseline="LEARNING_RATE=0.03"
  mtfrun table /tmp/sweep --format=latex --output=table.tex
  mtfrun table docs/results/transformer.jsonl --format=md --output=docs/results/transformer.md
  mtfrun table /tmp/ladder --fit=ladder --hold_out=0 --budget=1e15 --picture=ladder.svg
  mtfrun table /tmp/mup --fit=optimum --parameter=WARMUP_STEPS --metric=loss --picture=mup.svg

The directory is a sweep's --model_dir, also while it is trained, or its --results. A row has the
mean of the last evaluations of its finished runs with its 95 % confidence interval, and the
difference to the baseline, paired by seed. q is the p of the difference, corrected for the number
of differences (Benjamini and Hochberg); the difference stands out (*, bold) if q < 0.05. One model
that keeps all its decodes (DecodedPairs.num_saved = None) has intervals over examples. The costs
are of one run. A note says which runs are missing, and why.

--format: text, for a terminal; md, a page; latex (a table, for the package booktabs), html (the
table element), csv and json with all digits. For md, latex and html all runs must be of a git
commit without changes, so that they can be repeated, or of an installed package; --allow_changes
makes a draft. A page that exists keeps the text between its title and the command.

--fit=ladder fits the scaling law L(N, D) = E + A / N^alpha + B / D^beta to a sweep over sizes and
lengths of training, predicts the largest size, which the fit leaves out, and says what to train for
a budget; --hold_out=0 gives the best advice. --fit=optimum prints where a setting is best, for
every row: the minimum of a parabola in the logarithm of the setting.

docs/extras/sweeps.md says more."""

FORMATS = ("text", "md", "latex", "csv", "html", "json")
PAGES = ("md", "latex", "html")
_LADDER, _OPTIMUM = "ladder", "optimum"
# The formats of a fit, or of a table without one, and the flags that are for it.
_FITS: dict[str | None, tuple[Sequence[str], Sequence[str]]] = {
    None: (FORMATS, ("baseline", "title")),
    _LADDER: (("text", "json"), ("budget", "hold_out", "seed", "picture")),
    _OPTIMUM: (("text",), ("parameter", "picture")),
}
_DRAWS = 400


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metric", help="one or several: loss,accuracy; the sweep's by default", metavar="NAMES")
    add("--baseline", help="the row that others are compared to; the sweep's by default")
    add_format(parser, FORMATS, "see above; text by default", default="text")
    add_output(parser)
    text = "a draft of a page: runs may be of a tree with changes"
    add("--allow_changes", action="store_true", help=text)
    add("--title", help="of md, latex and html; the sweep's question by default", metavar="TEXT")
    add("--fit", choices=(_LADDER, _OPTIMUM), help="a scaling law, or the optimum of a setting")
    add(
        "--budget",
        type=float,
        help="floating-point operations of a training, such as 1e15; by default 10 times those of "
        "the largest run",
    )
    text = "the law is fitted without the N largest sizes; 1 by default"
    add("--hold_out", type=at_least(0), help=text)
    add("--seed", type=at_least(0), help="of the draws for intervals of the law")
    text = "a setting with positive values; LEARNING_RATE by default"
    add("--parameter", help=text)
    text = "a file for the picture (.svg, .png)"
    add("--picture", help=text, path="new file")


def _check(flags: argparse.Namespace) -> None:
    from mtfrun.metrics.catalogue import LOWEST, best_mode

    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if len(flags.words) != 1:
        raise InputError("table needs the directory of one sweep: mtfrun table /tmp/sweep")
    check_directories(flags)
    formats, allowed = _FITS[flags.fit]
    for name in itertools.chain(*(names for _, names in _FITS.values())):
        if getattr(flags, name) is not None and name not in allowed:
            fits = [fit for fit, (_, names) in _FITS.items() if fit and name in names]
            remedy = f"give --fit={' or '.join(fits)}" if fits else "leave it out"
            raise InputError(f"--{name} is not for this table: {remedy}")
    for name in ("title", "allow_changes"):
        if getattr(flags, name) and flags.format not in PAGES:
            raise InputError(f"--{name} is of {', '.join(PAGES)}: leave it out")
    if flags.format not in formats:
        raise InputError(f"--fit={flags.fit} writes {' or '.join(formats)}, not {flags.format}")
    if flags.budget is not None and flags.budget not in POSITIVE:
        raise InputError(f"--budget={flags.budget:g}: it must be {POSITIVE}, such as 1e15")
    if flags.fit == _LADDER and flags.metric is not None and best_mode(flags.metric) != LOWEST:
        raise InputError(f"--metric={flags.metric}: more of it is better, and the law is of a loss")
    if flags.picture is not None and pathlib.Path(flags.picture).suffix not in (".svg", ".png"):
        raise InputError(f"--picture={flags.picture}: name a file that ends in .svg or .png")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.files import atomic_open

    text = _table(flags, command) if flags.fit is None else _fit(flags)
    if flags.output is None:
        print_lines(*text.splitlines())
        return 0
    with atomic_open(flags.output) as file:
        file.write(text)
    return 0


def _table(flags: argparse.Namespace, command: Sequence[str]) -> str:
    from mtfrun.extras.sweeps.analysis.comparison import compare, require_commits
    from mtfrun.extras.sweeps.analysis.table_formats import WRITERS, markdown_text

    metrics = [name.strip() for name in (flags.metric or "").split(",") if name.strip()]
    comparison = compare(pathlib.Path(flags.words[0]), metrics, flags.baseline)
    if flags.format in PAGES and not flags.allow_changes:
        require_commits(comparison)
    if flags.title is not None:
        comparison = dataclasses.replace(comparison, question=flags.title)
    if flags.format == "md":
        page = None if flags.output is None else pathlib.Path(flags.output)
        text = page.read_text("utf-8", "replace") if page and page.exists() else ""
        return markdown_text(comparison, shlex.join(["mtfrun", *command[1:]]), text)
    return WRITERS[flags.format](comparison)


def _fit(flags: argparse.Namespace) -> str:
    from mtfrun.extras.sweeps.result import results_of
    from mtfrun.rundir.run_summary import metric_of

    sweep, results = results_of(flags.words[0])
    metric = metric_of([x.metrics for x in results], flags.metric or sweep.metric or "loss")
    columns = terminal_columns() if flags.output is None else None
    fit = _ladder_lines if flags.fit == _LADDER else _optimum_lines
    return "".join(f"{line}\n" for line in fit(flags, results, metric, columns))


def _ladder_lines(
    flags: argparse.Namespace, results: Sequence[RunResult], metric: str, columns: int | None
) -> list[str]:
    from mtfrun.extras.sweeps.analysis.ladder import advise, fit_ladder, ladder_rows
    from mtfrun.extras.sweeps.analysis.ladder_table import ladder_json, ladder_lines, ladder_picture

    rows, left_out = ladder_rows(results, metric, 1 if flags.hold_out is None else flags.hold_out)
    with progress.waiting("fitting the law"):
        ladder = fit_ladder(rows, metric, left_out, draws=_DRAWS, seed=flags.seed or 0)
    advice = advise(ladder, flags.budget)
    if flags.picture is not None:
        _write_picture(flags.picture, ladder_picture(ladder, advice))
    if flags.format == "json":
        return [json.dumps(ladder_json(ladder, advice), allow_nan=False)]
    return ladder_lines(ladder, advice, columns)


def _optimum_lines(
    flags: argparse.Namespace, results: Sequence[RunResult], metric: str, columns: int | None
) -> list[str]:
    from mtfrun.extras.sweeps.analysis.optimum import optima, picture

    parameter = flags.parameter or "LEARNING_RATE"
    by_row = optima(results, parameter, metric)
    if flags.picture is not None:
        _write_picture(flags.picture, picture(by_row, parameter, metric))
    first = next(iter(by_row))
    best = by_row[first].curve
    rows = []
    for name, row in by_row.items():
        curve = row.curve
        if curve is None:
            tried = ", ".join(map(number_text, (row.values[0], row.values[-1])))
            rows.append([name, f"not between {tried}", "", "", ""])
            continue
        error = "" if row.octaves is None else f"x/ {2**row.octaves:.2f}"
        at_first = math.nan if best is None else curve.at(best.lowest)
        rows.append([name, f"{curve.lowest:.4g}", error, f"{curve.height:.4f}", f"{at_first:.4f}"])
    headings = ["row", parameter, "error", metric, f"at that of {first}"]
    return table_lines(headings, rows, columns)


def _write_picture(name: str, canvas: Canvas) -> None:
    from PIL import Image

    from mtfrun.files import atomic_open

    with atomic_open(name) as file:
        if name.endswith(".svg"):
            file.write(canvas.svg())
        else:
            Image.fromarray(canvas.pixels()).save(file.buffer, "PNG")


COMMANDS = [
    Command(
        "table",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="nothing",
        words="DIR",
    )
]
