"""Preparation of an embedded TFDS dataset on first use: atomic, once, without a network."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from mtfrun.data.builders.prepared_files import PreparedFiles
from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path

PREPARED_AGAIN = "and it is prepared again"
"""What happens to an embedded dataset once its directory is deleted, for messages."""


def resolve_data_dir(data_dir: str | None) -> Path:
    """Returns `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets (TFDS's own rule)."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return absolute_path(chosen)


def prepare(
    builder_class: type[tfds.core.DatasetBuilder], data_dir: Path
) -> tfds.core.DatasetBuilder:
    """Returns the builder of an embedded dataset, after preparing its files in `data_dir`.

    Waits while another process prepares the same dataset.
    """
    files = _files(builder_class, data_dir)
    with silent_tfds():
        if not files.directory.exists():
            _prepare_once(builder_class, data_dir, files)
        return files.open(lambda: builder_class(data_dir=data_dir))


def _files(builder_class: type[tfds.core.DatasetBuilder], data_dir: Path) -> PreparedFiles:
    directory = data_dir / builder_class.name
    if builder_class.BUILDER_CONFIGS:
        directory /= builder_class.BUILDER_CONFIGS[0].name
    return PreparedFiles(directory / str(builder_class.VERSION), PREPARED_AGAIN)


def _prepare_once(
    builder_class: type[tfds.core.DatasetBuilder], data_dir: Path, files: PreparedFiles
) -> None:
    try:
        with _lock(data_dir / f".{builder_class.name}.lock"):
            if files.directory.exists():
                return
            _remove_abandoned(files.directory.parent)
            # Writes to a temporary directory and renames it, so that a prepared copy is complete.
            # The lock is ours: without it the second of two writers fails at TFDS's rename.
            builder_class(data_dir=data_dir).download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except Exception as error:
        cause = _file_error(error)
        if cause is None:
            raise
        raise DataError(
            f"cannot prepare {builder_class.name} in {data_dir}: {cause}; "
            "make room there, give a writable data_dir or set TFDS_DATA_DIR"
        ) from error


def _file_error(error: BaseException | None) -> str | None:
    """Returns the system's message if a file could not be written; TFDS may wrap the error."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, tf.errors.OpError):  # of the writer of records, which is not Python's
            return str(error.message).rpartition("; ")[2]
        error = error.__cause__
    return None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(directory: Path) -> None:
    """Removes the files of killed processes. The caller holds the lock."""
    for abandoned in directory.glob("incomplete.*"):
        shutil.rmtree(abandoned, ignore_errors=True)


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Suppresses TFDS's prints, bars and warnings: our commands print JSON to standard output."""
    bars = tfds.core.utils.tqdm_utils
    bars_were_shown, verbosity = bars._active, logging.get_verbosity()
    bars.display_progress_bar(enable=False)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        bars.display_progress_bar(enable=bars_were_shown)
