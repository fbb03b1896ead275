"""Commands about all checkpoints of a run: their list, their files' hashes, their deletion."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, check_least, require_model_dir
from mtfrun.display.formats import bytes_text, json_time, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory, StoredCheckpoint


def add_match(parser: argparse.ArgumentParser) -> None:
    text = "a regular expression of paths of variables"
    parser.add_argument("--match", default="", help=text, metavar="REGEX")


def check_step(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    if flags.checkpoint is not None and not flags.checkpoint.isdecimal():
        raise InputError(f"--checkpoint={flags.checkpoint} is not a step")


def check_steps(flags: argparse.Namespace, count: str) -> None:
    if (getattr(flags, count) is None) == (flags.steps is None):
        raise InputError(f"{flags.command} needs either --{count}=N or --steps=1000,2000")
    check_least(flags, 1, count)
    if flags.steps is None:
        return
    words = flags.steps.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(
            f"--steps={flags.steps}: name steps, separated by commas: --steps=1000,2000"
        )
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
    parser.add_argument("--metric", help="of the evaluations; loss by default", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def _run_list(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunRecord
    from mtfrun.rundir.run_summary import mark_best, metric_of
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory

    directory = CheckpointDirectory.of(flags.model_dir)
    evaluations = {e.step: e.metrics for e in RunRecord(directory.run).evaluations()}
    metric = metric_of(evaluations.values(), flags.metric, is_evaluated=True)
    checkpoints = list(directory.read_all())[::-1]
    if flags.json:
        print(json.dumps([_as_json(checkpoint, evaluations) for checkpoint in checkpoints]))
        return 0
    values = [evaluations.get(c.step, {}).get(metric, math.nan) for c in checkpoints]
    rows = []
    for checkpoint, value in zip(checkpoints, mark_best(values, metric), strict=True):
        metadata = checkpoint.manifest.metadata if checkpoint.manifest else {}
        rows.append(
            [
                str(checkpoint.step),
                time_text(checkpoint.time),
                bytes_text(checkpoint.bytes) if checkpoint.manifest else "-",
                value,
                "damaged" if checkpoint.damages else "good",
                metadata.get("mesh", "-"),
            ]
        )
    headings = ("step", "saved", "size", metric, "state", "mesh")
    print_lines(*table_lines(headings, rows, terminal_columns()))
    print_lines(*_notes(directory, checkpoints))
    return 0


def _notes(directory: CheckpointDirectory, checkpoints: Sequence[StoredCheckpoint]) -> list[str]:
    notes = [f"step {c.step}: {damage}" for c in checkpoints for damage in c.damages]
    notes += [
        f"step {step}: {prefix}.* are complete, but ckpt-{step}.json is missing: put it back from "
        "a copy"
        for prefix, step in directory.lost_manifests().items()
    ]
    return notes


def _as_json(
    checkpoint: StoredCheckpoint, evaluations: Mapping[int, Mapping[str, float]]
) -> dict[str, object]:
    metadata = checkpoint.manifest.metadata if checkpoint.manifest else {}
    metrics = evaluations.get(checkpoint.step, {})
    return {
        "step": checkpoint.step,
        "saved": json_time(checkpoint.time),
        "bytes": checkpoint.bytes,
        "mesh": metadata.get("mesh"),
        "layout": metadata.get("layout"),
        "state": "damaged" if checkpoint.damages else "good",
        "damages": list(checkpoint.damages),
        "metrics": {name: x if math.isfinite(x) else None for name, x in metrics.items()},
    }


_VERIFY = """\
Compares the files of checkpoints with the hashes that were recorded when they were saved.

  mtfrun checkpoints verify --model_dir=/tmp/run
  mtfrun checkpoints verify --model_dir=/tmp/run --checkpoint=1000

A line says for every checkpoint whether it is good, and for every damaged file what is wrong with
it; then the exit code is 5. Nothing is deleted or changed, and a copy of a run directory is
verified in the same way."""


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="a step; all by default", metavar="STEP")


def _run_verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory

    directory = CheckpointDirectory.of(flags.model_dir)
    if flags.checkpoint is not None:
        directory.require(int(flags.checkpoint))
    steps = directory.steps() if flags.checkpoint is None else [int(flags.checkpoint)]
    code = 0
    for step in steps:
        stored = directory.read(step, with_hashes=True)
        if stored is None:
            print_lines(f"step {step}: deleted by the training meanwhile")
            continue
        for damage in stored.damages:
            print_lines(f"step {step}: damaged: {damage}")
            code = ExitCode.NOT_EQUAL
        if stored.manifest is not None and not stored.damages:
            files = len(stored.manifest.files)
            print_lines(f"step {step}: good, {files} files, {bytes_text(stored.bytes)}")
    if flags.checkpoint is None:
        for prefix, step in directory.lost_manifests().items():
            print_lines(f"step {step}: damaged: ckpt-{step}.json is missing, {prefix}.* are there")
            code = ExitCode.NOT_EQUAL
    return code


_PRUNE = """\
Deletes checkpoints of a run.

  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2
  mtfrun checkpoints prune --model_dir=/tmp/run --steps=1000,2000
  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2 --dry_run
  mtfrun checkpoints prune --model_dir=/tmp/run --set_aside

