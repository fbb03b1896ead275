"""Listing the checkpoints of a directory, without TensorFlow and without changing it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mtfrun.checkpoints.manifest import Manifest, damaged_files, manifest_path, read_manifest
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import list_steps, lost_manifests
from mtfrun.files.errors import DamagedCheckpointError, MissingStepError, RunDirError
from mtfrun.rundir.run_directory import CHECKPOINTS, RunDirectory


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
    """`damages` has a line for every file that is not as it was saved.

    `time`, in seconds since 1970, is when it was saved, or copied without its times.
    """

    step: int
    time: float
    manifest: Manifest | None
    damages: tuple[str, ...]

    @property
    def state(self) -> str:
        return "damaged" if self.damages else "good"

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.manifest.metadata if self.manifest else {}

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.manifest.files.values()) if self.manifest else 0


@dataclasses.dataclass(frozen=True)
class CheckpointDirectory:
    run: pathlib.Path
    path: pathlib.Path

    @classmethod
    def of(cls, name: str | os.PathLike[str]) -> CheckpointDirectory:
        run = RunDirectory(name)
        run.require()
        directory = pathlib.Path(run.path)
        below = directory / CHECKPOINTS
        if not list_steps(below) and list_steps(directory):
            return cls(directory.parent, directory)
        checkpoints = cls(directory, below)
        if not checkpoints.steps() and not checkpoints.lost_manifests():
            remedy = f"check the name, or make one with `mtfrun train --model_dir={name}`"
            raise RunDirError(f"no checkpoint in {below}: {remedy}")
        return checkpoints

    def steps(self) -> list[int]:
        return list_steps(self.path)

    def lost_manifests(self) -> dict[str, int]:
        return lost_manifests(self.path)

    def require(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            raise MissingStepError(step, self.path, steps)

    def choose(self, step: str | None) -> list[int]:
        """Returns one step that must exist, or all; in ascending order."""
        if step is None:
            return self.steps()
        self.require(int(step))
        return [int(step)]

    def read(self, step: int, *, with_hashes: bool) -> StoredCheckpoint | None:
        """None if a trainer has deleted it meanwhile; RunDirError if a later mtfrun wrote it."""
        try:
            time = manifest_path(self.path, step).stat().st_mtime
            manifest = read_manifest(self.path, step)
            files = manifest.files
            if with_hashes:
                registry.fetch(self.path, files)
            elif sizes := registry.sizes_in_store(self.path):
                files = {n: file for n, file in files.items() if sizes.get(n) != file.bytes}
            damages = tuple(damaged_files(self.path, files, with_hashes=with_hashes))
            # The manifest is the first file that a trainer deletes.
            manifest_path(self.path, step).stat()
        except FileNotFoundError:
            return None
        except DamagedCheckpointError as error:
            return StoredCheckpoint(step, time, None, (str(error),))
        return StoredCheckpoint(step, time, manifest, damages)

    def read_all(self, *, with_hashes: bool = False) -> Iterator[StoredCheckpoint]:
        """Yields the checkpoints, newest first."""
        stored = (self.read(s, with_hashes=with_hashes) for s in reversed(self.steps()))
        return filter(None, stored)

    def newest_good(self) -> int | None:
        return next((x.step for x in self.read_all(with_hashes=True) if not x.damages), None)
