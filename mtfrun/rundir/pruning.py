"""Deletion of checkpoints that a person has chosen. Without TensorFlow."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from mtfrun.rundir import atomic
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.leftovers import remove_leftovers
from mtfrun.rundir.manifest import manifest_path


def delete_checkpoints(directory: pathlib.Path, steps: Sequence[int]) -> None:
    """Deletes the checkpoints of some steps; the caller holds the run's lock.

    Raises:
      RunDirError: one cannot be deleted; those before it are.
    """
    for step in steps:
        # The manifest first: without it there is no checkpoint, whatever files remain. Its new name
        # says that the files may be removed, see leftovers.py.
        path = manifest_path(directory, step)
        try:
            path.replace(atomic.temporary_path(path))
        except OSError as error:
            raise RunDirError(
                f"cannot delete {path}: {reason(error)}; check the permissions of {directory}"
            ) from error
    remove_leftovers(directory)
