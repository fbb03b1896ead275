"""Checkpoints that survive a kill at any moment and say when they are damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow as tf
from absl import logging

from mtfrun import processes
from mtfrun.errors import InputError
from mtfrun.rundir.checkpoints import manifest as manifests
from mtfrun.rundir.checkpoints.best import Best, read_best, write_best
from mtfrun.rundir.checkpoints.compatibility import check_compatible
from mtfrun.rundir.checkpoints.manifest import FileRecord, Manifest, damaged_files
from mtfrun.rundir.checkpoints.partial_files import list_steps, lost_manifests, remove_partial_files
from mtfrun.rundir.checkpoints.retention import delete_old
from mtfrun.rundir.checkpoints.save import Save
from mtfrun.rundir.checkpoints.snapshot import read_variables
from mtfrun.rundir.errors import (
    DamagedCheckpointError,
    DeletedCheckpointError,
    RunDirError,
)

T = TypeVar("T")

BEST, LATEST = "best", "latest"
"""Names of checkpoints besides their steps."""

# Bytes of a file in addition to the variables: names, an index, TensorFlow's graph of objects.
_MOST_OF_TENSORFLOW = 1 << 28
# How often a reader tries again after a trainer has deleted or replaced what it was reading.
_ATTEMPTS = 20
# The message between processes while the first one chooses a checkpoint.
_CHOICE = "choice of a checkpoint"


class Checkpoints:
    """The checkpoints of one run: `ckpt-300.*` by step.

    A save deletes those before the newest `max_to_keep`, except the best one, which `set_best` has
    named, and those whose metadata say that they are `KEPT`.

    Tensors are written by `tf.train.Checkpoint`, so a checkpoint saved from one mesh restores bit
    for bit onto any other, or onto plain variables. A checkpoint exists once its manifest
    `ckpt-300.json` does, which is finished last; partial_files.py says what happens to other files.
    TensorFlow's own `checkpoint` text file is neither written nor read.

    Only the holder of the run's lock may call `save` and `clean`. Any process may read, even while
    the holder deletes old checkpoints.

    The processes of one run call `save`, `restore` and `read` together. Each writes the parts of
    variables that its devices hold; the first one holds the lock, writes the manifest and deletes
    old checkpoints. The directory must be on a file system that all share.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_to_keep: int | None = 5) -> None:
        """Stores the directory's name; nothing is read or created.

        Args:
          directory: where the checkpoints are.
          max_to_keep: how many of the newest to keep; None keeps all of them.

        Raises:
          RunDirError: `max_to_keep` is below 1.
        """
        if max_to_keep is not None and max_to_keep < 1:
            raise RunDirError(
                f"max_to_keep is {max_to_keep}: it must be at least 1, or None for all"
            )
        self._directory = pathlib.Path(directory)
        self._max_to_keep = max_to_keep

    def steps(self) -> list[int]:
        """Returns the steps that have a manifest, ascending; other files are not read."""
        return list_steps(self._directory)

    def latest(self) -> int | None:
        """Returns the greatest of `steps()`, or None where there is no checkpoint."""
        return max(self.steps(), default=None)

    def identity(self, step: int) -> tuple[int, int] | None:
        """Returns numbers that differ for every manifest of a step; None where there is none."""
        try:
            status = manifests.manifest_path(self._directory, step).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def is_of_last_step(self, step: int) -> bool:
        """Returns whether a checkpoint says that training has reached its last step."""
        try:
            metadata = manifests.read_manifest(self._directory, step).metadata
        except (RunDirError, FileNotFoundError):
            return False
        return manifests.TRAIN_STEPS in metadata and step >= int(metadata[manifests.TRAIN_STEPS])

    def best(self) -> Best | None:
        """Returns the best checkpoint; None where none was named, or it is not there any more.

        Raises:
          RunDirError: its record is damaged.
        """
        best = read_best(self._directory)
        return best if best is not None and best.step in self.steps() else None

    def set_best(self, best: Best) -> None:
        """Names the best checkpoint, which must exist; only the holder of the run's lock may."""
        write_best(self._directory, best)

    def named_step(self, name: int | str | None) -> int | None:
        """Returns the step that a user's name of a checkpoint means.

        Args:
          name: a step, its digits, "best", or "latest" or None for the newest good one, for which
            None is returned.

        Raises:
          RunDirError: it is the best one, and none is recorded.
        """
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
        """Saves the variables and returns the manifest's path; see `start_save`."""
        return self.start_save(step, variables, metadata=metadata).wait()

    def start_save(
        self,
        step: int,
        variables: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Save:
        """Copies the variables and returns their save, which a thread finishes.

        A step saved before is replaced, and stays complete until the new files are. Then older
        checkpoints are deleted, see above. 100 MB take about half a second.

        Args:
          step: number of finished training steps.
          variables: raw tf.Variables or DVariables by path.
          metadata: JSON values for the manifest: position in the data, mesh, layout, versions.
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
          step: a step to restore, or None for the newest good one.
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
            check_compatible(name, manifest.variables, manifests.describe(wanted), subset=subset)
            path = str(self._directory / manifest.prefix)
            read_variables(path, f"the variables of {name}", wanted)
            return manifest

        return self.read(step, read)

    def read(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)` of a checkpoint whose files are all as they were saved.

        A process that trains the run may delete the checkpoint, or save its step again, before
        `reader` is done. Then `reader` is called again: for the new files of the same step, or,
        with step None, for the checkpoint that is the newest now.

        Args:
          step: a step, or None for the newest good one.
          reader: reads the files of the manifest.

        Raises:
          DeletedCheckpointError: that step was deleted meanwhile.
          DamagedCheckpointError: that step, or every checkpoint, is damaged.
          RunDirError: there is no checkpoint, or `reader` raises it.
          ProcessesError: `reader` raises an error in another process.
        """
        together = processes.count() > 1
        return self._read_together(step, reader) if together else self._read_alone(step, reader)

    def _read_together(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)` for the checkpoint that the first process chooses. Collective.

        Every process compares a part of the files with their hashes.
        """
        for attempt in range(_ATTEMPTS):
            chosen, identity = self._choose_together(step)
            try:
                with processes.together("reading of a checkpoint"):
                    return reader(self._shared_manifest(chosen))
            except InputError:
                is_same = functools.partial(self._is_same, chosen, identity)
                if processes.by_first(is_same) or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _choose_together(self, step: int | None) -> list[Any]:
        """Returns step and identity of the checkpoint that the first process chooses. Collective.

        Until it has chosen, every process helps to check files for damage.
        """

        def choose() -> list[Any]:
            return [None, *self._read_alone(step, lambda x: [x.step, self.identity(x.step)])]

        while True:
            parts, *chosen = processes.by_first(choose, _CHOICE)
            if parts is None:
                return chosen
            self._damages(parts)

    def _damages(self, parts: list[dict[str, list[Any]]]) -> list[str]:
        """Returns the damage that all processes find, each in a part of the files. Collective."""
        records = {name: FileRecord(*record) for name, record in parts[processes.index()].items()}
        found = processes.gather(list(damaged_files(self._directory, records)), "damages")
        return [damage for damages in found for damage in damages]

    def _is_same(self, step: int, identity: list[int] | None) -> bool:
        return identity is None or self.identity(step) == tuple(identity)

    def _shared_manifest(self, step: int) -> Manifest:
        try:
            return manifests.read_manifest(self._directory, step)
        except FileNotFoundError as error:
            raise RunDirError(
                f"{error.filename} is not there, though the first process has read it: --model_dir "
                "must be on a file system that all processes share"
            ) from error

    def _read_alone(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)`; see `read`."""
        for _ in range(_ATTEMPTS):
            try:
                return self._read_newest(reader) if step is None else self._read_step(step, reader)
            except DeletedCheckpointError as error:
                deleted = error
                if step is not None and step not in self.steps():
                    break
        raise deleted

    def manifest(self, step: int | None) -> Manifest | None:
        """Returns the manifest of a step, the newest for None, without reading the data.

        None where there is none, or it is damaged: `restore` says so, or takes another one.
        """
        chosen = self.latest() if step is None else step
        try:
            if chosen is None:
                return None
            manifest = manifests.read_manifest(self._directory, chosen)
            _check_claims(manifest)
            return manifest
        except (RunDirError, FileNotFoundError):
            return None

    def verify(self, step: int) -> Manifest:
        """Returns the manifest of `step` if all its files are as they were saved, or raises."""
        return self.read(step, lambda manifest: manifest)

    def clean(self) -> list[str]:
        """Removes what killed saves left and returns the names; to be called before training.

        Only files of a save are removed, and no complete data: see partial_files.py.

        Raises:
          RunDirError: there are complete data newer than every manifest. Training from an older
            step, or from the beginning, would lose them.
        """
        removed = remove_partial_files(self._directory)
        lost, newest = lost_manifests(self._directory), self.latest()
        if not lost:
            return removed
        *_, (prefix, step) = lost.items()
        what = f"{self._directory} has complete data of step {step} without ckpt-{step}.json"
        if newest is not None and step < newest:
            logging.warning(
                "%s: they are kept, put it back from a copy or remove %s.*", what, prefix
            )
            return removed
        instead = "" if newest is None else f", or move {prefix}.* away to go on from step {newest}"
        raise RunDirError(
            f"{what}: put it back from a copy{instead}, or train in another --model_dir with"
            f" --gin.INIT_CHECKPOINT=\"'{self._directory}/{prefix}'\", or begin again with"
            " --restart, which keeps the old files in another directory"
        )

    def delete_old(self, step: int) -> None:
        """Deletes what the save of a step would have deleted, had it not been killed before.

        Args:
          step: the newest one, which is known to be good.
        """
        delete_old(self._directory, step, self._max_to_keep)

    def require(self) -> None:
        """Raises RunDirError unless there is a checkpoint; only names are read."""
        if not self.steps():
            raise RunDirError(self._no_checkpoint())

    def _no_checkpoint(self) -> str:
        """Returns the error message of a directory without a checkpoint."""
        lost = lost_manifests(self._directory)
        if lost:
            *_, (prefix, step) = lost.items()
            return (
                f"no checkpoint in {self._directory} has its manifest, which ckpt-{step}.json was:"
                " put it back from a copy, or give the complete data that are there instead of"
                f" --model_dir, with --gin_file=... and"
                f" --gin.INIT_CHECKPOINT=\"'{self._directory}/{prefix}'\""
            )
        return (
            f"no checkpoint in {self._directory}: check --model_dir,"
            " or make one with `mtfrun train --model_dir=...`"
        )

    def _read_step(self, step: int, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)` of one step; see `read`."""
        before = self.identity(step)
        steps = self.steps()
        if step not in steps:
            where = f"no checkpoint of step {step} in {self._directory}"
            raise RunDirError(f"{where}; {_choose(steps)}" if steps else self._no_checkpoint())
        with self._watched(step, before):
            try:
                manifest = self._verified(step)
            except DamagedCheckpointError as error:
                other_steps = [other for other in self.steps() if other != step]
                raise DamagedCheckpointError(
                    f"checkpoint {step} in {self._directory} is damaged: {error};"
                    f" {_choose(other_steps) or 'there is no other'}"
                ) from error
            return reader(manifest)

    def _read_newest(self, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)` of the newest good checkpoint; see `read`."""
        self._warn_of_newer_data()
        damages = []
        for step in reversed(self.steps()):
            before = self.identity(step)
            try:
                with self._watched(step, before):
                    manifest = self._verified(step)
            except DamagedCheckpointError as error:
                damages.append(f"step {step}: {error}")
                continue
            if damages:
                logging.warning(
                    "damaged checkpoints in %s (%s): going on from step %d",
                    self._directory,
                    "; ".join(damages),
                    step,
                )
            with self._watched(step, before):
                return reader(manifest)
        if damages:
            raise DamagedCheckpointError(
                f"every checkpoint in {self._directory} is damaged ({'; '.join(damages)});"
                " restore a copy of it, or name an empty --model_dir to start again"
            )
        raise RunDirError(self._no_checkpoint())

    def _warn_of_newer_data(self) -> None:
        """Warns if there are complete data newer than every manifest: see partial_files.py."""
        lost, newest = lost_manifests(self._directory), self.latest()
        if newest is not None and lost and max(lost.values()) > newest:
            step = max(lost.values())
            logging.warning(
                "%s has complete data of step %d without ckpt-%d.json: going on from step %d",
                self._directory,
                step,
                step,
                newest,
            )

    def _verified(self, step: int) -> Manifest:
        """Returns the manifest of `step`, whose files are compared with it."""
        manifest = manifests.read_manifest(self._directory, step)
        _check_claims(manifest)
        damages: Iterable[str] = damaged_files(self._directory, manifest.files)
        if processes.count() > 1:  # runs in the first process, see `_choose_together`
            parts = _in_parts(manifest.files, processes.count())
            processes.by_first(lambda: [parts], _CHOICE)
            damages = self._damages(parts)
        for damage in damages:
            raise DamagedCheckpointError(damage)
        return manifest

    @contextlib.contextmanager
    def _watched(self, step: int, before: tuple[int, int] | None) -> Iterator[None]:
        """Turns a failure in the block into a DeletedCheckpointError if the files are gone.

        The manifest is the first file that is deleted or replaced: if it is still the same one as
        `before`, the failure has another cause.
        """
        try:
            yield
        except (RunDirError, FileNotFoundError) as error:
            if before is not None and self.identity(step) == before:
                raise
            steps = self.steps()
            change = "replaced" if step in steps else "deleted"
            raise DeletedCheckpointError(
                f"checkpoint {step} in {self._directory} was {change} while it was read;"
                f" {_choose(steps) or self._no_checkpoint()}"
            ) from error


def _in_parts(files: Mapping[str, FileRecord], count: int) -> list[dict[str, list[Any]]]:
    """Divides the records of files into parts of about the same number of bytes."""
    parts: list[dict[str, list[Any]]] = [{} for _ in range(count)]
    sizes = [0] * count
    for name, record in sorted(files.items(), key=lambda item: -item[1].bytes):
        smallest = sizes.index(min(sizes))
        parts[smallest][name] = list(dataclasses.astuple(record))
        sizes[smallest] += record.bytes
    return parts


def _check_claims(manifest: Manifest) -> None:
    """Raises DamagedCheckpointError unless the variables are about as large as their files.

    A larger variable would allocate memory that nothing fills; hashing a sparse file of 1 TB, which
    takes no disk space, would take hours.
    """
    claimed = 0
    for path, spec in manifest.variables.items():
        try:
            claimed += math.prod(spec.shape) * tf.as_dtype(spec.dtype).size
        except TypeError:
            raise DamagedCheckpointError(f"the type of {path} is {spec.dtype!r}") from None
    saved = sum(record.bytes for record in manifest.files.values())
    largest = max(record.bytes for record in manifest.files.values())
    if claimed > saved or largest > claimed + _MOST_OF_TENSORFLOW:
        raise DamagedCheckpointError(
            f"its variables need {claimed} bytes, and its files have {saved}"
        )


def _choose(steps: list[int]) -> str:
    """Returns the remedy that lists `steps`; "" without any."""
    return f"choose one of the steps {', '.join(map(str, steps))}" if steps else ""
