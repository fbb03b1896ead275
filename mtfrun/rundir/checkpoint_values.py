"""The values in a checkpoint, read variable by variable without building the model."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.manifest import Manifest


class CheckpointValues:
    """Reads the variables of one checkpoint.

    Args:
      directory: of the checkpoints.
      manifest: of the checkpoint.

    Raises:
      RunDirError: it cannot be read.
    """

    def __init__(self, directory: pathlib.Path, manifest: Manifest) -> None:
        self._prefix = str(directory / manifest.prefix)
        try:
            self._reader = tf.train.load_checkpoint(self._prefix)
        # The type of the reader's error depends on the kind of damage.
        except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
            raise RunDirError(f"cannot read {self._prefix}: {reason(error)}") from error

    def __getitem__(self, path: str) -> np.ndarray:
        """Returns the value of a variable of the manifest, such as "model/embedding/table"."""
        key = f"variables/{path.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"
        try:
            value: np.ndarray = self._reader.get_tensor(key)
            return value
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError, OSError) as error:
            raise RunDirError(f"cannot read {path} of {self._prefix}: {reason(error)}") from error
