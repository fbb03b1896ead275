from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.experiment.adapters import find_adapter, is_of_adapters
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.runs.opening import Settings, build_run, restore_model
from mtfrun.rundir import RunDirectory


class RunValues(NamedTuple):
    step: int
    values: Mapping[str, np.ndarray]


def values_of_run(run: RunDirectory, checkpoint: int | str | None = None) -> RunValues:
    """Reads averages where there are any.

    The checkpoint is a step, "best", or "latest" or None for the newest good one.
    """
    run.require()
    checkpoints = run.checkpoints()
    checkpoints.require()
    directory = pathlib.Path(run.path, "checkpoints")

    def read(manifest: Manifest) -> RunValues:
        stored = CheckpointValues(directory, manifest)
        values = {}
        for path in manifest.variables:
            root, _, name = path.partition("/")
            if root == "model":
                average = f"averages/{name}"
                values[name] = stored[average if average in manifest.variables else path]
        return RunValues(manifest.step, values)

    return checkpoints.read(checkpoints.named_step(checkpoint), read)


def export_tensorflow(directory: pathlib.Path, run: RunValues) -> None:
    """Writes model.ckpt-STEP: "embedding/table", ... and "global_step", without Python objects."""
    values: dict[str, np.ndarray] = {**run.values, "global_step": np.asarray(run.step, np.int64)}
    prefix = f"model.ckpt-{run.step}"
    tf.raw_ops.SaveV2(
        prefix=str(directory / prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    text = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    (directory / "checkpoint").write_text(text, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class ExportedRun:
    """A run to export, at a checkpoint: a step, "best" or "latest"; perhaps with an adapter."""

    run: RunDirectory
    checkpoint: str
    adapter: str | None
    settings: Settings

    @property
    def config_run(self) -> RunDirectory:
        """The run whose configuration counts: the adapter's, if there is one."""
        return self.run if self.adapter is None else find_adapter(self.adapter, self.run)

    @property
    def has_adapters(self) -> bool:
        return self.adapter is not None or is_of_adapters(self.run, self.checkpoint)

    def restore(self) -> tuple[Experiment, int]:
        """Returns the experiment on one device, with the checkpoint's values, and its step."""
        built = build_run(self.run, self.settings, adapter=self.adapter, on_one_device=True)
        step = restore_model(built, self.run, self.checkpoint, self.adapter)
        return built.experiment, step

    def values(self) -> RunValues:
        """Returns the model's values by path, with LoRA merged into them."""
        if not self.has_adapters:  # no model is built
            return values_of_run(self.run, self.checkpoint)
        experiment, step = self.restore()
        model = experiment.model
        layers.merge_low_rank(model)
        if model.named_variables().keys() - model.base_variables().keys():
            kind = type(model.adapters[0]).__name__
            raise ConversionError(f"{kind} is not a change of weights: use --format=saved_model")
        return RunValues(step, mtf.to_numpy(model.base_variables()))


class Exporter(Protocol):
    """Writes runs for other programs; entry points of the group "mtfrun.exporters" name classes.

    They are called without arguments. The name of the entry point is the value of --format.
    Importing the module of a class must not import TensorFlow: every command starts with it.

    Attributes:
      description: the files that it writes, and for which models, for the help text.
    """

    description: str

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags of this format. Equal names must mean the same in all formats."""

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        """Writes into an empty directory; raises InputError for models that it cannot write."""
