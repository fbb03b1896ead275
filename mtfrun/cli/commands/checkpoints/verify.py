from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli.command import Command
from mtfrun.cli.commands.checkpoints.flags import add_checkpoint, check_run
from mtfrun.display.formats import bytes_text
from mtfrun.display.streams import print_lines

_DESCRIPTION = """\
Compares the files of checkpoints with the hashes that were recorded when they were saved.

  mtfrun checkpoints verify --model_dir=/tmp/run
  mtfrun checkpoints verify --model_dir=/tmp/run --checkpoint=1000

A line says for every checkpoint whether it is good, and for every damaged file what is wrong with
it; then the exit code is 5. Nothing is deleted or changed, and a copy of a run directory is
verified in the same way."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, "all")


DAMAGED = 5
"""The exit code if a file is not as it was saved."""


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory

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
            code = DAMAGED
        if stored.manifest is not None and not stored.damages:
            files = len(stored.manifest.files)
            print_lines(f"step {step}: good, {files} files, {bytes_text(stored.bytes)}")
    if flags.checkpoint is None:
        for prefix, step in directory.lost_manifests().items():
            print_lines(f"step {step}: damaged: ckpt-{step}.json is missing, {prefix}.* are there")
            code = DAMAGED
    return code


CHECKPOINTS_VERIFY = Command(
    "checkpoints verify",
    _DESCRIPTION,
    _add_flags,
    check_run,
    run,
    imports_tensorflow=False,
    is_configured=False,
)
