"""Finds and verifies checkpoints, which a trainer may delete meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow as tf
from absl import logging

from mtfrun import processes
from mtfrun.checkpoints.manifest import (
    FileRecord,
    Manifest,
    damaged_files,
    manifest_path,
    read_manifest,
)
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import list_steps, lost_manifests
from mtfrun.errors import InputError
from mtfrun.files.errors import (
    DamagedCheckpointError,
    DeletedCheckpointError,
    MissingStepError,
    RunDirError,
    choose_step,
    run_dir_errors,
)

T = TypeVar("T")

# Bytes of a file in addition to the variables: names, an index, TensorFlow's graph of objects.
_MOST_OF_TENSORFLOW = 1 << 28
# How often a reader tries again after a trainer has deleted or replaced its files.
_ATTEMPTS = 20
# The message between processes while the first chooses a checkpoint.
_CHOICE = "choice of a checkpoint"


class CheckpointReader:
    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    @property
    def _place(self) -> str:
        """The directory as the user knows it, for messages."""
        return registry.url_of(str(self._directory))

    def steps(self) -> list[int]:
        return list_steps(self._directory)

    def identity(self, step: int) -> tuple[int, int] | None:
        """Returns numbers that differ for every manifest of a step."""
        try:
            status = manifest_path(self._directory, step).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def manifest(self, step: int | None) -> Manifest | None:
        """The newest manifest for None, without reading the data; None also if it is damaged."""
        chosen = self.latest() if step is None else step
        if chosen is None:
            return None
        try:
            manifest = read_manifest(self._directory, chosen)
            _check_claims(manifest)
            return manifest
        except (RunDirError, FileNotFoundError):
            return None

    def verify(self, step: int) -> Manifest:
        return self.read(step, lambda manifest: manifest)

    def require(self) -> None:
        """Raises RunDirError unless there is a checkpoint; only names are read."""
        if not self.steps():
            raise RunDirError(self._no_checkpoint())

    def read(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        """Returns `reader(manifest)` of a checkpoint with all files as they were saved.

        A process that trains the run may delete the checkpoint, or save its step again, before
        `reader` is done. Then `reader` is called again: for the new files of the same step, or,
        with step None, for the checkpoint that is the newest now.

        Raises:
          DeletedCheckpointError: that step was deleted meanwhile.
          DamagedCheckpointError: that step, or every checkpoint, is damaged.
          RunDirError: there is no checkpoint.
          ProcessesError: `reader` raises an error in another process.
        """
        if processes.count() == 1:
            return self._read_alone(step, reader)
        for attempt in range(_ATTEMPTS):
            chosen, identity = self._choose_together(step)
            try:
                with processes.together("reading of a checkpoint"):
                    return reader(self._shared_manifest(chosen))
            except InputError:
                present = processes.by_first(functools.partial(self.identity, chosen))
                if identity in (None, present) or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _choose_together(self, step: int | None) -> list[Any]:
        """Returns step and identity that the first process chooses; all help to check files."""

        def choose() -> list[Any]:
            return [None, *self._read_alone(step, lambda x: [x.step, self.identity(x.step)])]

        while True:
            parts, *chosen = processes.by_first(choose, _CHOICE)
            if parts is None:
                return chosen
            self._damages(parts)

    def _damages(self, parts: list[dict[str, list[Any]]]) -> list[str]:
        """Collective: each process checks a part of the files."""
        records = {name: FileRecord(*record) for name, record in parts[processes.index()].items()}
        lists = processes.gather(list(damaged_files(self._directory, records)), "damages")
        return [damage for damages in lists for damage in damages]

    def _shared_manifest(self, step: int) -> Manifest:
        remedy = "name a --model_dir on a file system that all processes share"
        with run_dir_errors("the first process has read a manifest", remedy, FileNotFoundError):
            return read_manifest(self._directory, step)

    def _read_alone(self, step: int | None, reader: Callable[[Manifest], T]) -> T:
        for _ in range(_ATTEMPTS):
            try:
                return self._read_newest(reader) if step is None else self._read_step(step, reader)
            except DeletedCheckpointError as error:
                deleted = error
                if step is not None and step not in self.steps():
                    break
        raise deleted

    def _no_checkpoint(self) -> str:
        what = f"no checkpoint in {self._place}"
        for prefix, step in reversed(lost_manifests(self._directory).items()):
            return (
                f"{what} has its manifest, which ckpt-{step}.json was: put it back from a copy, or "
                f"begin another run with --gin.INIT_CHECKPOINT=\"'{self._place}/{prefix}'\""
            )
        return f"{what}: check --model_dir, or make one with `mtfrun train --model_dir=...`"

    def _read_step(self, step: int, reader: Callable[[Manifest], T]) -> T:
        before = self.identity(step)
        steps = self.steps()
        if step not in steps:
            if not steps:
                raise RunDirError(self._no_checkpoint())
            raise MissingStepError(step, self._place, steps)
        with self._watch(step, before):
            try:
                manifest = self._verify(step)
            except DamagedCheckpointError as error:
                other_steps = [other for other in self.steps() if other != step]
                raise DamagedCheckpointError(
                    f"checkpoint {step} in {self._place} is damaged: {error};"
                    f" {choose_step(other_steps) or 'there is no other'}"
                ) from error
            return reader(manifest)

    def _read_newest(self, reader: Callable[[Manifest], T]) -> T:
        lost, newest = max(lost_manifests(self._directory).values(), default=-1), self.latest()
        if newest is not None and lost > newest:
            what = f"{self._directory} has complete data of step {lost} without ckpt-{lost}.json"
            logging.warning("%s: resuming from step %d", what, newest)
        damages = []
        for step in reversed(self.steps()):
            before = self.identity(step)
            try:
                with self._watch(step, before):
                    manifest = self._verify(step)
            except DamagedCheckpointError as error:
                damages.append(f"step {step}: {error}")
                continue
            if damages:
                what = f"damaged checkpoints in {self._place} ({'; '.join(damages)})"
                logging.warning("%s: resuming from step %d", what, step)
            with self._watch(step, before):
                return reader(manifest)
        if damages:
            raise DamagedCheckpointError(
                f"every checkpoint in {self._place} is damaged ({'; '.join(damages)}); restore a "
                "copy of it, or name an empty --model_dir to start again"
            )
        raise RunDirError(self._no_checkpoint())

    def _verify(self, step: int) -> Manifest:
        manifest = read_manifest(self._directory, step)
        _check_claims(manifest)
        registry.fetch(self._directory, manifest.files)
        if processes.count() == 1:
            damages = damaged_files(self._directory, manifest.files)
        else:  # in the first process, see `_choose_together`
            parts = _in_parts(manifest.files, processes.count())
            processes.by_first(lambda: [parts], _CHOICE)
            damages = iter(self._damages(parts))
        for damage in damages:
            raise DamagedCheckpointError(damage)
        return manifest

    @contextlib.contextmanager
    def _watch(self, step: int, before: tuple[int, int] | None) -> Iterator[None]:
        """Turns a failure in the block into a DeletedCheckpointError if the files are gone.

        The manifest goes first: if it is still `before`, the failure has another cause.
        """
        try:
            yield
        except (RunDirError, FileNotFoundError) as error:
            if before is not None and self.identity(step) == before:
                raise
            steps = self.steps()
            change = "replaced" if step in steps else "deleted"
            raise DeletedCheckpointError(
                f"checkpoint {step} in {self._place} was {change} while it was read;"
                f" {choose_step(steps) or self._no_checkpoint()}"
            ) from error


def _in_parts(files: Mapping[str, FileRecord], count: int) -> list[dict[str, list[Any]]]:
    parts: list[dict[str, list[Any]]] = [{} for _ in range(count)]
    sizes = [0] * count
    for name, record in sorted(files.items(), key=lambda item: -item[1].bytes):
        smallest = sizes.index(min(sizes))
        parts[smallest][name] = list(dataclasses.astuple(record))
        sizes[smallest] += record.bytes
    return parts


def _check_claims(manifest: Manifest) -> None:
    """Raises DamagedCheckpointError unless the variables are about as large as their files.

    Larger variables would allocate unused memory; hashing a sparse 1 TB would take hours.
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
        raise DamagedCheckpointError(f"its variables need {claimed} bytes, its files have {saved}")
