from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtfrun.cli.command import Command, at_least, require_gin_files
from mtfrun.cli.main import main
from mtfrun.configuration.errors import one_line
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.display.table import terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.extras.sweeps.resume import PlannedRun, SweepRecords
    from mtfrun.extras.sweeps.sweep import Sweep
    from mtfrun.extras.sweeps.trainer import Trainer

_PRELOADED = "mtfrun.extras.sweeps.preloaded"

_DESCRIPTION = """\
Trains many runs: the rows of a file, or every combination of alternatives, with several seeds.

  mtfrun sweep --sweep_file=mine.gin --model_dir=/tmp/mine
  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.03,0.1 --seeds=3 \\
      --model_dir=/tmp/lr
  mtfrun sweep ... --dry_run        prints the runs, and starts none

A sweep file is a gin file:

  Sweep.gin_files = ["runs/quickstart.gin"]
  Sweep.bindings = {"TRAIN_STEPS": 500}
  Sweep.rows = {"baseline": {}, "wide": {"D_FF": 512}, "other": {"gin_files": ["other.gin"]}}
  Sweep.grid = {"LEARNING_RATE": [0.01, 0.03]}      every combination, with every row
  Sweep.seeds = 3                                   SEED = 0, 1, 2
  Sweep.metric = "bits_per_byte"
  Sweep.baseline = "baseline"                       of `mtfrun table`
  Sweep.max_minutes = 4                             after which a run is stopped
  Sweep.search = {"LEARNING_RATE": ("log", 0.005, 0.2)}       for --search

In flags a comma outside of brackets and quotes separates alternatives.

Each run is trained as by `mtfrun train`, in a directory of --model_dir such as wide,SEED=0, and has
a result in results/, or in --results. A run that fails does not end the sweep. Ctrl-C and SIGTERM
save the runs and end it; the same command resumes it, and may have further rows, alternatives and
seeds. --search=30 trains 30 runs whose values Optuna chooses, and prints the flags of the best one.

The exit code is 0, or the first failed run's. `mtfrun table DIR` compares the rows."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "a gin file with rows, a grid and seeds: sweeps/mine.gin"
    add("--sweep_file", help=text, metavar="FILE")
    add("--seeds", type=at_least(1), help="train with SEED = 0 to N - 1")
    add(
        "--results",
        help="a file of lines for results, such as mine.jsonl, which can be committed, or a "
        "directory; MODEL_DIR/results by default",
        metavar="FILE",
    )
    text = "train N runs whose values Optuna chooses, from the ranges in Sweep.search"
    add("--search", type=at_least(1), help=text)
    add("--jobs", type=at_least(1), default=1, help="runs at the same time; 1 by default")
    add("--metric", help="of the table and of a search; the sweep's by default, or loss")
    add("--dry_run", action="store_true", help="print the runs, and start none")
    text = "continue although data or settings have changed since the checkpoints and results"
    add("--accept_changes", action="store_true", help=text)


def _check(flags: argparse.Namespace) -> None:
    if not flags.sweep_file:
        require_gin_files(flags)
    if flags.model_dir is None:
        raise InputError("sweep needs a directory for its runs: --model_dir=/tmp/sweep")
    if pathlib.Path(flags.model_dir, "checkpoints").is_dir():
        raise InputError(
            f"--model_dir={flags.model_dir} is a run: name another directory for the sweep's runs"
        )


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.extras.sweeps.forked_child import Server
    from mtfrun.extras.sweeps.result import Results
    from mtfrun.extras.sweeps.resume import SweepRecords
    from mtfrun.extras.sweeps.search import Search
    from mtfrun.extras.sweeps.sweep import RESULTS
    from mtfrun.extras.sweeps.trainer import Display, Trainer
    from mtfrun.files import writer_lock
    from mtfrun.processes.child_process import python_command
    from mtfrun.rundir import RunDirectory

    sweep = _sweep(flags)
    run_directory = RunDirectory(flags.model_dir)
    directory = pathlib.Path(run_directory.path)
    results = Results(pathlib.Path(flags.results or directory / RESULTS).expanduser())
    all_results = [Results(directory), *([results] if flags.results else [])]
    records = SweepRecords(sweep, directory, results, flags.gin_search_paths)
    for each in all_results:
        if (former := each.sweep()) is not None:
            records = records.continue_from(former, each.place)
    runs = records.runs(records.sweep.runs_of(sweep) if flags.search is None else [])
    if not flags.accept_changes:
        records.check_settings(runs)
    search = Search(records, flags.search, jobs=flags.jobs) if flags.search is not None else None
    _check_rows(flags, records.sweep, runs if search is None else [next(search.runs())])
    for row, other in records.equal_rows(runs):
        text = f"rows {row!r} and {other!r} have the same settings, so that their runs are the same"
        progress.print_line(progress.warning(text))
    if flags.dry_run:
        metric = records.metric(planned.result.metrics for planned in runs)
        print_lines(*records.table(runs, metric, terminal_columns()))
        print_lines(*records.settings_of_rows(runs))
        print_lines(f"{flags.search or len(runs)} runs in {directory}")
        return 0
    run_directory.prepare()
    with writer_lock(directory / ".sweep.lock"):
        for each in all_results:
            each.write_sweep(records.sweep)
        records.accept_settings(runs)
        records.write_all_swept(runs)
        display = Display(flags.search or len(runs))
        if num_done := sum(planned.is_done for planned in runs):
            display.note(f"{num_done} of {len(runs)} runs are finished")
        trainer = Trainer(
            records,
            flags.jobs,
            display,
            Server([_PRELOADED], main, [*python_command(), "-m", "mtfrun"]),
            lambda planned: _arguments(flags, records.sweep, planned),
            forks=not flags.debug,
            search=search,
        )
        trainer.train(runs if search is None else search.runs())
    ended = records.runs([planned.run for planned in runs] if search is None else search.all_runs())
    code = _report(records, ended, trainer)
    if search is not None and (best := search.best()):
        print_lines("best: " + " ".join(f"--gin.{name}={text}" for name, text in best.items()))
    if trainer.signal is not None:
        print(f"mtfrun: stopped; to go on: {shlex.join(command)}", file=sys.stderr, flush=True)
        return 128 + trainer.signal
    return code


def _sweep(flags: argparse.Namespace) -> Sweep:
    from mtfrun.extras.sweeps.sweep import Sweep
    from mtfrun.extras.sweeps.sweep_file import read_sweep_file, with_flags

    named = flags.sweep_file
    sweep = read_sweep_file(named, flags.gin_search_paths) if named else Sweep([])
    if flags.seeds is not None:
        sweep = dataclasses.replace(sweep, seeds=list(range(flags.seeds)))
    if flags.metric is not None:
        sweep = dataclasses.replace(sweep, metric=flags.metric)
    sweep = with_flags(sweep, flags.gin_file, flags.bindings)
    sweep = sweep.without_search() if flags.search is None else sweep.only_search()
    sweep.check()
    return sweep


def _check_rows(flags: argparse.Namespace, sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
    from mtfrun.extras.sweeps.forked_child import call_forked

    settings = {}
    for run in (planned.run for planned in runs if not planned.is_done):
        files, bindings = sweep.settings(run)
        place = f"row {run.row!r}: "
        named = [(f"{place}{name}", f"{name} = {text}") for name, text in bindings.items()]
        settings[place] = (files, named, flags.gin_search_paths, (), flags.module_import)
    if "tensorflow" in sys.modules:
        mistake: str | None = find_mistake(settings)
    else:
        with progress.waiting("checking the rows"):
            mistake = call_forked([_PRELOADED], find_mistake, settings)
    if mistake:
        raise InputError(mistake)


def find_mistake(settings_by_place: Mapping[str, tuple[Sequence[Any], ...]]) -> str:
    """Returns the error of the first `Settings` that are wrong, or ""; imports TensorFlow."""
    from mtfrun.configuration import config
    from mtfrun.experiment.runs.opening import Settings

    for place, fields in settings_by_place.items():
        try:
            with config.exclusive(), contextlib.redirect_stdout(io.StringIO()):
                Settings(*fields).parse()
        except InputError as error:
            text = one_line(error)
            return text if text.startswith(place) else place + text
        except Exception:  # the training of the row says so
            continue
    return ""


def _report(records: SweepRecords, runs: Sequence[PlannedRun], trainer: Trainer) -> int:
    """Prints the table, and returns the exit code of the first run that has failed."""
    from mtfrun.extras.sweeps.forked_child import call_forked
    from mtfrun.extras.sweeps.trainer import describe_sweep
    from mtfrun.rundir.run_summary import metric_of

    evaluations = [planned.result.metrics for planned in runs]
    try:
        metric = records.metric(evaluations)
    except InputError as error:  # not a reason to print no table
        progress.print_line(progress.warning(one_line(error)))
        metric = metric_of(evaluations, None)
    print_lines(*records.table(runs, metric, terminal_columns()))
    print_lines(f"TensorBoard: tensorboard --logdir {shlex.quote(str(records.directory))}")
    if any(evaluations) and trainer.codes:
        # Here it would import TensorFlow.
        metrics = list(dict.fromkeys([metric, *itertools.chain(*evaluations)]))
        values = [planned.run.values for planned in runs]
        call_forked([_PRELOADED], describe_sweep, records.directory, values, metrics)
    return next(filter(None, (trainer.codes.get(planned.name) for planned in runs)), 0)


def _arguments(flags: argparse.Namespace, sweep: Sweep, planned: PlannedRun) -> list[str]:
    paths, minutes = flags.gin_search_paths, planned.minutes
    files, bindings = sweep.settings(planned.run)
    return [
        "train",
        *(f"--gin_file={name}" for name in files),
        *([f"--gin_search_paths={os.pathsep.join(paths)}"] if paths else []),
        *(f"--module_import={name}" for name in flags.module_import),
        *(f"--gin.{name}={text}" for name, text in bindings.items()),
        f"--model_dir={planned.directory}",
        *([] if minutes is None else [f"--max_hours={minutes / 60:.6g}"]),
        *["--accept_changes"] * flags.accept_changes,
        *["--debug"] * flags.debug,
    ]


COMMANDS = [
    Command(
        "sweep",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        takes_url=False,
        is_configured=False,
    )
]
