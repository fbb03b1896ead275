"""The values of a run's variables, read from its checkpoint without building its model."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mtfrun.rundir import Manifest, RunDirectory
from mtfrun.rundir.checkpoints.checkpoint_values import CheckpointValues

_MODEL, _AVERAGES = "model/", "averages/"


class RunValues(NamedTuple):
    """The values of a model.

    Attributes:
      step: of the checkpoint.
      values: by the path of the variable, such as "embedding/table".
    """

    step: int
    values: Mapping[str, np.ndarray]


def values_of_run(
    run: RunDirectory, checkpoint: int | str | None = None, *, use_averages: bool = True
) -> RunValues:
    """Returns the values of a run's model.

    Args:
      run: the directory.
      checkpoint: a step, "best", or "latest" or None for the newest good one.
      use_averages: take the averages of the weights, if there are any.

    Raises:
      RunDirError: there is no such checkpoint.
    """
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
