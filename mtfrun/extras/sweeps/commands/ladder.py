from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mtfrun.cli.command import (
    Command,
    add_json,
    add_picture,
    check_least,
    check_names,
    check_picture,
    write_picture,
)
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.display.table import terminal_columns
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE

_DESCRIPTION = """\
Fits a scaling law to a sweep over sizes and lengths of training; says what to train for a budget.

  mtfrun sweep --sweep_file=extras/sweeps/ladder.gin --model_dir=/tmp/ladder
  mtfrun ladder /tmp/ladder
  mtfrun ladder /tmp/ladder --hold_out=0 --budget=1e15
  mtfrun ladder /tmp/ladder --picture=ladder.svg

The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022): L is the sweep's metric at
the end of a run, N the number of parameters, D of tokens. It is fitted to finished runs
without those of the largest size, and predicts these: the table has the error. --hold_out=0 fits it
to all runs, for the best advice.

The advice is the N and D with the lowest loss for so many floating-point operations. Intervals
contain 95 % of the laws that fit losses drawn around this one; docs/extras/sweeps.md says more."""


_DRAWS = 400


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--budget",
        type=float,
        help="floating-point operations of a training, such as 1e15; by default 10 times those of "
        "the largest run",
        metavar="C",
    )
    add(
        "--hold_out",
        type=int,
        default=1,
        help="the law is fitted without the N largest sizes (default: 1)",
        metavar="N",
    )
    add("--metric", help="the sweep's by default, else loss; lower is better", metavar="NAME")
    add("--seed", type=int, default=0, help="of the draws for intervals", metavar="N")
    add_picture(parser)
    add_json(parser)


def _check(flags: argparse.Namespace) -> None:
    from mtfrun.metrics.catalogue import LOWEST, best_mode

    if len(flags.words) != 1:
        raise InputError("ladder needs the directory of one sweep: mtfrun ladder /tmp/ladder")
    check_names(flags, "metric")
    check_least(flags, 0, "hold_out", "seed")
    if flags.budget is not None and flags.budget not in POSITIVE:
        raise InputError(f"--budget={flags.budget:g}: it must be {POSITIVE}, such as 1e15")
    if flags.metric is not None and best_mode(flags.metric) != LOWEST:
        raise InputError(f"--metric={flags.metric}: more of it is better, and the law is of a loss")
    check_picture(flags)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.sweeps.analysis.ladder import advise, fit_ladder, ladder_rows
    from mtfrun.extras.sweeps.analysis.ladder_table import ladder_json, ladder_lines, ladder_picture
    from mtfrun.extras.sweeps.result import results_of
    from mtfrun.rundir.run_summary import metric_of

    sweep, results = results_of(flags.words[0])
    metric = metric_of([x.metrics for x in results], flags.metric or sweep.metric or "loss")
    rows, left_out = ladder_rows(results, metric, flags.hold_out)
    with progress.waiting("fitting the law"):
        ladder = fit_ladder(rows, metric, left_out, draws=_DRAWS, seed=flags.seed)
    advice = advise(ladder, flags.budget)
    if flags.json:
        print(json.dumps(ladder_json(ladder, advice), allow_nan=False))
    else:
        print_lines(*ladder_lines(ladder, advice, terminal_columns()))
    if flags.picture is not None:
        write_picture(flags, ladder_picture(ladder, advice))
    return 0


COMMANDS = [
    Command(
        "ladder",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="nothing",
        words="DIR",
    )
]
