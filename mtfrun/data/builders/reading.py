"""Errors while reading a source, as one line with the remedy."""

from __future__ import annotations

import abc
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from mtfrun.data.builders.prepared_files import PreparedFiles
from mtfrun.data.errors import DataError
from mtfrun.errors import InputError
from mtfrun.untrusted import check_record_lengths, open_regular

# What iterators raise where files are damaged, truncated, missing, not readable or of another kind.
_UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,  # TFDS's: fewer elements than dataset_info.json says
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


class PreparedSource(abc.ABC):
    """A source whose files were prepared by TFDS."""

    @abc.abstractmethod
    def files(self) -> PreparedFiles:
        """Returns the location of the files."""


@contextlib.contextmanager
def reading(source: object) -> Iterator[None]:
    """Turns TensorFlow's errors of files into DataErrors that name the source."""
    try:
        yield
    except _UNREADABLE as error:
        # Removes the names of TensorFlow's nodes.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*|\[\[.*", "", error.message, flags=re.DOTALL).strip()
        if isinstance(source, PreparedSource):
            files = source.files()
            torn = _torn_file(files.directory)
            named = "" if torn is None or torn.name in reason else f"{torn.name}: "
            raise files.damaged(f"{named}{reason}") from error
        raise DataError(f"cannot read {source}: {' '.join(reason.split())}") from error


def check_records(source: PreparedSource, directory: Path) -> None:
    """Raises DataError for a record file at which TensorFlow would hang or crash."""
    for path in _record_files(directory):
        try:
            with open_regular(path) as file:
                check_record_lengths(file)
        except (OSError, InputError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise source.files().damaged(f"{path.name}: {why}") from error


def _torn_file(directory: Path) -> Path | None:
    """Returns the first record file that cannot be read to its end."""
    for path in _record_files(directory):
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.OpError:
            return path
    return None


def _record_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if ".tfrecord" in path.name)
