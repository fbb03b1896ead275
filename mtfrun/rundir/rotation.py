"""Deletion of old checkpoints."""

from __future__ import annotations

import contextlib
import pathlib

from mtfrun.rundir import atomic
from mtfrun.rundir import manifest as manifests
from mtfrun.rundir.best import read_best
from mtfrun.rundir.errors import RunDirError
from mtfrun.rundir.leftovers import list_steps, remove_leftovers

KEPT = "kept"
"""Entry of a manifest, True where no later save may delete the checkpoint."""


def delete_old(directory: pathlib.Path, saved: int, max_to_keep: int | None) -> None:
    """Deletes checkpoints before the newest ones, and the files that step `saved` has replaced.

    Args:
      directory: where the checkpoints are.
      saved: the step that was saved just now.
      max_to_keep: how many of the newest to keep, that one included; None keeps all.
    """
    if max_to_keep is not None:
        older_steps = [step for step in list_steps(directory) if step != saved]
        for step in older_steps[: max(0, len(older_steps) + 1 - max_to_keep)]:
            if not _is_protected(directory, step):
                # The manifest first: without it there is no checkpoint, whatever files it leaves.
                path = manifests.manifest_path(directory, step)
                with contextlib.suppress(OSError):
                    path.replace(atomic.temporary_path(path))
    remove_leftovers(directory)


def _is_protected(directory: pathlib.Path, step: int) -> bool:
    """Returns whether a checkpoint is the best one or was kept, as far as can be read."""
    with contextlib.suppress(RunDirError):
        best = read_best(directory)
        if best is not None and best.step == step:
            return True
    with contextlib.suppress(RunDirError, FileNotFoundError):
        return manifests.read_manifest(directory, step).metadata.get(KEPT) is True
    return False
