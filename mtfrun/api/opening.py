"""Opening of a trained run: its objects from its configuration, and the values of a checkpoint."""

from __future__ import annotations

from mtfrun import mtf, processes
from mtfrun.api.build import Built, build
from mtfrun.api.settings import Settings
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.experiment import Experiment
from mtfrun.rundir import RunDirectory


def trained_run(model_dir: str) -> RunDirectory:
    """Returns the run of a directory.

    Raises:
      RunDirError: there is no directory, or no checkpoint in it.
    """
    run = RunDirectory(model_dir)
    run.require()
    run.checkpoints().require()
    return run


def opened(run: RunDirectory | None, settings: Settings, *, on_one_device: bool = False) -> Built:
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
            config.rebind(mtf.Mesh, shape="data:1", layout="", devices=None)
        built = build()
        check_taken(bindings, config.operative_config_text())
    return built


def restored(experiment: Experiment, run: RunDirectory | None, checkpoint: int | str | None) -> int:
    """Restores a model and returns the step of its checkpoint.

    Args:
      experiment: has the model.
      run: has the checkpoints; without one the model begins with `Experiment.warm_start`.
      checkpoint: a step, "best", or "latest" or None for the newest.

    Raises:
      RunDirError: there is no such checkpoint, or it does not fit the model.
    """
    if run is None:
        return experiment.restore_without_run()
    step = processes.by_first(lambda: run.checkpoints().named_step(checkpoint))
    return experiment.restore(run, step)
