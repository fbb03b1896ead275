"""The command `sweep`. Without TensorFlow, which its runs import."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

from mtfrun.cli.early_check import configuration_error
from mtfrun.cli.runs.summary import RunSummary, summary_of
from mtfrun.cli.runs.tables import metric_of, sweep_table
from mtfrun.cli.sweep.display import Display
from mtfrun.cli.sweep.grid import Grid, GridRun
from mtfrun.cli.sweep.hparams import describe_sweep
from mtfrun.cli.sweep.record import NAME, SweepRecord
from mtfrun.cli.sweep.trainer import TrainedRun, Trainer
from mtfrun.configuration.errors import one_line
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory, writer_lock

_LOSS = "loss"


def sweep(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Trains the runs of a grid, or with --dry_run prints them."""
    grid = _grid(flags)
    grid.check_macros(flags.gin_file, flags.gin_search_paths)
    run_directory = RunDirectory(flags.model_dir)
    directory = pathlib.Path(run_directory.path)
    record, former = SweepRecord.of(flags.gin_file, grid), SweepRecord.read(directory)
    if former is not None:
        record = former.continued(record, directory)
    runs = grid.ordered(record.varied).runs()
    if flags.dry_run:
        _print_plan(runs, directory)
        return 0
    run_directory.prepare()
    with writer_lock(directory / ".sweep.lock"):
        record.write(directory)
        trainer = _train(flags, runs, directory)
    return _report(flags, runs, directory, trainer, command)


def _grid(flags: argparse.Namespace) -> Grid:
    """Returns the grid of the flags.

    Raises:
      InputError: a value is not gin syntax, or has a wrong type.
    """
    try:
        return Grid.of(flags.bindings)
    except InputError as error:
        of_one_run = argparse.Namespace(**{**vars(flags), "command": "train"})
        wrong = configuration_error(of_one_run)
        place = str(error).partition(": ")[0]
        raise wrong if wrong is not None and str(wrong).startswith(place) else error from None


def _train(flags: argparse.Namespace, runs: Sequence[GridRun], directory: pathlib.Path) -> Trainer:
    """Trains the runs that are not finished."""
    display = Display(len(runs))
    trainer = Trainer(flags.jobs, display, flags.metric or _LOSS)
    trained = [
        TrainedRun(number, run.name, directory / run.name, _arguments(flags, run, directory))
        for number, run in enumerate(runs, 1)
        if summary_of(directory / run.name, run.name).state != "finished"
    ]
    if len(trained) < len(runs):
        display.note(f"{len(runs) - len(trained)} of {len(runs)} runs are finished")
    trainer.train(trained)
    return trainer


def _report(
    flags: argparse.Namespace,
    runs: Sequence[GridRun],
    directory: pathlib.Path,
    trainer: Trainer,
    command: Sequence[str],
) -> int:
    """Prints the table and what to do next; returns the exit code."""
    summaries = [_summary(run, directory, trainer) for run in runs]
    try:
        metric = metric_of(summaries, flags.metric)
    except InputError as error:  # not a reason to print no table
        progress.print_line(progress.warning(one_line(error)))
        metric = metric_of(summaries, None)
    varied = list(runs[0].values)
    print_lines(*sweep_table(summaries, varied, metric, terminal_columns()))
    print_lines(f"TensorBoard: tensorboard --logdir {shlex.quote(str(directory))}")
    others = dict.fromkeys(name for summary in summaries for name in summary.metrics)
    if others and trainer.codes:
        describe_sweep(directory, [r.values for r in runs], list(dict.fromkeys([metric, *others])))
    if trainer.signal is not None:
        print(f"mtfrun: stopped; to go on: {shlex.join(command)}", file=sys.stderr, flush=True)
        return 128 + trainer.signal
    return next((trainer.codes[r.name] for r in runs if trainer.codes.get(r.name)), 0)


def _summary(run: GridRun, directory: pathlib.Path, trainer: Trainer) -> RunSummary:
    """Returns the summary of a run of the grid; one that was refused at its start has failed."""
    summary = summary_of(directory / run.name, run.name)
    # A configuration that was refused is recorded nowhere.
    summary = dataclasses.replace(summary, config=run.values)
    error = trainer.errors.get(run.name)
    if error is not None and summary.state == "waiting":
        summary = dataclasses.replace(summary, state="failed", error=error)
    return summary


def _arguments(flags: argparse.Namespace, run: GridRun, directory: pathlib.Path) -> list[str]:
    """Returns the words of the command that trains a run."""
    varied = run.values
    fixed = [
        f"--gin.{text.replace(' = ', '=', 1)}"
        for _, text in flags.bindings
        if text.partition("=")[0].strip() not in varied
    ]
    paths = flags.gin_search_paths
    return [
        "train",
        *(f"--gin_file={name}" for name in flags.gin_file),
        *([f"--gin_search_paths={os.pathsep.join(paths)}"] if paths else []),
        *fixed,
        *run.flags,
        f"--model_dir={directory / run.name}",
        *["--accept_changes"] * flags.accept_changes,
        *["--debug"] * flags.debug,
    ]


def _print_plan(runs: Sequence[GridRun], directory: pathlib.Path) -> None:
    """Prints the runs of a grid with their states."""
    names = list(runs[0].values)
    rows = []
    for run in runs:
        summary = summary_of(directory / run.name, run.name)
        rows.append([*(run.values[name] for name in names), summary.state, run.name])
    print_lines(*table_lines([*names, "state", "directory"], rows, terminal_columns()))
    print_lines(f"{len(runs)} runs in {directory}, recorded in {NAME}")
