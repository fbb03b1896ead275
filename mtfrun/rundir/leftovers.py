"""Which files in a checkpoint directory are ours, and which of those may be removed.

A save writes, in this order, its unfinished manifest `.ckpt-300.json.0123abcd.partial`, its data
`ckpt-300.index`, `ckpt-300.data-*` and `ckpt-300.iterator.*`, and renames the unfinished manifest
to `ckpt-300.json`. To delete a checkpoint is the same backwards: its manifest is renamed to an
unfinished one, then the data go, then that. So however a process is killed, data without a manifest
that were not finished, or were being deleted, have an unfinished manifest beside them.

Data that no manifest names are removed if

* there is an unfinished manifest of their step, or
* the step's manifest names another save, which has replaced them, or
* they are not complete: the index or a part is missing.

Complete data of which none of this is true have lost their manifest by other hands than ours. They
are never removed, nor are files of a step whose manifest cannot be read: see `lost_manifests`.
"""

from __future__ import annotations

import os
import re
import shutil

from absl import logging

from mtfrun.rundir import atomic
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.manifest import DATA_NAME, MANIFEST_NAME, STEP, read_manifest

# TensorFlow writes shards here before it renames them; a killed save leaves it.
_TEMPORARY_DIRECTORY = re.compile(
    rf"(?P<prefix>ckpt-(?P<step>{STEP})(\.[0-9]+)?)(\.iterator)?_temp\w*"
)
_UNFINISHED_MANIFEST = re.compile(rf"\.ckpt-({STEP})\.json\.[0-9a-f]{{8}}\.partial")
_SHARD = re.compile(r"\.data-([0-9]{5})-of-([0-9]{5})")


def list_names(directory: str) -> list[str]:
    """Returns the sorted names in `directory`; none where it does not exist."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunDirError(
            f"cannot read {directory}: {reason(error)}; check its permissions"
        ) from error


def list_steps(directory: str) -> list[int]:
    """Returns the steps that have a manifest in `directory`, ascending."""
    matches = (MANIFEST_NAME.fullmatch(name) for name in list_names(directory))
    return sorted(int(match[1]) for match in matches if match)


def files_of_save(directory: str, prefix: str) -> list[str]:
    """Returns the names of the files that one save, `ckpt-300` or `ckpt-300.1`, has made."""
    return [name for name in list_names(directory) if _save_of(name)[0] == prefix]


def lost_manifests(directory: str) -> dict[str, int]:
    """Returns the saves whose complete data have lost their manifest, and their steps, ascending.

    See the rule above; a save that is under way is none.
    """
    names = list_names(directory)
    has_manifest = {*list_steps(directory), *_unfinished_steps(names)}
    saves = {}
    for name in names:
        save, step = _save_of(name)
        if save is not None and step is not None and step not in has_manifest:
            saves[save] = step
    complete = [save for save in saves if _is_complete(directory, save, names)]
    return {save: saves[save] for save in sorted(complete, key=lambda save: saves[save])}


def remove_leftovers(directory: str, prefix: str | None = None) -> list[str]:
    """Removes the files of ours that no manifest names, by the rule above, and returns their names.

    Links are removed, never followed.

    Args:
      directory: the checkpoint directory.
      prefix: only the files of this save, which has failed, where given.
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
    still_there = set()
    names = list_names(directory)
    for name in names:
        save, step_of_save = _save_of(name)
        if save is None or prefix not in (None, save):
            continue
        if name in named or step_of_save in unreadable or save in lost:
            continue
        if _remove(os.path.join(directory, name)):
            removed.append(name)
        else:
            still_there.add(step_of_save)
    if prefix is None:
        # Last: what is still there must not look like data that have lost their manifest.
        for name in names:
            match = _UNFINISHED_MANIFEST.fullmatch(name)
            if atomic.TEMPORARY.fullmatch(name) and not (match and int(match[1]) in still_there):
                removed += [name] * _remove(os.path.join(directory, name))
    return removed


def _unfinished_steps(names: list[str]) -> set[int]:
    matches = (_UNFINISHED_MANIFEST.fullmatch(name) for name in names)
    return {int(match[1]) for match in matches if match}


def _is_complete(directory: str, save: str, names: list[str]) -> bool:
    """Returns whether the index and all parts of the variables are there."""
    files = [name.removeprefix(save) for name in names if name.startswith(save + ".")]
    files = [name for name in files if os.path.isfile(os.path.join(directory, save + name))]
    parts: dict[int, set[int]] = {}
    for match in map(_SHARD.fullmatch, files):
        if match:
            parts.setdefault(int(match[2]), set()).add(int(match[1]))
    return ".index" in files and any(
        found == set(range(count)) for count, found in parts.items() if count
    )


def _save_of(name: str) -> tuple[str | None, int | None]:
    """Returns the prefix and the step of the save that made `name`; Nones for any other name."""
    match = DATA_NAME.fullmatch(name) or _TEMPORARY_DIRECTORY.fullmatch(name)
    return (match["prefix"], int(match["step"])) if match else (None, None)


def _remove(path: str) -> bool:
    """Removes a file, link or directory and returns whether it is gone."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except OSError as error:
        logging.warning("cannot remove %s: %s", path, reason(error))
        return False
    return True
