"""The command `checkpoints prune`. Without TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Sequence

from mtfrun.display.formats import bytes_text
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.retention import delete_checkpoints, is_protected
from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory


def prune(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Deletes checkpoints, or with --dry_run says which ones it would delete."""
    if flags.set_aside:
        return _prune_set_aside(RunDirectory(flags.model_dir), is_dry=flags.dry_run)
    directory = CheckpointDirectory.of(flags.model_dir)
    run = RunDirectory(directory.run)
    with contextlib.nullcontext() if flags.dry_run else run.lock():
        if flags.dry_run and run.is_training():
            raise InputError(f"{run.path} is being trained: wait until it has ended")
        steps = _chosen(directory, flags.steps, flags.keep)
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


def _chosen(
    directory: CheckpointDirectory, steps: Sequence[int] | None, keep: int | None
) -> list[int]:
    """Returns the steps to be deleted: those that are named, or all but the newest.

    The best one, and those that `CheckpointOptions.keep_every_hours` keeps, must be named.

    Raises:
      InputError: the newest good one is named, or there is none.
    """
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
