"""The values in a checkpoint, read variable by variable without building the model."""

from __future__ import annotations

import pathlib

import numpy as np

from mtfrun.rundir.checkpoints.manifest import Manifest, tensor_key
from mtfrun.rundir.checkpoints.tensor_index import StoredTensors


class CheckpointValues:
    """Reads the variables of one checkpoint.

    Args:
      directory: of the checkpoints.
      manifest: of the checkpoint.

    Raises:
      RunDirError: it cannot be read.
    """

    def __init__(self, directory: pathlib.Path, manifest: Manifest) -> None:
        self._tensors = StoredTensors(str(directory / manifest.prefix))

    def __getitem__(self, path: str) -> np.ndarray:
        """Returns the value of a variable of the manifest, such as "model/embedding/table"."""
        return self._tensors[tensor_key(path)]
