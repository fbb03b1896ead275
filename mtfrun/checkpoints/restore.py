"""Finds, verifies and restores checkpoints, which a trainer may delete meanwhile."""

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
from google.protobuf.message import DecodeError

from mtfrun import processes
from mtfrun.checkpoints.manifest import (
    FileRecord,
    Manifest,
    VariableSpec,
    damaged_files,
    describe,
    manifest_path,
    read_manifest,
)
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import list_steps, lost_manifests
from mtfrun.checkpoints.recorded_digests import check_restored
from mtfrun.checkpoints.tensor_index import check_index
from mtfrun.checkpoints.values import READER_ERRORS
from mtfrun.errors import InputError
from mtfrun.errors.differences import changes, list_changes
from mtfrun.files.errors import (
    DamagedCheckpointError,
    DeletedCheckpointError,
    IncompatibleError,
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
# The parts of a checkpoint, by the start of a path, in the order in which they are explained.
_PARTS = ("model", "optimizer", "averages")
# TensorFlow's further errors for a forged object graph, or values that do not match.
_DAMAGE = (TypeError, AttributeError, AssertionError, DecodeError)
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
            _read_variables(path, f"the variables of {name}", sources)
            return manifest, sources

        manifest, restored = self.read(step, read)
        check_restored(self._directory, manifest.step, restored)
        return manifest

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


def _read_variables(prefix: str, what: str, variables: Mapping[str, Any]) -> None:
    check_index(prefix)
    remedy = "use the configuration it was saved with"
    with run_dir_errors(f"cannot restore {what}", remedy, *READER_ERRORS, *_DAMAGE):
        status = tf.train.Checkpoint(variables=dict(variables)).read(prefix)
        status.assert_existing_objects_matched()
        # Other values of the checkpoint are ignored on purpose: no warning about them at exit.
        status.expect_partial()


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
