"""Commands about the checkpoints of a run: their list, hashes, deletion."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli import command as cli
from mtfrun.display.formats import bytes_text, json_time, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import print_table
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory


def open_checkpoints(name: str) -> CheckpointDirectory:
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

    return CheckpointDirectory.of(name)


def check_step(flags: argparse.Namespace) -> None:
    cli.require_model_dir(flags)
    if flags.checkpoint is not None and not flags.checkpoint.isdecimal():
        raise InputError(f"--checkpoint={flags.checkpoint} is not a step")


def check_steps(flags: argparse.Namespace, count: str) -> None:
    if (getattr(flags, count) is None) == (flags.steps is None):
        raise InputError(f"{flags.command} needs either --{count}=N or --steps=1000,2000")
    words = [] if flags.steps is None else flags.steps.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--steps={flags.steps}: name steps, such as --steps=1000,2000")
    flags.steps = sorted({int(word) for word in words})


_LIST = """\
Lists the checkpoints of a run: step, date, size, mesh, metric, state.

  mtfrun checkpoints list --model_dir=/tmp/run
  mtfrun checkpoints list --model_dir=/tmp/run --metric=bits_per_byte
  mtfrun checkpoints list --model_dir=/tmp/run --json

The metric is from the evaluation at the step of the checkpoint during training; * marks the best
one. A checkpoint is "good" if its files have the sizes that were saved; `checkpoints verify`
compares their contents too."""


def _add_list_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", help="of the evaluations; loss by default")
    cli.add_json(parser)


def _run_list(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunRecord
    from mtfrun.rundir.run_record import numbers_as_json
    from mtfrun.rundir.run_summary import mark_best, metric_of

    directory = open_checkpoints(flags.model_dir)
    evaluations = {e.step: e.metrics for e in RunRecord(directory.run).evaluations()}
    metric = metric_of(evaluations.values(), flags.metric, is_evaluated=True)
    checkpoints = list(directory.read_all())[::-1]
    if flags.json:
        records = [
            {
                "step": c.step,
                "saved": json_time(c.time),
                "bytes": c.bytes,
                "mesh": c.metadata.get("mesh"),
                "layout": c.metadata.get("layout"),
                "state": c.state,
                "damages": list(c.damages),
                "metrics": numbers_as_json(evaluations.get(c.step, {})),
            }
            for c in checkpoints
        ]
        print(json.dumps(records))
        return 0
    values = [evaluations.get(c.step, {}).get(metric, math.nan) for c in checkpoints]
    rows = []
    for c, value in zip(checkpoints, mark_best(values, metric), strict=True):
        size = bytes_text(c.bytes) if c.manifest else "-"
        rows.append(
            [str(c.step), time_text(c.time), size, value, c.state, c.metadata.get("mesh", "-")]
        )
    print_table(("step", "saved", "size", metric, "state", "mesh"), rows)
    print_lines(*(f"step {c.step}: {damage}" for c in checkpoints for damage in c.damages))
    for prefix, step in directory.lost_manifests().items():
        lost = f"{prefix}.* are complete, but ckpt-{step}.json is missing"
        print_lines(f"step {step}: {lost}: put it back from a copy")
    return 0


_VERIFY = """\
Compares the files of checkpoints with the hashes that were recorded when they were saved.

  mtfrun checkpoints verify --model_dir=/tmp/run
  mtfrun checkpoints verify --model_dir=/tmp/run --checkpoint=1000

A line says for every checkpoint whether it is good, and a line describes every damaged file; then
the exit code is 5. Files are only read; a copy of a run directory is verified in the same way."""


def _add_step(parser: argparse.ArgumentParser) -> None:
    cli.add_checkpoint(parser, "a step; all by default", default=None)


def _run_verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    directory = open_checkpoints(flags.model_dir)
    code = 0
    for step in directory.choose(flags.checkpoint):
        stored = directory.read(step, with_hashes=True)
        if stored is None:
            print_lines(f"step {step}: deleted by the training meanwhile")
        elif stored.manifest is not None and not stored.damages:
            files = len(stored.manifest.files)
            print_lines(f"step {step}: good, {files} files, {bytes_text(stored.bytes)}")
        else:
            print_lines(*(f"step {step}: damaged: {damage}" for damage in stored.damages))
            code = ExitCode.NOT_EQUAL
    for prefix, step in directory.lost_manifests().items() if flags.checkpoint is None else ():
        print_lines(f"step {step}: damaged: ckpt-{step}.json is missing, {prefix}.* are there")
        code = ExitCode.NOT_EQUAL
    return code


_PRUNE = """\
Deletes checkpoints of a run.

  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2 --dry_run
  mtfrun checkpoints prune --model_dir=/tmp/run --steps=1000,2000
  mtfrun checkpoints prune --model_dir=/tmp/run --set_aside

