"""Prepares an embedded TFDS dataset on first use: atomically, once, without a network."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError
from mtfrun.data.silence import silent_tfds


def resolve_data_dir(data_dir: str | None) -> Path:
    """Returns `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets (TFDS's own rule)."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().absolute()


def prepare(
    builder_class: type[tfds.core.DatasetBuilder], data_dir: Path
) -> tfds.core.DatasetBuilder:
    """Returns the builder of an embedded dataset whose files stand in `data_dir`.

    Whoever comes second while another process prepares the same dataset waits for it.
    Raises DataError if `data_dir` cannot be written.
    """
    try:
        with silent_tfds():
            builder = builder_class(data_dir=data_dir)
            if not builder.is_prepared():
                builder = _prepare_once(builder_class, data_dir)
            return builder
    except OSError as error:
        raise DataError(
            f"cannot prepare {builder_class.name} in {data_dir}: {error.strerror or error}; "
            "give a writable data_dir or set TFDS_DATA_DIR"
        ) from error


def _prepare_once(
    builder_class: type[tfds.core.DatasetBuilder], data_dir: Path
) -> tfds.core.DatasetBuilder:
    with _lock(data_dir / f".{builder_class.name}.lock"):
        builder = builder_class(data_dir=data_dir)
        if not builder.is_prepared():
            _remove_abandoned(Path(builder.data_path).parent)
            # Writes to a temporary directory and renames it: a prepared copy is always whole. The
            # lock is ours, because of two writers TFDS lets the second fail at the rename.
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    return builder


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`. The system releases it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(directory: Path) -> None:
    """Removes what killed processes left behind. Under the lock nobody else is writing here."""
    for abandoned in directory.glob("incomplete.*"):
        shutil.rmtree(abandoned, ignore_errors=True)
