from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Protocol

from mtfrun.experiment.adapters import find_adapter, is_of_adapters
from mtfrun.experiment.conversion.plain_files import RunValues, merged_values, values_of_run
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.runs.opening import build_run, restore_model
from mtfrun.experiment.runs.settings import Settings
from mtfrun.rundir import RunDirectory


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
        return merged_values(*self.restore())


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
