"""Loading and training of runs in Python; `mtfrun.load` and `mtfrun.train` call these."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from mtfrun.configuration.errors import one_line_errors
from mtfrun.experiment.runs.build import Built
from mtfrun.experiment.runs.opening import Opened, opened, restored, trained_run
from mtfrun.experiment.runs.run import Run
from mtfrun.experiment.runs.run_training import TrainChoices, prepared, run_training
from mtfrun.experiment.runs.settings import Settings, literal_bindings
from mtfrun.rundir import RunDirectory


def load(model_dir: str | None, settings: Settings, checkpoint: int | str | None) -> Run:
    """Returns the run of a directory; see `mtfrun.load`."""
    with one_line_errors():
        run = None if model_dir is None else trained_run(model_dir)
        built = opened(run, settings)
        step = restored(built, run, checkpoint)
    return Run(Built(built.experiment, built.evaluation), step, None if run is None else run.path)


def train(model_dir: str, settings: Settings, choices: TrainChoices) -> Run:
    """Trains and returns the run; see `mtfrun.train`."""
    run = RunDirectory(model_dir)
    command = ["mtfrun", "train", *settings.as_flags(), f"--model_dir={model_dir}"]
    with one_line_errors():
        preparation = prepared(settings)
        result = run_training(preparation, run, command, choices)
    if result.signal is not None:
        # Training has held it back until a checkpoint was saved.
        signal.raise_signal(result.signal)
    with one_line_errors():
        step = restored(Opened(*preparation.built, preparation.configured), run, None)
    return Run(preparation.built, step, run.path)


def settings_of(
    files: Sequence[str],
    *,
    bindings: Mapping[str, object],
    params: Sequence[str],
    mesh: str | None,
    layout: str | None,
    search_paths: Sequence[str],
    allowed_imports: Sequence[str] = (),
) -> Settings:
    """Returns gin files and bindings; see `mtfrun.load` for the arguments.

    Raises:
      ConfigError: a value has no form in gin.
    """
    of_mesh = {"mtf.Mesh.shape": mesh, "mtf.Mesh.layout": layout}
    return Settings(
        files,
        [
            *literal_bindings(bindings),
            *((text, text) for text in params),
            *literal_bindings({name: text for name, text in of_mesh.items() if text is not None}),
        ],
        search_paths,
        allowed_imports,
    )
