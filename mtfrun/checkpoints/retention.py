"""Which checkpoints remain: the newest, the best and the marked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

from mtfrun.checkpoints.manifest import manifest_path, read_manifest
from mtfrun.checkpoints.partial_files import list_steps, remove_partial_files
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import read_json
from mtfrun.files.atomic import atomic_write, temporary_path
from mtfrun.files.errors import RunDirError, run_dir_errors

KEPT = "kept"
"""Entry of a manifest, True where no later save may delete the checkpoint."""

_BEST = "best.json"


@dataclasses.dataclass(frozen=True)
class Best:
    step: int
    metric: str
    value: float
    mode: str = "lowest"

    def __post_init__(self) -> None:
        kinds = {"step": int, "metric": str, "value": float, "mode": str}
        for name, kind in kinds.items():
            if type(getattr(self, name)) is not kind:
                raise InputError(f"{name} is {getattr(self, name)!r}, not {kind.__name__}")
        if self.step < 0 or not math.isfinite(self.value):
            raise InputError("a value is out of its range")


def read_best(directory: pathlib.Path) -> Best | None:
    path = directory / _BEST
    remedy = "name a step, or remove the file: the next better evaluation writes another"
    with (
        run_dir_errors(f"{path} is damaged", remedy, OSError, ValueError, TypeError),
        contextlib.suppress(FileNotFoundError),
    ):
        return Best(**read_json(path))
    return None


def write_best(directory: pathlib.Path, best: Best) -> None:
    atomic_write(directory / _BEST, json.dumps(dataclasses.asdict(best)) + "\n")


def delete_old(directory: pathlib.Path, saved: int, max_to_keep: int | None) -> None:
    """Deletes checkpoints that are superfluous after the save of a step; None keeps all."""
    steps = [step for step in list_steps(directory) if step != saved]
    count = 0 if max_to_keep is None else max(0, len(steps) + 1 - max_to_keep)
    for step in steps[:count]:
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
    """Whether a checkpoint is the best or is `KEPT`, as far as can be read."""
    with contextlib.suppress(RunDirError):
        if (best := read_best(directory)) is not None and best.step == step:
            return True
    with contextlib.suppress(RunDirError, FileNotFoundError):
        return read_manifest(directory, step).metadata.get(KEPT) is True
    return False


def _delete(directory: pathlib.Path, step: int) -> None:
    # The manifest first: without it there is no checkpoint, whatever files remain. Its new name
    # says that the files may be removed, see partial_files.py.
    path = manifest_path(directory, step)
    with run_dir_errors(f"cannot delete {path}", f"check the permissions of {directory}"):
        path.replace(temporary_path(path))
