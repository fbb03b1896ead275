from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, check_least, require_gin_files
from mtfrun.cli.early_check import configuration_error
from mtfrun.configuration.errors import one_line
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.tools.runs import RunSummary
    from mtfrun.tools.sweep.sweep import Sweep, SweepRun
    from mtfrun.tools.sweep.trainer import Trainer

_DESCRIPTION = """\
Trains a grid of runs: every combination of the alternatives that flags give.

  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.03,0.1 --model_dir=/tmp/lr
  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.03 --gin.D_MODEL=64,128 \\
      --gin.TRAIN_STEPS=500 --model_dir=/tmp/grid --jobs=2
  mtfrun sweep ... --dry_run        prints the runs, and starts none

A comma outside of brackets and quotes separates alternatives. A list is one value, in brackets, and
so is a text, in quotes within quotes:

  --gin.Entropies.orders="[1,2],[3]"                  two alternatives: [1, 2] and [3]
  --gin.MESH_SHAPE="'data:2,model:1','data:1,model:2'"    two texts
  --gin.Training.optimizer="@optim.Adam(),@optim.Adafactor()"

Each run is trained by `mtfrun train`, in a directory of --model_dir that has the name of what
differs, such as LEARNING_RATE=0.01,D_MODEL=64; sweep.log in it has its output. --jobs=N trains N of
them at the same time, which share the machine's GPUs in equal parts. A run that fails does not end
the sweep. At the end a table has step, state and metrics of every run, the best one marked by *.

Ctrl-C and SIGTERM save the runs that are trained and end the sweep. The same command resumes it:
runs that are finished are left out, all other runs resume from their checkpoints. It may name
further values of the parameters that differ; other changes are refused.

The exit code is 0, or the first failed run's. `mtfrun runs DIR` prints a table later."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--sweep_file",
        help="a gin file with rows, a grid and seeds: sweeps/mine.gin",
        metavar="FILE",
    )
    add("--seeds", type=int, help="train with SEED = 0 to N - 1", metavar="N")
    add("--jobs", type=int, default=1, help="runs at the same time; 1 by default", metavar="N")
    add("--metric", help="the metric of the table; loss by default", metavar="NAME")
    add("--dry_run", action="store_true", help="print the runs, and start none")
    add(
        "--accept_changes",
        action="store_true",
        help="continue although the data have changed since the checkpoints",
    )


def _check(flags: argparse.Namespace) -> None:
    if not flags.sweep_file:
        require_gin_files(flags)
    if flags.model_dir is None:
        raise InputError("sweep needs a directory for its runs: --model_dir=/tmp/sweep")
    check_least(flags, 1, "jobs", "seeds")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.rundir import RunDirectory, writer_lock
    from mtfrun.tools.sweep.sweep import Sweep

    sweep = _sweep(flags)
    sweep.check_macros(flags.gin_search_paths)
    run_directory = RunDirectory(flags.model_dir)
    directory = pathlib.Path(run_directory.path)
    former = Sweep.read(directory)
    whole = sweep if former is None else former.continue_with(sweep, directory)
    runs = whole.runs_of(sweep)
    if flags.dry_run:
        _print_plan(runs, directory)
        return 0
    run_directory.prepare()
    with writer_lock(directory / ".sweep.lock"):
        whole.write(directory)
        trainer = _train(flags, sweep, runs, directory)
    return _report(flags, runs, directory, trainer, command)


def _sweep(flags: argparse.Namespace) -> Sweep:
    from mtfrun.tools.sweep.sweep import Sweep
    from mtfrun.tools.sweep.sweep_file import read_sweep_file, with_flags

    try:
        named = flags.sweep_file
        sweep = read_sweep_file(named, flags.gin_search_paths) if named else Sweep([])
        if flags.seeds is not None:
            sweep = dataclasses.replace(sweep, seeds=list(range(flags.seeds)))
        sweep = with_flags(sweep, flags.gin_file, flags.bindings)
        sweep.check()
        return sweep
    except InputError as error:
        of_one_run = argparse.Namespace(**{**vars(flags), "command": "train"})
        wrong = configuration_error(of_one_run) if flags.gin_file else None
        place = str(error).partition(": ")[0]
        raise wrong if wrong is not None and str(wrong).startswith(place) else error from None


def _train(
    flags: argparse.Namespace, sweep: Sweep, runs: Sequence[SweepRun], directory: pathlib.Path
) -> Trainer:
    from mtfrun.tools.runs import summary_of
    from mtfrun.tools.sweep.trainer import Display, TrainedRun, Trainer

    display = Display(len(runs))
    trainer = Trainer(flags.jobs, display, flags.metric or "loss")
    trained = [
        TrainedRun(number, run.name, directory / run.name, _arguments(flags, sweep, run, directory))
        for number, run in enumerate(runs, 1)
        if summary_of(directory / run.name, run.name).state != "finished"
    ]
    if len(trained) < len(runs):
        display.note(f"{len(runs) - len(trained)} of {len(runs)} runs are finished")
    trainer.train(trained)
    return trainer


def _report(
    flags: argparse.Namespace,
    runs: Sequence[SweepRun],
    directory: pathlib.Path,
    trainer: Trainer,
    command: Sequence[str],
) -> int:
    from mtfrun.tools.runs import metric_of, sweep_table
    from mtfrun.tools.sweep.trainer import describe_sweep

    summaries = [_summary(run, directory, trainer) for run in runs]
    evaluations = [summary.metrics for summary in summaries]
    try:
        metric = metric_of(evaluations, flags.metric)
    except InputError as error:  # not a reason to print no table
        progress.print_line(progress.warning(one_line(error)))
        metric = metric_of(evaluations, None)
    varied = list(runs[0].values)
    print_lines(*sweep_table(summaries, varied, metric, terminal_columns()))
    print_lines(f"TensorBoard: tensorboard --logdir {shlex.quote(str(directory))}")
    metrics = dict.fromkeys(name for metrics in evaluations for name in metrics)
    if metrics and trainer.codes:
        describe_sweep(directory, [r.values for r in runs], list(dict.fromkeys([metric, *metrics])))
    if trainer.signal is not None:
        print(f"mtfrun: stopped; to go on: {shlex.join(command)}", file=sys.stderr, flush=True)
        return 128 + trainer.signal
    return next((trainer.codes[r.name] for r in runs if trainer.codes.get(r.name)), 0)


def _summary(run: SweepRun, directory: pathlib.Path, trainer: Trainer) -> RunSummary:
    """A run that was refused at its start has failed."""
    from mtfrun.tools.runs import summary_of

    summary = summary_of(directory / run.name, run.name)
    # A configuration that was refused is recorded nowhere.
    summary = dataclasses.replace(summary, config=run.values)
    error = trainer.errors.get(run.name)
    if error is not None and summary.state == "waiting":
        summary = dataclasses.replace(summary, state="failed", error=error)
    return summary


def _arguments(
    flags: argparse.Namespace, sweep: Sweep, run: SweepRun, directory: pathlib.Path
) -> list[str]:
    fixed = {name: text for name, text in sweep.bindings.items() if name not in run.values}
    paths = flags.gin_search_paths
    return [
        "train",
        *(f"--gin_file={name}" for name in [*sweep.gin_files, *run.gin_files]),
        *([f"--gin_search_paths={os.pathsep.join(paths)}"] if paths else []),
        *(f"--gin.{name}={text}" for name, text in fixed.items()),
        *run.flags,
        f"--model_dir={directory / run.name}",
        *["--accept_changes"] * flags.accept_changes,
        *["--debug"] * flags.debug,
    ]


def _print_plan(runs: Sequence[SweepRun], directory: pathlib.Path) -> None:
    from mtfrun.tools.runs import summary_of
    from mtfrun.tools.sweep.sweep import NAME

    names = list(runs[0].values)
    rows = []
    for run in runs:
        summary = summary_of(directory / run.name, run.name)
        rows.append([*(run.values[name] for name in names), summary.state, run.name])
    print_lines(*table_lines([*names, "state", "directory"], rows, terminal_columns()))
    print_lines(f"{len(runs)} runs in {directory}, recorded in {NAME}")


COMMANDS = [Command("sweep", _DESCRIPTION, run, _add_flags, _check, imports_tensorflow=False)]
