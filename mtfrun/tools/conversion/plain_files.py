"""The values of any model under the paths of its variables, as safetensors or for TensorFlow."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from mtfrun.tools.conversion.hugging_face.shards import (
    MAX_SHARD_BYTES,
    shards_by_size,
    write_shards,
)
from mtfrun.tools.conversion.run_values import RunValues

STEP = "global_step"
"""The name of the number of finished steps, as in TensorFlow 1."""


def export_safetensors(
    directory: pathlib.Path, run: RunValues, max_shard_bytes: int | None = None
) -> None:
    """Writes model.safetensors, or several files with an index, into a directory.

    A tensor has the path of its variable, "embedding/table", and its dimensions in their order. The
    step is in the header of every file.

    Args:
      directory: exists and is empty.
      run: the values.
      max_shard_bytes: the size of the largest file; None for 50 GB.
    """
    shards = shards_by_size(run.values, max_shard_bytes or MAX_SHARD_BYTES)
    write_shards(directory, shards, {"format": "np", STEP: str(run.step)})


def export_tensorflow(directory: pathlib.Path, run: RunValues) -> None:
    """Writes a checkpoint of TensorFlow, model.ckpt-STEP, into a directory.

    Variables have the names "embedding/table", ... and "global_step", as `tf.train.load_checkpoint`
    reads them: they belong to no object of Python.

    Args:
      directory: exists and is empty.
      run: the values.
    """
    values: dict[str, np.ndarray] = {**run.values, STEP: np.asarray(run.step, np.int64)}
    prefix = f"model.ckpt-{run.step}"
    tf.raw_ops.SaveV2(
        prefix=str(directory / prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    _write_state(directory, prefix)


def _write_state(directory: pathlib.Path, prefix: str) -> None:
    """Writes the file that names the newest checkpoint; see `tf.train.latest_checkpoint`."""
    text = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    (directory / "checkpoint").write_text(text, encoding="utf-8")