--keep=N deletes all but the newest N. It prints its deletions and does not ask; --dry_run only
prints. --set_aside deletes checkpoints.1, .2, ..., to which `train --restart` has moved older
checkpoints. The newest good checkpoint, with all files as they were saved, is never deleted.
While a process trains the run, deleting is refused."""


def _add_prune_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--keep", type=cli.at_least(1), help="how many of the newest to keep")
    add("--steps", help="which ones to delete", metavar="STEPS")
    add("--set_aside", action="store_true", help="delete checkpoints.1, ... of `train --restart`")
    add("--dry_run", action="store_true", help="delete nothing")


def _check_prune(flags: argparse.Namespace) -> None:
    cli.require_model_dir(flags)
    if not flags.set_aside:
        check_steps(flags, "keep")
    elif flags.keep is not None or flags.steps is not None:
        raise InputError("--set_aside goes without --keep and --steps")


def _run_prune(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.retention import delete_checkpoints
    from mtfrun.rundir import RunDirectory

    directory = None if flags.set_aside else open_checkpoints(flags.model_dir)
    run = RunDirectory(flags.model_dir if directory is None else directory.run)
    verb = "would delete" if flags.dry_run else "deleted"
    with contextlib.nullcontext() if flags.dry_run else run.lock():
        if directory is None:
            _prune_set_aside(run, verb, is_dry=flags.dry_run)
            return 0
        if flags.dry_run and run.is_training():
            raise InputError(f"{run.path} is being trained: wait until it has ended")
        steps = _choose_steps(directory, flags.steps, flags.keep)
        stored = {step: directory.read(step, with_hashes=False) for step in steps}
        if not flags.dry_run:
            delete_checkpoints(directory.path, steps)
    sizes = {step: checkpoint.bytes if checkpoint else 0 for step, checkpoint in stored.items()}
    for step, size in sizes.items():
        print(f"{verb} step {step}, {bytes_text(size)}")
    remaining = [str(step) for step in directory.steps() if step not in steps]
    counts, freed = (
        f"{len(steps)} of {len(steps) + len(remaining)}",
        bytes_text(sum(sizes.values())),
    )
    print(f"{verb} {counts} checkpoints, {freed}; left: {', '.join(remaining)}")
    return 0


def _prune_set_aside(run: RunDirectory, verb: str, *, is_dry: bool) -> None:
    """Deletes the directories into which `train --restart` has moved checkpoints."""
    run.require()
    directories = run.checkpoints_set_aside()
    for directory in directories:
        sizes = [path.lstat().st_size for path in directory.rglob("*")]
        if not is_dry:
            shutil.rmtree(directory)
        print_lines(f"{verb} {directory}, {len(sizes)} files, {bytes_text(sum(sizes))}")
    if not directories:
        print_lines(f"{run.path} has no checkpoints that `train --restart` has moved")


def _choose_steps(
    directory: CheckpointDirectory, steps: Sequence[int], keep: int | None
) -> list[int]:
    """The best step and steps of `CheckpointOptions.keep_every_hours` go only if they are named."""
    from mtfrun.checkpoints.retention import is_protected

    for step in steps:
        directory.require(step)
    newest_good = directory.newest_good()
    if newest_good is None:
        raise InputError(f"no checkpoint of {directory.run} is good: `checkpoints verify` says why")
    if newest_good in steps:
        raise InputError(f"step {newest_good} is the newest good checkpoint: leave it out")
    if keep is None:
        return list(steps)
    old = directory.steps()[:-keep]
    return [s for s in old if s != newest_good and not is_protected(directory.path, s)]


_command = functools.partial(cli.Command, imports_tensorflow=False, subject="run")
COMMANDS = [
    _command("checkpoints list", _LIST, _run_list, _add_list_flags, cli.require_model_dir),
    _command("checkpoints verify", _VERIFY, _run_verify, _add_step, check_step),
    _command(
        "checkpoints prune", _PRUNE, _run_prune, _add_prune_flags, _check_prune, writes_run=True
    ),
]
