from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mtfrun.rundir.checkpoints.best import Best, read_best, write_best
from mtfrun.rundir.checkpoints.compatibility import check_compatible
from mtfrun.rundir.checkpoints.manifest import TRAIN_STEPS, Manifest, describe
from mtfrun.rundir.checkpoints.partial_files import clean, list_steps
from mtfrun.rundir.checkpoints.reader import CheckpointReader
from mtfrun.rundir.checkpoints.retention import Retention
from mtfrun.rundir.checkpoints.save import Save
from mtfrun.rundir.checkpoints.snapshot import read_variables
from mtfrun.rundir.errors import RunDirError

T = TypeVar("T")

BEST, LATEST = "best", "latest"
"""Names of checkpoints besides their steps."""


class Checkpoints:
    """The checkpoints of one run: `ckpt-300.*` by step.

    Tensors are written by `tf.train.Checkpoint`, so a checkpoint saved from one mesh restores bit
    for bit onto any other, or onto plain variables. A checkpoint exists once its manifest
    `ckpt-300.json` does, which is finished last; partial_files.py says what happens to other files.
    TensorFlow's `checkpoint` text file is neither written nor read.

    Only the holder of the run's lock may write (`save`, `clean`, `set_best`). Any process may read,
    even while the holder deletes old checkpoints.

    `save`, `restore` and `read` are collective. Each process writes the parts of variables that its
    devices hold; the first one holds the lock, writes the manifest and deletes old checkpoints. The
    directory must be on a file system that all processes share.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_to_keep: int | None = 5) -> None:
        self._directory = pathlib.Path(directory)
        self._retention = Retention(max_to_keep)
        self._reader = CheckpointReader(self._directory)

    def steps(self) -> list[int]:
        return list_steps(self._directory)

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def identity(self, step: int) -> tuple[int, int] | None:
        return self._reader.identity(step)

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
        """Resolves a step, its digits, or "best"; "latest" is None, the newest good one."""
        if name is None or name == LATEST:
            return None
        if name != BEST:
            return int(name)
        best = self.best()
        if best is None:
            raise RunDirError(
                f"{self._directory} has no best checkpoint: train with"
                " training.CheckpointOptions.best_metric = 'eval/loss', or choose a step"
            )
        return best.step

    def save(
        self,
        step: int,
        variables: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        return self.start_save(step, variables, metadata=metadata).wait()

    def start_save(
        self,
        step: int,
        variables: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Save:
        """Copies the variables; a thread finishes the save. 100 MB take about half a second.

        A step saved before is replaced, and stays complete until the new files are.
        """
        delete = functools.partial(self.delete_old, step)
        return Save(self._directory, step, variables, metadata or {}, after=delete)

    def restore(
        self,
        step: int | None,
        variables: Mapping[str, Any],
        *,
        subset: bool = False,
        preferred: Mapping[str, str] | None = None,
        check: Callable[[Manifest], None] | None = None,
    ) -> Manifest:
        """Restores variables and returns the checkpoint's manifest.

        Everything is checked before the first variable changes: sizes and hashes of the files, then
        names, shapes and dtypes. With step None a damaged checkpoint is skipped, with a warning,
        for the next older good one; a wrong model is an error immediately.

        Args:
          step: None for the newest good one.
          variables: raw tf.Variables or DVariables by path, on any mesh.
          subset: the checkpoint may hold further variables.
          preferred: for some of the paths another path, whose value is restored instead if the
            checkpoint has it.
          check: called with the manifest before anything else; may raise to refuse it.
        """

        def read(manifest: Manifest) -> Manifest:
            if check is not None:
                check(manifest)
            instead = {path: p for path, p in (preferred or {}).items() if p in manifest.variables}
            wanted = {instead.get(path, path): variable for path, variable in variables.items()}
            name = f"{self._directory}/ckpt-{manifest.step}"
            check_compatible(name, manifest.variables, describe(wanted), subset=subset)
            path = str(self._directory / manifest.prefix)
            read_variables(path, f"the variables of {name}", wanted)
            return manifest

        return self.read(step, read)

    def manifest(self, step: int | None) -> Manifest | None:
        """The newest manifest for None, without reading the data; None also if it is damaged."""
        chosen = self.latest() if step is None else step
        return None if chosen is None else self._reader.manifest(chosen)

    def read(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        return self._reader.read(step, reader)

    def verify(self, step: int) -> Manifest:
        return self.read(step, lambda manifest: manifest)

    def clean(self) -> list[str]:
        return clean(self._directory)

    def delete_old(self, step: int) -> None:
        """Deletes what the save of a step would have deleted, had it not been killed before."""
        self._retention.delete_old(self._directory, step)

    def require(self) -> None:
        """Raises RunDirError unless there is a checkpoint; only names are read."""
        self._reader.require()