--keep=N deletes all but the newest N; --steps=... deletes those of these steps. It prints what it
deletes, and does not ask; --dry_run only prints. --set_aside deletes checkpoints.1, .2, ..., to
which `train --restart` has moved older checkpoints, and all files in them. The newest good
checkpoint, whose files are as they were saved, is never deleted, and nothing is deleted while a
process trains the run."""


def _add_prune_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, help="how many of the newest to keep", metavar="N")
    parser.add_argument("--steps", help="which ones to delete", metavar="STEPS")
    parser.add_argument(
        "--set_aside", action="store_true", help="delete checkpoints.1, ... of `train --restart`"
    )
    parser.add_argument("--dry_run", action="store_true", help="delete nothing")


def _check_prune(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    if flags.set_aside and flags.keep is None and flags.steps is None:
        return
    if flags.set_aside:
        raise InputError("--set_aside goes without --keep and --steps")
    check_steps(flags, "keep")


def _run_prune(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.retention import delete_checkpoints
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory

    if flags.set_aside:
        return _prune_set_aside(RunDirectory(flags.model_dir), is_dry=flags.dry_run)
    directory = CheckpointDirectory.of(flags.model_dir)
    run = RunDirectory(directory.run)
    with contextlib.nullcontext() if flags.dry_run else run.lock():
        if flags.dry_run and run.is_training():
            raise InputError(f"{run.path} is being trained: wait until it has ended")
        steps = _choose_steps(directory, flags.steps, flags.keep)
        stored = {step: directory.read(step, with_hashes=False) for step in steps}
        if not flags.dry_run:
            delete_checkpoints(directory.path, steps)
    verb = "would delete" if flags.dry_run else "deleted"
    for step, checkpoint in stored.items():
        print(f"{verb} step {step}, {bytes_text(checkpoint.bytes if checkpoint else 0)}")
    freed = sum(checkpoint.bytes for checkpoint in stored.values() if checkpoint)
    remaining = [step for step in directory.steps() if step not in steps]
    print(
        f"{verb} {len(steps)} of {len(steps) + len(remaining)} checkpoints, {bytes_text(freed)}; "
        f"left: {', '.join(map(str, remaining))}"
    )
    return 0


def _prune_set_aside(run: RunDirectory, *, is_dry: bool) -> int:
    """Deletes the directories into which `train --restart` has moved checkpoints."""
    run.require()
    verb = "would delete" if is_dry else "deleted"
    with contextlib.nullcontext() if is_dry else run.lock():
        directories = run.checkpoints_set_aside()
        for directory in directories:
            sizes = [path.lstat().st_size for path in directory.rglob("*")]
            if not is_dry:
                shutil.rmtree(directory)
            print_lines(f"{verb} {directory}, {len(sizes)} files, {bytes_text(sum(sizes))}")
    if not directories:
        print_lines(f"{run.path} has no checkpoints that `train --restart` has moved")
    return 0


def _choose_steps(
    directory: CheckpointDirectory, steps: Sequence[int] | None, keep: int | None
) -> list[int]:
    """The best step and steps of `CheckpointOptions.keep_every_hours` go only if they are named."""
    from mtfrun.checkpoints.retention import is_protected

    for step in steps or ():
        directory.require(step)
    newest_good = directory.newest_good()
    if newest_good is None:
        raise InputError(
            f"no checkpoint of {directory.run} is good, so that none is deleted: see "
            f"`mtfrun checkpoints verify --model_dir={directory.run}`"
        )
    if steps is None:
        old = directory.steps()[: -(keep or 1)]
        return [s for s in old if s != newest_good and not is_protected(directory.path, s)]
    if newest_good in steps:
        raise InputError(
            f"step {newest_good} is the newest good checkpoint of {directory.run}, which is never "
            "deleted: leave it out of --steps, or remove the whole directory yourself"
        )
    return list(steps)


_command = functools.partial(Command, imports_tensorflow=False, subject="run")
COMMANDS = [
    _command("checkpoints list", _LIST, _run_list, _add_list_flags, require_model_dir),
    _command("checkpoints verify", _VERIFY, _run_verify, _add_verify_flags, check_step),
    _command(
        "checkpoints prune", _PRUNE, _run_prune, _add_prune_flags, _check_prune, writes_run=True
    ),
]
