from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mtfrun.cli import command as cli
from mtfrun.display import progress
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.metrics.curves import Curves
    from mtfrun.rundir.run_summary import RunSummary

_DESCRIPTION = """\
Prints a table of the runs in directories and below them: differences, state, steps, metrics.

  mtfrun runs /tmp/sweep
  mtfrun runs /tmp/run1 /tmp/run2 /tmp/sweep
  mtfrun runs /tmp/sweep --metric=accuracy
  mtfrun runs /tmp --sort=date
  mtfrun runs /tmp/sweep --json
  mtfrun runs /tmp/run --curves --rows=40

States: running; finished; stopped by a signal; killed; failed; damaged, where a file of the newest
checkpoint has another size than was saved. Metrics are from the evaluations during training: the
last and the best, which * marks. The columns on the right, as many as fit, have the first
parameters in which the runs differ; for a sweep its rows or its grid, and all of its runs.

--curves prints the curves of one run instead: metrics of training and of its evaluations, at
--rows steps."""

_SORT = ("name", "metric", "step", "date", "speed", "state")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metric", help="a metric of the evaluations; by default the sweep's, or loss")
    text = "what the rows are sorted by: metric by default"
    add("--sort", choices=_SORT, help=text, metavar="KEY")
    add("--curves", action="store_true", help="print the curves of one run")
    add("--rows", type=cli.at_least(2), help="of --curves: at most so many steps; 12 by default")
    cli.add_json(parser)


def _check(flags: argparse.Namespace) -> None:
    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if not flags.words:
        raise InputError("runs needs a directory, or several: mtfrun runs /tmp/sweep")
    cli.check_directories(flags)
    if flags.rows is not None and not flags.curves:
        raise InputError("--rows is of --curves: give it as well")
    if flags.curves and (flags.json or flags.metric or flags.sort or len(flags.words) > 1):
        raise InputError("--curves prints one run, as in mtfrun runs /tmp/run --curves --rows=40")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir.run_summary import (
        as_json,
        error_lines,
        find_named_runs,
        metric_of,
        runs_table,
        summary_of,
        varied_names,
    )

    if flags.curves:
        _print_curves(flags)
        return 0
    summaries = [summary_of(path, name) for path, name in find_named_runs(flags.words).items()]
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
    varied = (
        ["row"]
        if all("row" in s.config for s in summaries)
        else varied_names(s.config for s in summaries)
    )
    summaries.sort(key=_sort_key(flags.sort or "metric", metric))
    if flags.json:
        print(json.dumps([as_json(summary, varied) for summary in summaries], allow_nan=False))
        return 0
    print_lines(*runs_table(summaries, varied, metric, terminal_columns()))
    print_lines(*error_lines(summaries))
    return 0


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


# In this order, before all other metrics by name. Tags of single tasks and layers have a "/".
_TRAIN_METRICS = ("loss", "accuracy")
_EVAL_METRICS = ("loss", "accuracy", "bits_per_byte", "perplexity")


def _print_curves(flags: argparse.Namespace) -> None:
    from mtfrun.files import RunDirError
    from mtfrun.metrics.curves import read_curves
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.words[0])
    run.require()
    with progress.waiting("reading the curves"):
        train, evaluations = (read_curves(f"{run.path}/{name}") for name in ("train", "eval"))
    if not any((*train.values(), *evaluations.values())):
        raise RunDirError(f"{run.path} has no curves yet: train writes them every LOG_EVERY steps")
    print_lines(*curve_table(train, evaluations, flags.rows or 12))


def curve_table(train: Curves, evaluations: Curves, rows: int) -> list[str]:
    """Returns a heading and lines for at most `rows` steps, preferably with evaluations."""
    from mtfrun.metrics.curves import choose_steps
    from mtfrun.metrics.tags import tag_of

    columns = {f"train {tag}": train[tag] for tag in _TRAIN_METRICS if tag in train}
    further = sorted(tag for tag in evaluations if "/" not in tag and tag not in _EVAL_METRICS)
    for name in (*_EVAL_METRICS, *further):
        if (tag := tag_of(name)) in evaluations:
            columns[f"eval {name}"] = evaluations[tag]
    all_steps = {step for curve in columns.values() for step in curve}
    evaluated = {step for curve in evaluations.values() for step in curve}
    steps = choose_steps(all_steps, evaluated, rows)
    texts = [
        [f"{step:,}", *(number_text(curve.get(step)) for curve in columns.values())]
        for step in steps
    ]
    return table_lines(["step", *columns], texts, terminal_columns())


COMMANDS = [
    cli.Command(
        "runs",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=lambda flags: flags.curves,
        subject="nothing",
        words="DIR ...",
    )
]
