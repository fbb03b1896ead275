"""The commands train, eval, decode and score. Importing this module imports TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TextIO

from mtfrun import mtf, processes
from mtfrun.cli.continuous import (
    SUMMARIES,
    each_restored,
    steps_as_they_appear,
    wait_for_checkpoint,
)
from mtfrun.cli.flags.command import Function
from mtfrun.cli.flags.inference import chosen_settings
from mtfrun.cli.gin_settings import settings_of
from mtfrun.cli.inputs.prompts import agreed_bytes, read_pairs, standard_input
from mtfrun.cli.inputs.source import FlagSource, TypedText, split_of_input
from mtfrun.cli.output_lines import as_text, json_line
from mtfrun.cli.plan import describe_dry_run
from mtfrun.cli.routing_table import routing_table
from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.experiment import Inference
from mtfrun.experiment.runs.opening import Opened, opened, restored, trained_run
from mtfrun.experiment.runs.recorded_training import setup_of
from mtfrun.experiment.runs.run_training import TrainChoices, prepared, run_training
from mtfrun.experiment.saved_configuration import check_same_split
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunDirectory, RunDirError, Setup, atomic_open


@terminable()  # until the loop of training handles signals itself: caches may be built before
def train(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Trains, or with --dry_run prints a description of the run."""
    preparation = prepared(settings_of(flags), planned=flags.dry_run)
    if flags.dry_run:
        print(describe_dry_run(preparation.training, flags.program_dump))
        return 0
    is_profiled = flags.profile and flags.profile_process == processes.index()
    choices = TrainChoices(flags.restart, flags.accept_changes, is_profiled, flags.max_hours)
    result = run_training(preparation, RunDirectory(flags.model_dir), command, choices)
    if result.signal is not None:
        stopped = f"stopped and saved at step {result.step}"
        if not result.is_saved:
            stopped = "stopped before the first step"
        progress.note(f"mtfrun: {stopped}; the same command goes on")
        return 128 + result.signal
    return 0


