from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mtfrun.cli.command import Command, check_directories
from mtfrun.display.streams import print_lines
from mtfrun.display.table import terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.rundir.run_summary import RunSummary

_DESCRIPTION = """\
Prints a table of the runs in directories and below them: differences, state, steps, metrics.

  mtfrun runs /tmp/sweep
  mtfrun runs /tmp/run1 /tmp/run2 /tmp/sweep
  mtfrun runs /tmp/sweep --metric=accuracy
  mtfrun runs /tmp --sort=date
  mtfrun runs /tmp/sweep --json

States: running; finished; stopped by a signal, or by kill -9; failed; damaged, where a file of the
newest checkpoint has another size than was saved. Metrics are from the evaluations during
training: the last and the best, which * marks. Speed is of the last steps. The columns on the
right, or those that fit, have the first parameters in which the runs differ; of a sweep, whose
runs are all listed, also those that were refused or have not begun, its rows or its grid."""


SORT = ("name", "metric", "step", "date", "speed", "state")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metric", help="of the evaluations; that of a sweep by default, or loss", metavar="NAME")
    add(
        "--sort", choices=SORT, help="what the rows are sorted by: metric by default", metavar="KEY"
    )
    add("--json", action="store_true", help="print one JSON array")


def _check(flags: argparse.Namespace) -> None:
    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if not flags.words:
        raise InputError("runs needs a directory, or several: mtfrun runs /tmp/sweep")
    check_directories(flags)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir.run_summary import as_json, error_lines, metric_of, runs_table, varied_names

    by_path: dict[pathlib.Path, RunSummary] = {}
    for word in flags.words:
        by_path = _runs_below(word, alone=len(flags.words) == 1) | by_path
    summaries = list(by_path.values())
    evaluated = {name for summary in summaries for name in summary.metrics}
    swept = [summary.swept for summary in summaries if summary.swept is not None]
    if len(flags.words) == 1 and len(swept) == len(summaries):
        summaries = [
            dataclasses.replace(x, config=y.settings) for x, y in zip(summaries, swept, strict=True)
        ]
    metric = metric_of(
        [s.metrics for s in summaries],
        flags.metric or next((x.metric for x in swept if x.metric in evaluated), None),
        is_evaluated=flags.metric is not None,
    )
    varied = ["row"] if all("row" in s.config for s in summaries) else varied_names(summaries)
    summaries.sort(key=_sort_key(flags.sort or "metric", metric))
    if flags.json:
        print(json.dumps([as_json(summary, varied) for summary in summaries], allow_nan=False))
        return 0
    print_lines(*runs_table(summaries, varied, metric, terminal_columns()))
    print_lines(*error_lines(summaries))
    return 0


def _runs_below(word: str, *, alone: bool) -> dict[pathlib.Path, RunSummary]:
    """Returns the runs, of a sweep also those that have not begun."""
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.run_summary import find_runs, no_run_in, summary_of

    directory = pathlib.Path(RunDirectory(word).path)
    runs = {}
    for path in find_runs(directory):
        name = str(path.relative_to(directory))
        if not alone:
            name = str(pathlib.Path(word, name))
        elif path == directory:
            name = directory.name
        runs[path.resolve()] = summary_of(path, name)
    if not runs:
        raise no_run_in(directory)
    return runs


def _sort_key(name: str, metric: str) -> Callable[[RunSummary], Any]:
    """The best, newest or fastest runs come first."""
    from mtfrun.metrics.catalogue import LOWEST, best_mode

    def by_metric(summary: RunSummary) -> tuple[bool, float, str]:
        best = summary.best(metric)
        value = math.nan if best is None else best.metrics[metric]
        sign = 1.0 if best_mode(metric) == LOWEST else -1.0
        return math.isnan(value), sign * value if math.isfinite(value) else 0.0, summary.name

    keys: dict[str, Callable[[RunSummary], Any]] = {
        "metric": by_metric,
        "name": lambda s: s.name,
        "state": lambda s: (s.state, s.name),
        "step": lambda s: (-s.step, s.name),
        "date": lambda s: (-s.status.time if s.status else 0.0, s.name),
        "speed": lambda s: (-(s.status.speed or 0.0) if s.status else 0.0, s.name),
    }
    return keys[name]


COMMANDS = [
    Command(
        "runs",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="nothing",
        words="DIR ...",
    )
]
