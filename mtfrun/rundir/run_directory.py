"""The directory of one run, `--model_dir`: the names of its files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from absl import logging

from mtfrun import processes
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.partial_files import list_names
from mtfrun.configuration.errors import one_line
from mtfrun.configuration.run_files import CONFIG, RECORD
from mtfrun.display import progress
from mtfrun.errors.untrusted import is_directory, open_to_write
from mtfrun.files.atomic import atomic_write, remove_temporary_files
from mtfrun.files.errors import RunDirError, reason, refuse_link, run_dir_errors
from mtfrun.files.lock import is_locked, writer_lock
from mtfrun.rundir.commands import read_record, record_command
from mtfrun.rundir.run_record import RECORD_FILES, RunRecord

if TYPE_CHECKING:
    from mtfrun.checkpoints.checkpoints import Checkpoints
    from mtfrun.metrics.event_files import Listener, Summaries

CHECKPOINTS = "checkpoints"
"""Name of the directory of a run's checkpoints."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class RunDirectory:
    """The files under `--model_dir`, a path in a mounted file system.

    Object stores (`gs://`, `s3://`) have no locks, atomic renames and forced writes, which make a
    run safe to kill: for a run there this is its local copy, see checkpoints/mirror.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # argparse makes a list of --model_dir=--.
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        if not text.strip():
            raise RunDirError("--model_dir is empty: name a directory, such as /tmp/run")
        if _URL.match(text):
            raise RunDirError(f"{text} is a URL: name a local directory, or mount the store")
        # Path.expanduser raises an error for unknown users, and Path.absolute keeps "..".
        self.path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100
        self._path = pathlib.Path(self.path)
        self._checkpoints_path = self._path / CHECKPOINTS
        self._lock_path = self._path / ".lock"
        self.config_path = str(self._path / CONFIG)

    def __repr__(self) -> str:
        return f"RunDirectory({self.path!r})"

    def write_decodes(self, step: int, records: Sequence[Mapping[str, object]]) -> None:
        """Writes `decodes/eval_STEP.jsonl` in the first process; a failure is only a warning."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        if not processes.is_first():
            return
        folder = self._path / "decodes"
        try:
            refuse_link(folder)
            atomic_write(folder / f"eval_{step}.jsonl", "".join(lines))
        except RunDirError as error:
            logging.warning("%s", error)

    def prepare(self) -> None:
        what = f"--model_dir {self.path}"
        remedy = "name a directory you may write to, or free space there"
        with run_dir_errors(f"{what} cannot be written", remedy):
            if self._path.exists() and not self._path.is_dir():
                raise RunDirError(f"{what} is a file, not a directory: name another --model_dir")
            self._path.mkdir(parents=True, exist_ok=True)
            self._try_to_write()

    def is_writable(self) -> bool:
        with contextlib.suppress(OSError):
            self._try_to_write()
            return True
        return False

    def _try_to_write(self) -> None:
        """Permissions do not show a full or read-only disk. The file has no name to remain."""
        with tempfile.TemporaryFile(dir=self._path, buffering=0) as file:
            file.write(b"mtfrun")

    def check_shared(self) -> None:
        """Raises RunDirError unless all processes see the same directory. Collective.

        The first process briefly creates a file; if it cannot write, the check is skipped.
        """
        if processes.count() == 1:
            return
        token = self._path / f".shared-{uuid.uuid4().hex}"

        def make() -> str:
            with contextlib.suppress(OSError):
                token.touch()
                return token.name
            return ""

        name = processes.by_first(make, "token of the run directory")
        try:
            seen = processes.gather([(self._path / name).exists(), self.path], "run directory")
        finally:
            if processes.is_first():
                token.unlink(missing_ok=True)
        for index, (is_there, path) in enumerate(seen):
            if not is_there:
                raise RunDirError(
                    f"process {index} of {len(seen)} has another --model_dir {path} than process 0 "
                    f"({seen[0][1]}): name a directory that all processes share"
                )

    def require(self) -> None:
        if not is_directory(self._path):
            remedy = "check its name, or make it with `mtfrun train --model_dir=...`"
            raise RunDirError(f"--model_dir {self.path} is not a directory: {remedy}")

    def require_config(self) -> str:
        """Returns the path of the configuration; RunDirError if it cannot be read."""
        self.require()
        self.read_config()
        return self.config_path

    def lock(self) -> AbstractContextManager[None]:
        return writer_lock(self._lock_path)

    def clean(self) -> None:
        """Removes partial files of a killed training."""
        for name in (CONFIG, "operative_config.gin", RECORD, *RECORD_FILES):
            remove_temporary_files(self._path / name)

    def is_training(self) -> bool:
        return is_locked(self._lock_path) or registry.is_leased(self._path)

    def checkpoints(self, *, max_to_keep: int | None = 5) -> Checkpoints:
        from mtfrun.checkpoints.checkpoints import Checkpoints  # noqa: PLC0415 - imports TensorFlow

        return Checkpoints(self._checkpoints_path, max_to_keep=max_to_keep)

    def set_checkpoints_aside(self) -> str | None:
        """Renames `checkpoints` to the first free `checkpoints.1`, ...; returns the new path."""
        if not list_names(self._checkpoints_path):
            return None
        paths = (f"{self._checkpoints_path}.{number}" for number in itertools.count(1))
        aside = next(path for path in paths if not os.path.lexists(path))
        what = f"cannot rename {self._checkpoints_path} to {aside}"
        with run_dir_errors(what, "move it away, or name another --model_dir"):
            self._checkpoints_path.rename(aside)
        return aside

    def checkpoints_set_aside(self) -> list[pathlib.Path]:
        """The directories that `set_checkpoints_aside` made, by number; skips links."""
        name = re.compile(rf"{CHECKPOINTS}\.([1-9][0-9]{{0,8}})")
        matches = filter(None, map(name.fullmatch, list_names(self._path)))
        paths = [self._path / m[0] for m in sorted(matches, key=lambda m: int(m[1]))]
        return [path for path in paths if path.is_dir() and not path.is_symlink()]

    def summaries(
        self, name: str, *, resumed_step: int | None = None, listener: Listener | None = None
    ) -> Summaries:
        from mtfrun.metrics.event_files import Summaries  # noqa: PLC0415 - imports TensorFlow

        return Summaries(self._path / name, resumed_step=resumed_step, listener=listener)

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Copies lines printed inside, and the error that ends the block, to `train.log`.

        The second process writes `train.1.log`. A file that cannot be written is only a warning.
        """
        index = processes.index()
        path = self._path / (f"train.{index}.log" if index else "train.log")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(progress.log_to(stack.enter_context(open_to_write(path, "ab"))))
            except OSError as error:
                logging.warning("cannot write %s: %s", path, reason(error))
            try:
                yield
            except Exception as error:
                progress.log(progress.error(f"{type(error).__name__}: {one_line(error)}"))
                raise

    def record(self) -> RunRecord:
        return RunRecord(self.path)

    def write_config(self, text: str) -> None:
        atomic_write(self.config_path, text)

    def read_config(self) -> str:
        return read_record(self.config_path)

    def write_operative_config(self, text: str) -> None:
        atomic_write(self._path / "operative_config.gin", text)

    def record_command(
        self, arguments: Sequence[str], setup: Mapping[str, object] | None = None
    ) -> str:
        return record_command(self._path / "commands", arguments, setup)
