from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.experiment.conversion.safetensors_file import (
    MAX_SHARD_BYTES,
    shards_by_size,
    write_shards,
)
from mtfrun.experiment.experiment import Experiment
from mtfrun.rundir import RunDirectory

_MODEL, _AVERAGES = "model/", "averages/"

STEP = "global_step"
"""The name of the number of finished steps, as in TensorFlow 1."""


class RunValues(NamedTuple):
    step: int
    values: Mapping[str, np.ndarray]


def values_of_run(
    run: RunDirectory, checkpoint: int | str | None = None, *, use_averages: bool = True
) -> RunValues:
    """The checkpoint is a step, "best", or "latest" or None for the newest good one."""
    run.require()
    checkpoints = run.checkpoints()
    checkpoints.require()
    directory = pathlib.Path(run.path, "checkpoints")

    def read(manifest: Manifest) -> RunValues:
        stored = CheckpointValues(directory, manifest)
        values = {}
        for path in manifest.variables:
            if not path.startswith(_MODEL):
                continue
            name = path.removeprefix(_MODEL)
            average = _AVERAGES + name
            source = average if use_averages and average in manifest.variables else path
            values[name] = stored[source]
        return RunValues(manifest.step, values)

    return checkpoints.read(checkpoints.named_step(checkpoint), read)


def merged_values(experiment: Experiment, step: int) -> RunValues:
    """Merges the adapters of a restored model into its weights; InputError if they cannot be."""
    model = experiment.model
    layers.merge_low_rank(model)
    named = model.named_variables()
    base = model.base_variables()
    remaining = sorted(named.keys() - base.keys())
    if remaining:
        raise ConversionError(
            f"{type(model.adapters[0]).__name__} is no change of weights: {remaining[0]} has no "
            "place in them; export it with --format=saved_model"
        )
    return RunValues(step, mtf.to_numpy(base))


def export_safetensors(
    directory: pathlib.Path, run: RunValues, max_shard_bytes: int | None = None
) -> None:
    """Writes model.safetensors, or several files with an index, into an empty directory.

    A tensor is named by its path, "embedding/table"; the step is in the header of every file.
    """
    shards = shards_by_size(run.values, max_shard_bytes or MAX_SHARD_BYTES)
    write_shards(directory, shards, {"format": "np", STEP: str(run.step)})


def export_tensorflow(directory: pathlib.Path, run: RunValues) -> None:
    """Writes model.ckpt-STEP: "embedding/table", ... and "global_step", without Python objects."""
    values: dict[str, np.ndarray] = {**run.values, STEP: np.asarray(run.step, np.int64)}
    prefix = f"model.ckpt-{run.step}"
    tf.raw_ops.SaveV2(
        prefix=str(directory / prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    text = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    (directory / "checkpoint").write_text(text, encoding="utf-8")
