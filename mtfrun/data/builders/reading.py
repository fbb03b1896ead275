"""Errors while reading a source, as one line with the remedy."""

from __future__ import annotations

import abc
import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from mtfrun.data.builders.prepared_files import PreparedFiles
from mtfrun.data.errors import DataError

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
            raise source.files().damaged(reason) from error
        raise DataError(f"cannot read {source}: {' '.join(reason.split())}") from error
