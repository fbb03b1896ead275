from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_picture, check_picture, write_picture
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.extras.sweeps.analysis.optimum import Optimum

_DESCRIPTION = """\
Prints where a setting of a sweep is best, for every row: the minimum of a parabola.

  mtfrun sweep --sweep_file=extras/sweeps/mup.gin --model_dir=/tmp/mup
  mtfrun optimum /tmp/mup
  mtfrun optimum /tmp/mup --parameter=WARMUP_STEPS --metric=loss --picture=mup.svg

The parabola goes through the means over seeds of the sweep's metric, in the logarithm of the
setting: through the best value and at most two on each side. Its error is that over the seeds, as a
factor. The last column is the metric that the optimum of the first row would give: what transfer
from there costs. Where the best value is the first or the last, further values must be tried."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--parameter",
        default="LEARNING_RATE",
        help="a setting with positive values; LEARNING_RATE by default",
        metavar="NAME",
    )
    add("--metric", help="the sweep's by default, or loss", metavar="NAME")
    add_picture(parser)


def _check(flags: argparse.Namespace) -> None:
    if len(flags.words) != 1:
        raise InputError("optimum needs the directory of a sweep: mtfrun optimum /tmp/sweep")
    check_picture(flags)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.sweeps.analysis.optimum import optima, picture
    from mtfrun.extras.sweeps.result import results_of
    from mtfrun.rundir.run_summary import metric_of

    found = results_of(flags.words[0])
    name = flags.metric or found.sweep.metric or "loss"
    metric = metric_of([x.metrics for x in found.results], name)
    by_row = optima(found.results, flags.parameter, metric)
    print_lines(*_lines(by_row, flags.parameter, metric))
    if flags.picture is not None:
        write_picture(flags, picture(by_row, flags.parameter, metric))
    return 0


def _lines(by_row: Mapping[str, Optimum], parameter: str, metric: str) -> list[str]:
    first = next(iter(by_row.values()))
    rows = []
    for name, row in by_row.items():
        if row.curve is None:
            tried = ", ".join(map(number_text, (row.values[0], row.values[-1])))
            rows.append([name, f"not between {tried}", "", "", ""])
            continue
        lowest = row.curve.lowest
        error = "" if row.octaves is None else f"x/ {2**row.octaves:.2f}"
        of_first = math.nan if first.curve is None else row.metric_at(first.curve.lowest)
        metrics = [f"{row.metric_at(lowest):.4f}", f"{of_first:.4f}"]
        rows.append([name, f"{lowest:.4g}", error, *metrics])
    headings = ["row", parameter, "error", metric, f"at that of {next(iter(by_row))}"]
    return table_lines(headings, rows, terminal_columns())


COMMANDS = [
    Command(
        "optimum",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="nothing",
        words="DIR",
    )
]
