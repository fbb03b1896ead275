from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.checkpoints.manifest import TRAIN_STEPS, Manifest, VariableSpec, describe
from mtfrun.checkpoints.partial_files import clean
from mtfrun.checkpoints.recorded_digests import check_restored
from mtfrun.checkpoints.restore import CheckpointReader
from mtfrun.checkpoints.retention import Best, delete_old, read_best, write_best
from mtfrun.checkpoints.save import Save
from mtfrun.checkpoints.values import read_variables
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.errors.differences import changes, list_changes
from mtfrun.files.errors import IncompatibleError, RunDirError

BEST, LATEST = "best", "latest"
"""Names of checkpoints besides their steps."""

# The parts of a checkpoint, by the start of a path, in the order in which they are explained.
_PARTS = ("model", "optimizer", "averages")


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
        for the next older good one; a wrong model is an error immediately. Last, the values are
        compared with the digests in the run's ledger.

        Args:
          step: the checkpoint's step; None for the newest good checkpoint.
          variables: raw tf.Variables or DVariables by path, on any mesh.
          subset: the checkpoint may hold further variables.
          preferred: paths in the checkpoint that are restored instead where they exist, by path.
          check: called with the manifest before anything else; may raise to refuse it.
        """

        def read(manifest: Manifest) -> tuple[Manifest, Mapping[str, Any]]:
            if check is not None:
                check(manifest)
            instead = {path: p for path, p in (preferred or {}).items() if p in manifest.variables}
            sources = {instead.get(path, path): variable for path, variable in variables.items()}
            name = f"{self._directory}/ckpt-{manifest.step}"
            check_compatible(name, manifest.variables, describe(sources), subset=subset)
            path = str(self._directory / manifest.prefix)
            read_variables(path, f"the variables of {name}", sources)
            return manifest, sources

        manifest, restored = self.read(step, read)
        check_restored(self._directory, manifest.step, restored)
        return manifest

    def clean(self) -> list[str]:
        return clean(self._directory)

    def delete_old(self, step: int) -> None:
        """Deletes old checkpoints, as after the save of a step: that save may have been killed."""
        delete_old(self._directory, step, self._max_to_keep)


def check_compatible(
    name: str,
    saved: Mapping[str, VariableSpec],
    variables: Mapping[str, VariableSpec],
    *,
    subset: bool,
) -> None:
    """Slots of the optimizer are not named if variables of the model differ."""
    paths = sorted(variables) + ([] if subset else sorted(saved.keys() - variables.keys()))
    old, new = (
        {path: str(specs[path]) if path in specs else None for path in paths}
        for specs in (saved, variables)
    )
    differing = changes(old, new)
    if not differing:
        return
    starts = {change.name.partition("/")[0] for change in differing}
    parts = [part for part in _PARTS if part in starts]
    if parts[:1] == ["optimizer"] and not any(path.startswith("optimizer/") for path in saved):
        remedy = f"train in another --model_dir, with --gin.INIT_CHECKPOINT=\"'{name}'\""
        raise RunDirError(f"{name} has weights without an optimizer; {remedy}")
    first = [x for x in differing if not parts or x.name.startswith(f"{parts[0]}/")]
    remedy = "use the configuration that it was saved with (config.gin)"
    raise IncompatibleError(name, f"(checkpoint -> model) {list_changes(first)}", remedy)
