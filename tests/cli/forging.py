"""Checkpoints that were changed after they were saved, with manifests and hashes that fit."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.rundir import RunDirectory


def flip_bit(directory: pathlib.Path, step: int, prefix: str, place: int, bit: int) -> str:
    """Changes a value of a run's checkpoint, and returns its variable's path."""
    checkpoints = RunDirectory(directory).checkpoints()
    manifest = checkpoints.manifest(step)
    assert manifest is not None
    values = CheckpointValues(directory / "checkpoints", manifest)
    arrays = {name: np.array(values[name]) for name in manifest.variables}
    path = next(
        name for name in sorted(arrays) if name.startswith(prefix) and arrays[name].size > 1
    )
    arrays[path].reshape(-1).view(np.uint32)[place] ^= 1 << bit
    variables = {name: tf.Variable(array) for name, array in arrays.items()}
    checkpoints.save(step, variables, metadata=manifest.metadata)
    return path
