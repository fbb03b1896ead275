"""Opening of a trained run: its objects from its configuration, and the values of a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.experiment import Evaluation, Experiment
from mtfrun.experiment.runs.build import build
from mtfrun.experiment.runs.incompatible import Configured, explain_incompatible
from mtfrun.experiment.runs.settings import Settings
from mtfrun.rundir import RunDirectory


class Opened(NamedTuple):
    """The objects of a run, and the configuration that they were built from.

    Attributes:
      experiment, evaluation: see `Built`.
      configured: explains checkpoints that do not fit.
    """

    experiment: Experiment
    evaluation: Evaluation
    configured: Configured


def trained_run(model_dir: str) -> RunDirectory:
    """Returns the run of a directory.

    Raises:
      RunDirError: there is no directory, or no checkpoint in it.
    """
    run = RunDirectory(model_dir)
    run.require()
    run.checkpoints().require()
    return run


def opened(run: RunDirectory | None, settings: Settings, *, on_one_device: bool = False) -> Opened:
    """Returns the objects of the named gin files, or of the run's configuration if there are none.

    Args:
      run: has the configuration.
      settings: the gin files and bindings.
      on_one_device: whether the mesh is one device, whatever the configuration says.

    Raises:
      ConfigError: a setting is invalid.
    """
    run_config = None
    if run is not None and not settings.files:
        run.read_config()  # for its error, which names the remedy
        run_config = run.config_path
    with config.exclusive():
        bindings = settings.parse(run_config)
        if on_one_device:
            config.override(mtf.Mesh, shape="data:1", layout="", devices=None)
        built = build()
        check_taken(bindings, config.operative_config_text())
        configured = Configured(config.config_text(settings.allowed_imports), bindings)
    return Opened(*built, configured)


def restored(opened: Opened, run: RunDirectory | None, checkpoint: int | str | None) -> int:
    """Restores a model and returns the step of its checkpoint.

    Args:
      opened: has the experiment with the model.
      run: has the checkpoints; without one the model begins with `Experiment.init_checkpoint`.
      checkpoint: a step, "best", or "latest" or None for the newest.

    Raises:
      RunDirError: there is no such checkpoint, or it does not fit the model.
    """
    experiment = opened.experiment
    with explain_incompatible(opened.configured):
        if run is None:
            return experiment.restore_without_run()
        step = processes.by_first(lambda: run.checkpoints().named_step(checkpoint))
        return experiment.restore(run, step)
