"""Reading what a source holds: what TensorFlow says of files becomes one line with the remedy."""

from __future__ import annotations

import abc
import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.prepared_files import PreparedFiles

# What iterators raise where files are damaged, cut off, gone, closed to us, or of other contents.
_UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,  # TFDS's: fewer elements than dataset_info.json says
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


class PreparedSource(abc.ABC):
    """A source whose files TFDS has prepared."""

    @abc.abstractmethod
    def files(self) -> PreparedFiles:
        """Returns where they stand."""


@contextlib.contextmanager
def reading(source: object) -> Iterator[None]:
    """Raises DataError where the data of `source` that is read inside cannot be."""
    try:
        yield
    except _UNREADABLE as error:
        # Without the names of TensorFlow's own nodes.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*|\[\[.*", "", error.message, flags=re.DOTALL).strip()
        if isinstance(source, PreparedSource):
            raise source.files().damaged(reason) from error
        raise DataError(f"cannot read {source}: {' '.join(reason.split())}") from error
