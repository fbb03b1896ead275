from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.cli.commands.checkpoints.flags import check_choice, check_run
from mtfrun.display.formats import bytes_text
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory

_DESCRIPTION = """\
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


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, help="how many of the newest to keep", metavar="N")
    parser.add_argument("--steps", help="which ones to delete", metavar="STEPS")
    parser.add_argument(
        "--set_aside", action="store_true", help="delete checkpoints.1, ... of `train --restart`"
    )
    parser.add_argument("--dry_run", action="store_true", help="delete nothing")


def _check(flags: argparse.Namespace) -> None:
    check_run(flags)
    if flags.set_aside and flags.keep is None and flags.steps is None:
        return
    if flags.set_aside:
        raise InputError("--set_aside goes without --keep and --steps")
    check_choice(flags, "keep")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.checkpoints.retention import delete_checkpoints
    from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory

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
    from mtfrun.rundir.checkpoints.retention import is_protected

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


CHECKPOINTS_PRUNE = Command(
    "checkpoints prune",
    _DESCRIPTION,
    _add_flags,
    _check,
    run,
    imports_tensorflow=False,
    is_configured=False,
)
