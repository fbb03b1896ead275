"""Reads the values of checkpoints one by one, without a model."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtfrun.checkpoints.manifest import Manifest, tensor_key
from mtfrun.checkpoints.recorded_digests import RecordedDigests
from mtfrun.checkpoints.tensor_index import check_index
from mtfrun.files.errors import RunDirError, reason, run_dir_errors

# TensorFlow's reader raises different errors for different damage.
READER_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError, OSError)


class StoredTensors:
    """The tensors of a checkpoint, each read on access, and compared with the recorded digests."""

    def __init__(self, prefix: str, recorded: RecordedDigests | None = None) -> None:
        self.prefix = prefix
        self._recorded = recorded
        self._paths = {tensor_key(path): path for path in (recorded.by_path if recorded else ())}
        check_index(prefix)
        self._open()

    def _open(self) -> None:
        with run_dir_errors(f"cannot read the checkpoint {self.prefix}", "", *READER_ERRORS):
            self._reader = tf.train.load_checkpoint(self.prefix)
            self.shapes: Mapping[str, list[int]] = self._reader.get_variable_to_shape_map()

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            value: np.ndarray = np.asarray(self._reader.get_tensor(name))
        except READER_ERRORS as error:
            # After an error in a part of a tensor, the next call of a reader ends the process.
            self._open()
            raise RunDirError(f"cannot read {name} of {self.prefix}: {reason(error)}") from error
        if value.dtype.kind in "OSUc":
            raise RunDirError(f"{name} of {self.prefix} has no real numbers, but {value.dtype}")
        if self._recorded is not None and name in self._paths:
            self._recorded.check_value(self._paths[name], value)
        return value

    def step(self, name: str) -> int:
        value = self[name]
        if value.size != 1 or not abs(value.item()) < 2**62:
            raise RunDirError(f"{name} of {self.prefix} is not a number of steps")
        return max(int(value.item()), 0)


class CheckpointValues(StoredTensors):
    """The variables by path, such as "model/embedding/table", read without building the model."""

    def __init__(
        self, directory: pathlib.Path, manifest: Manifest, *, compares: bool = True
    ) -> None:
        """compares: whether a value that the run's ledger does not have is an error."""
        recorded = RecordedDigests.of(directory, manifest.step) if compares else None
        super().__init__(str(directory / manifest.prefix), recorded)

    def __getitem__(self, path: str) -> np.ndarray:
        return super().__getitem__(tensor_key(path))
