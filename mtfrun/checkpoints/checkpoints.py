from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mtfrun.checkpoints.manifest import TRAIN_STEPS
from mtfrun.checkpoints.partial_files import clean
from mtfrun.checkpoints.restore import CheckpointReader
from mtfrun.checkpoints.retention import Best, delete_old, read_best, write_best
from mtfrun.checkpoints.save import Save
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.files.errors import RunDirError

BEST, LATEST = "best", "latest"
"""Names of checkpoints besides their steps."""


class Checkpoints(CheckpointReader):
    """The checkpoints of one run: `ckpt-300.*` by step.

    Files have the format of `tf.train.Checkpoint`, with the place of every part in its variable:
    a checkpoint saved from one mesh restores bit for bit onto any other. A checkpoint exists
    once its manifest `ckpt-300.json` does, which is finished last; partial_files.py says what
    happens to other files. TensorFlow's `checkpoint` text file is neither written nor read.

    Only the holder of the run's lock may write (`save`, `clean`, `set_best`). Any process may read,
    even while the holder deletes old checkpoints.

    `save`, `restore` and `read` are collective. Each process writes parts of variables that its
    devices hold, an equal share of those that several processes hold; the first holds the lock,
    writes the manifest and deletes old checkpoints. The directory must be on a file system that all
    processes share.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_to_keep: int | None = 5) -> None:
        super().__init__(pathlib.Path(directory))
        check_range("max_to_keep", max_to_keep, COUNT, optional=True)
        self._max_to_keep = max_to_keep

    def is_of_last_step(self, step: int) -> bool:
        manifest = self.manifest(step)
        metadata = {} if manifest is None else manifest.metadata
        return TRAIN_STEPS in metadata and step >= int(metadata[TRAIN_STEPS])

    def best(self) -> Best | None:
        best = read_best(self._directory)
        return best if best is not None and best.step in self.steps() else None

    def set_best(self, best: Best) -> None:
        write_best(self._directory, best)

    def named_step(self, name: int | str | None) -> int | None:
        """Resolves a step, its digits, or "best"; "latest" is None, the newest good checkpoint."""
        if name is None or name == LATEST:
            return None
        if name != BEST:
            return int(name)
        best = self.best()
        if best is None:
            remedy = "train with training.CheckpointOptions.best_metric = 'eval/loss'"
            raise RunDirError(f"{self._directory} has no best checkpoint: {remedy}")
        return best.step

    def save(
        self, step: int, variables: Mapping[str, Any], *, metadata: Mapping[str, Any] | None = None
    ) -> str:
        return self.start_save(step, variables, metadata=metadata).wait()

    def start_save(
        self, step: int, variables: Mapping[str, Any], *, metadata: Mapping[str, Any] | None = None
    ) -> Save:
        """Copies the variables; a thread finishes the save. 100 MB take about half a second.

        A step saved before is replaced, and stays complete until the new files are.
        """
        delete = functools.partial(self.delete_old, step)
        return Save(self._directory, step, variables, metadata or {}, after=delete)

    def clean(self) -> list[str]:
        return clean(self._directory)

    def delete_old(self, step: int) -> None:
        """Deletes old checkpoints, as after the save of a step: that save may have been killed."""
        delete_old(self._directory, step, self._max_to_keep)
