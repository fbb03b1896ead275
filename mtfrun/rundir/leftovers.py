"""Which files in a checkpoint directory are ours, and which of those belong to no checkpoint."""

from __future__ import annotations

import os
import re
import shutil

from absl import logging

from mtfrun.rundir import atomic
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.manifest import DATA_NAME, MANIFEST_NAME, read_manifest

# TensorFlow writes shards here before it renames them; a killed save leaves it.
_TEMPORARY_DIRECTORY = re.compile(r"(?P<prefix>ckpt-(?P<step>\d+)(\.\d+)?)(\.iterator)?_temp\w*")


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


def remove_leftovers(directory: str, prefix: str | None = None) -> list[str]:
    """Removes the files of ours that no manifest names, and returns their names.

    Files of a step whose manifest cannot be read stay: they may be all that is left of it. Links
    are removed, never followed.

    Args:
      directory: the checkpoint directory.
      prefix: only the files of this save, where given.
    """
    named: set[str] = set()
    unreadable: set[int] = set()
    for step in list_steps(directory):
        try:
            named.update(read_manifest(directory, step).files)
        except (RunDirError, FileNotFoundError):
            unreadable.add(step)
    removed = []
    for name in list_names(directory):
        save, step_of_save = _save_of(name)
        if save is None:
            ours = prefix is None and atomic.TEMPORARY.fullmatch(name) is not None
        else:
            ours = prefix in (None, save) and step_of_save not in unreadable
        if ours and name not in named and _remove(os.path.join(directory, name)):
            removed.append(name)
    return removed


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
