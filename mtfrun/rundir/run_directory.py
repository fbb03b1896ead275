"""The directory of one run, `--model_dir`: which file lies where."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

from mtfrun.rundir.atomic import atomic_write
from mtfrun.rundir.checkpoints import Checkpoints
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.lock import is_locked, writer_lock
from mtfrun.rundir.records import read_record, record_command
from mtfrun.rundir.summaries import Summaries

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class RunDirectory:
    """Names everything under `--model_dir`, a path of a mounted file system.

    Locks, atomic renames and forced writes are what makes a run safe to kill, and object stores
    (`gs://`, `s3://`) have none of them: they are refused.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Names the directory; nothing is read or made yet. `~` is the home directory."""
        text = os.fspath(path)
        if not text.strip():
            raise RunDirError("--model_dir is empty: name a directory for the run")
        if _URL.match(text):
            raise RunDirError(
                f"--model_dir {text} is not a local path: runs need locks and atomic renames;"
                " train in a local or mounted directory and copy it there"
            )
        self.path = os.path.abspath(os.path.expanduser(text))

    def __repr__(self) -> str:
        return f"RunDirectory({self.path!r})"

    @property
    def decodes_path(self) -> str:
        """The directory of decoded texts."""
        return os.path.join(self.path, "decodes")

    @property
    def config_path(self) -> str:
        """The gin configuration as it was given, which `eval` and `decode` read."""
        return os.path.join(self.path, "config.gin")

    def prepare(self) -> None:
        """Makes the directory, parents included, and makes sure that it can be written.

        Raises:
          RunDirError: it is a file, or cannot be made, or cannot be written.
        """
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise RunDirError(
                f"--model_dir {self.path} is a file, not a directory: name another --model_dir"
            )
        try:
            os.makedirs(self.path, exist_ok=True)
            # Only a write tells: permissions say yes to root and to read-only file systems.
            probe = os.path.join(self.path, f".probe.{os.getpid()}")
            with open(probe, "w") as file:
                file.write("mtfrun")
            os.unlink(probe)
        except OSError as error:
            raise RunDirError(
                f"--model_dir {self.path} cannot be written: {reason(error)};"
                " name a directory you may write to"
            ) from error

    def require(self) -> None:
        """Raises RunDirError unless the directory exists."""
        if not os.path.isdir(self.path):
            raise RunDirError(
                f"--model_dir {self.path} is no directory: check its name,"
                " or make it with `mtfrun train --model_dir=...`"
            )

    def lock(self) -> AbstractContextManager[None]:
        """Returns the lock that a process holds while it trains; see `writer_lock`."""
        return writer_lock(self._lock_path)

    def is_training(self) -> bool:
        """Returns whether a process holds the lock."""
        return is_locked(self._lock_path)

    @property
    def _lock_path(self) -> str:
        return os.path.join(self.path, ".lock")

    def checkpoints(self, *, max_to_keep: int | None = 5) -> Checkpoints:
        """Returns the checkpoints of the run."""
        return Checkpoints(os.path.join(self.path, "checkpoints"), max_to_keep=max_to_keep)

    def summaries(self, name: str, *, resumed_step: int | None = None) -> Summaries:
        """Returns a writer of TensorBoard values in the subdirectory `train` or `eval`."""
        return Summaries(os.path.join(self.path, name), resumed_step=resumed_step)

    def write_config(self, text: str) -> None:
        """Replaces `config.gin`."""
        atomic_write(self.config_path, text)

    def read_config(self) -> str:
        """Returns `config.gin`, which must be there."""
        return read_record(self.config_path)

    def write_operative_config(self, text: str) -> None:
        """Replaces `operative_config.gin`: the values that were really used, defaults included."""
        atomic_write(os.path.join(self.path, "operative_config.gin"), text)

    def record_command(self, arguments: Sequence[str]) -> str:
        """Writes the command line to the next `commands/0001.txt` and returns its path."""
        return record_command(os.path.join(self.path, "commands"), arguments)
