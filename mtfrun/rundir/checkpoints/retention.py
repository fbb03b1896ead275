from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

from mtfrun.rundir import atomic
from mtfrun.rundir.checkpoints import manifest as manifests
from mtfrun.rundir.checkpoints.best import read_best
from mtfrun.rundir.checkpoints.partial_files import list_steps, remove_partial_files
from mtfrun.rundir.errors import RunDirError, reason

KEPT = "kept"
"""Entry of a manifest, True where no later save may delete the checkpoint."""


@dataclasses.dataclass(frozen=True)
class Retention:
    """The newest checkpoints remain, the best one, and those whose metadata say `KEPT`."""

    max_to_keep: int | None = 5

    def __post_init__(self) -> None:
        if self.max_to_keep is not None and self.max_to_keep < 1:
            raise RunDirError(
                f"max_to_keep is {self.max_to_keep}: it must be at least 1, or None for all"
            )

    def delete_old(self, directory: pathlib.Path, saved: int) -> None:
        old: list[int] = []
        if self.max_to_keep is not None:
            steps = [step for step in list_steps(directory) if step != saved]
            old = steps[: max(0, len(steps) + 1 - self.max_to_keep)]
        for step in old:
            if not is_protected(directory, step):
                with contextlib.suppress(RunDirError):
                    _delete(directory, step)
        remove_partial_files(directory)


def delete_checkpoints(directory: pathlib.Path, steps: Sequence[int]) -> None:
    """The caller holds the run's lock."""
    for step in steps:
        _delete(directory, step)
    remove_partial_files(directory)


def is_protected(directory: pathlib.Path, step: int) -> bool:
    """Whether a checkpoint is the best one or is `KEPT`, as far as can be read."""
    with contextlib.suppress(RunDirError):
        best = read_best(directory)
        if best is not None and best.step == step:
            return True
    with contextlib.suppress(RunDirError, FileNotFoundError):
        return manifests.read_manifest(directory, step).metadata.get(KEPT) is True
    return False


def _delete(directory: pathlib.Path, step: int) -> None:
    # The manifest first: without it there is no checkpoint, whatever files remain. Its new name
    # says that the files may be removed, see partial_files.py.
    path = manifests.manifest_path(directory, step)
    try:
        path.replace(atomic.temporary_path(path))
    except OSError as error:
        raise RunDirError(
            f"cannot delete {path}: {reason(error)}; check the permissions of {directory}"
        ) from error