@terminable()
def evaluate(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Evaluates checkpoints and prints one JSON object each, with null for non-finite metrics."""
    if flags.continuous:
        wait_for_checkpoint(RunDirectory(flags.model_dir), flags.timeout_secs)
    run, built = _open(flags, command)
    if processes.count() > 1:
        built.evaluation.check_split()
    code = 0
    with contextlib.ExitStack() as stack:
        summaries = None
        # All have them or none: samples are only decoded if they are shown.
        if run is not None and processes.by_first(run.is_writable):
            name = SUMMARIES if flags.continuous else "eval"
            summaries = stack.enter_context(run.summaries(name))
        for step in _restored(flags, built, run):
            metrics = built.evaluation(step, summaries, run=None if summaries is None else run)
            for line in routing_table(metrics):
                progress.note(line)
            non_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
            fields = {"step": step, **metrics, **dict.fromkeys(non_finite)}
            if processes.is_first():
                print(json.dumps(fields, allow_nan=False), flush=True)
            if non_finite:
                line = progress.error(
                    f"step {step}: {', '.join(non_finite[:3])} "
                    "infinite or not a number, null in the line above"
                )
                progress.note(line)
                code = NON_FINITE
    return code


@terminable()
def decode(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Decodes prompts or classifies images and writes one line each, in order."""
    run, built = _open(flags, command)
    inference = built.experiment.inference.with_settings(chosen_settings(flags))
    inputs = inference.read(FlagSource(flags))
    (step,) = _restored(flags, built, run)
    if flags.interactive:
        _converse(inference)
        return 0
    truncated = 0
    with _output(flags.output) as file:
        for record in inference.records(inputs):
            truncated += bool(record.fields.get("truncated_tokens"))
            if flags.format == "text":
                file.write("".join(map(as_text, record.texts)))
            else:
                file.write(json_line(record, step))
    if truncated:
        line = progress.warning(
            f"{truncated} prompt(s) have more tokens than the model reads: some "
            "of them were cut off; truncated_tokens in the output counts them"
        )
        progress.note(line)
    return 0


@terminable()
def score(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Scores pairs of an input and a target and writes one JSON object each, in order."""
    split = split_of_input(flags.input)
    pairs: Sequence[tuple[bytes, bytes]] = read_pairs(flags.input) if split is None else ()
    run, built = _open(flags, command)
    inference = built.experiment.inference
    if split is not None:
        pairs = inference.pairs(split)
    (step,) = _restored(flags, built, run)
    with _output(flags.output) as file:
        for record in inference.scores(pairs):
            file.write(json_line(record, step))
    return 0


# The exit code if a model's numbers are not finite.
NON_FINITE = 3


def run_command(function: Function, flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Runs a command that imports TensorFlow and returns its exit code."""
    try:
        return function(flags, command)
    except NonFiniteError as error:
        if flags.debug:
            traceback.print_exc()
        progress.note(progress.error(str(error)))
        return NON_FINITE


def _check_devices(mesh: mtf.Mesh, flags: argparse.Namespace) -> None:
    """Raises InputError unless the mesh has the devices that the flags give."""
    of_each = flags.devices_per_process
    if of_each is not None and mesh.size != of_each * processes.count():
        raise InputError(
            f"mesh {mesh.shape.to_string} has {mesh.size} device(s), {processes.count()} "
            f"process(es) with --devices_per_process={of_each} have {of_each * processes.count()}: "
            "change one of them"
        )


def _open(flags: argparse.Namespace, command: Sequence[str]) -> tuple[RunDirectory | None, Opened]:
    """Returns the run of --model_dir, None without it, and the objects of its configuration."""
    run = None if flags.model_dir is None else trained_run(flags.model_dir)
    with progress.waiting("building the model and its data"):
        built = opened(run, settings_of(flags))
    if run is not None:
        run.check_shared()
    check_same_split(built.experiment.data, None)
    _check_devices(built.experiment.mesh, flags)
    if run is not None and processes.is_first():
        setup = setup_of(built.experiment, config.config_text(flags.gin_allow_imports))
        _record_where_possible(run, command, setup)
    return run, built


def _restored(flags: argparse.Namespace, built: Opened, run: RunDirectory | None) -> Iterator[int]:
    """Yields the step of every checkpoint that the flags name, after it was restored."""
    restore = functools.partial(restored, built, run)
    if run is not None and flags.command == "eval" and flags.continuous:
        appearing = steps_as_they_appear(run, flags.timeout_secs)
        yield from each_restored(run, appearing, restore, leave_out_damaged=True)
    elif run is not None and flags.checkpoint == "all":
        steps = processes.by_first(run.checkpoints().steps)
        yield from each_restored(run, steps, restore)
    else:
        yield restored(built, run, flags.checkpoint)


def _converse(inference: Inference) -> None:
    """Answers lines of standard input until it ends; the programs stay compiled."""
    while True:
        if processes.is_first():
            print("> ", end="", file=sys.stderr, flush=True)
        line = agreed_bytes(lambda: standard_input().readline())
        if not line:
            return
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        (record,) = inference.records(inference.read(TypedText(text)))
        for output in record.texts if processes.is_first() else ():
            print(as_text(output), end="", flush=True)


def _record_where_possible(run: RunDirectory, command: Sequence[str], setup: Setup) -> None:
    """Records a command that only reads the run, unless the directory cannot be written."""
    try:
        run.record_command(command, setup)
    except RunDirError as error:
        problem, _, _ = str(error).partition("; ")
        progress.print_line(progress.warning(f"{problem}; nothing is recorded there"))


@contextlib.contextmanager
def _output(path: str) -> Iterator[TextIO]:
    """Opens --output, a file that appears once it is complete, or standard output for "-".

    Of several processes only the first one writes; what the others write is dropped.
    """
    if not processes.is_first():
        with pathlib.Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
    elif path == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed: name a file with --output=FILE")
        yield sys.stdout
        sys.stdout.flush()
    else:
        with atomic_open(path) as file:
            yield file
