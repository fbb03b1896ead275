"""Removal of partial files of unfinished saves and deletions in a checkpoint directory.

A save writes, in this order, its unfinished manifest `.ckpt-300.json.0123abcd.partial` and its
data `ckpt-300.index` and `ckpt-300.data-*`, and renames the unfinished manifest to `ckpt-300.json`.
A checkpoint is deleted in the reverse order: its manifest is renamed to an unfinished one, the data
are removed, then that manifest. So whenever a process is killed, data without a manifest that were
not finished, or were being deleted, have an unfinished manifest beside them.

Data that no manifest names are removed if

* there is an unfinished manifest of their step, or
* the step's manifest names another save, which has replaced them, or
* they are not complete: the index or a part is missing.

Other complete data have lost their manifest in some other way. They are never removed, nor are
files of a step with an unreadable manifest: see `lost_manifests`.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil

from absl import logging

from mtfrun.checkpoints.manifest import DATA_NAME, MANIFEST_NAME, STEP, read_manifest
from mtfrun.errors.untrusted import is_regular
from mtfrun.files import atomic
from mtfrun.files.errors import RunDirError, reason, run_dir_errors

# TensorFlow writes shards to this directory before it renames them; a killed save leaves it.
_TEMPORARY_DIRECTORY = re.compile(rf"(?P<prefix>ckpt-(?P<step>{STEP})(\.[0-9]+)?)_temp\w*")
_UNFINISHED_MANIFEST = re.compile(rf"\.ckpt-({STEP})\.json\.[0-9a-f]{{8}}\.partial")
_SHARD = re.compile(r"\.data-([0-9]{5})-of-([0-9]{5})")


def list_names(directory: pathlib.Path) -> list[str]:
    with (
        run_dir_errors(f"cannot read {directory}", "check its permissions"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
    ):
        return sorted(path.name for path in directory.iterdir())
    return []


def list_steps(directory: pathlib.Path) -> list[int]:
    matches = (MANIFEST_NAME.fullmatch(name) for name in list_names(directory))
    return sorted(int(match[1]) for match in matches if match)


def files_of_save(directory: pathlib.Path, prefix: str) -> list[str]:
    return [name for name in list_names(directory) if _save_of(name)[0] == prefix]


def lost_manifests(directory: pathlib.Path) -> dict[str, int]:
    """Returns the steps of complete data without a manifest by their prefix, such as `ckpt-300`."""
    names = list_names(directory)
    unfinished = filter(None, map(_UNFINISHED_MANIFEST.fullmatch, names))
    has_manifest = {*list_steps(directory), *(int(match[1]) for match in unfinished)}
    saves = {}
    for name in names:
        save, step = _save_of(name)
        if save is not None and step is not None and step not in has_manifest:
            saves[save] = step
    complete = [save for save in saves if _is_complete(directory, save, names)]
    return {save: saves[save] for save in sorted(complete, key=lambda save: saves[save])}


def remove_partial_files(directory: pathlib.Path, prefix: str | None = None) -> list[str]:
    """Removes files of saves that no manifest names, and returns their names.

    With a `prefix`, only files of that save, which has failed. Links are removed, never followed.
    """
    named: set[str] = set()
    unreadable: set[int] = set()
    for step in list_steps(directory):
        try:
            named.update(read_manifest(directory, step).files)
        except (RunDirError, FileNotFoundError):
            unreadable.add(step)
    lost = lost_manifests(directory) if prefix is None else {}
    removed = []
    remaining_steps = set()
    names = list_names(directory)
    for name in names:
        save, step_of_save = _save_of(name)
        if save is None or prefix not in (None, save) or name in named:
            continue
        if step_of_save in unreadable or save in lost:
            continue
        if _remove(directory / name):
            removed.append(name)
        else:
            remaining_steps.add(step_of_save)
    # Last: data that could not be removed must not look like data without a manifest.
    for name in filter(atomic.TEMPORARY.fullmatch, names if prefix is None else ()):
        match = _UNFINISHED_MANIFEST.fullmatch(name)
        if not (match and int(match[1]) in remaining_steps):
            removed += [name] * _remove(directory / name)
    return removed


def clean(directory: pathlib.Path) -> list[str]:
    """Removes partial files of killed saves and returns their names; called before training.

    RunDirError if complete data are newer than every manifest: training would lose them.
    """
    removed = remove_partial_files(directory)
    lost, newest = lost_manifests(directory), max(list_steps(directory), default=-1)
    if not lost:
        return removed
    *_, (prefix, step) = lost.items()
    what = f"{directory} has complete data of step {step} without ckpt-{step}.json"
    if step > newest:
        instead = f", or move {prefix}.* away to resume from step {newest}" * (newest >= 0)
        raise RunDirError(
            f"{what}: put it back from a copy{instead}, or train in another --model_dir with "
            f"--gin.INIT_CHECKPOINT=\"'{directory}/{prefix}'\", or begin again with --restart"
        )
    logging.warning("%s: they remain, put it back from a copy or remove %s.*", what, prefix)
    return removed


def _is_complete(directory: pathlib.Path, save: str, names: list[str]) -> bool:
    suffixes = [name.removeprefix(save) for name in names if name.startswith(save + ".")]
    suffixes = [suffix for suffix in suffixes if is_regular(directory / f"{save}{suffix}")]
    shards: dict[int, set[int]] = {}  # their numbers, by how many there should be
    for match in map(_SHARD.fullmatch, suffixes):
        if match:
            shards.setdefault(int(match[2]), set()).add(int(match[1]))
    return ".index" in suffixes and any(
        numbers == set(range(count)) for count, numbers in shards.items() if count
    )


def _save_of(name: str) -> tuple[str | None, int | None]:
    match = DATA_NAME.fullmatch(name) or _TEMPORARY_DIRECTORY.fullmatch(name)
    return (match["prefix"], int(match["step"])) if match else (None, None)


def _remove(path: pathlib.Path) -> bool:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        logging.warning("cannot remove %s: %s", path, reason(error))
        return False
    return True
