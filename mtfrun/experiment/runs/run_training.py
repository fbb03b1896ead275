"""Training of a configuration in a run directory, by the command and in Python."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.configuration.hyperparameters import (
    Hyperparameters,
    hyperparameters,
    training_hyperparameters,
)
from mtfrun.data import Data
from mtfrun.display import progress
from mtfrun.experiment import Training
from mtfrun.experiment.runs.build import Built, build
from mtfrun.experiment.runs.incompatible import Configured, explain_incompatible
from mtfrun.experiment.runs.recorded_training import as_text, recorded, setup_of
from mtfrun.experiment.runs.settings import Settings
from mtfrun.experiment.saved_configuration import NumbersOfTraining
from mtfrun.mtf.devices import unused_gpu
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.records.copied_files import keep_origin
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.rundir.tensorboard.hparams import Metric, record_hparams
from mtfrun.rundir.tensorboard.metric_tags import tag_of
from mtfrun.training import TrainResult


@dataclasses.dataclass(frozen=True)
class TrainChoices:
    """How to begin a training.

    Attributes:
      restart: begin at step 0; existing checkpoints are moved to checkpoints.1.
      accept_changes: go on although the data or the configuration have changed since the
        checkpoint.
      profile: record a trace of some steps.
      max_hours: after which training saves and ends; None for no limit.
    """

    restart: bool = False
    accept_changes: bool = False
    profile: bool = False
    max_hours: float | None = None


class Prepared(NamedTuple):
    """A training that has not begun.

    Attributes:
      built: the experiment and its evaluation.
      training: of the experiment.
      texts: "config" and "operative_config", which the run directory records.
      numbers: the parameters that change the numbers of the training.
      configured: explains checkpoints that do not fit.
      hparams: what distinguishes runs, see `hyperparameters`.
    """

    built: Built
    training: Training
    texts: Mapping[str, str]
    numbers: NumbersOfTraining
    configured: Configured
    hparams: Hyperparameters


def prepared(settings: Settings, *, planned: bool = False) -> Prepared:
    """Returns the objects of a configuration, after reading its first batch to evaluate.

    Args:
      settings: the gin files and bindings.
      planned: only to be described: on a mesh whose devices need not exist.

    Raises:
      InputError: a setting is invalid, or the data cannot be read.
    """
    with config.exclusive():
        bindings = settings.parse()
        with (
            mtf.planned_meshes() if planned else contextlib.nullcontext(),
            progress.waiting("building the model and its data"),
        ):
            built = build()
            training = config.configured(Training, *built)
        check_taken(bindings, config.operative_config_text())
        with progress.waiting("reading the first batch to evaluate"):
            built.evaluation.check_split()
        texts = {
            "operative_config": config.operative_config_text(),
            "config": config.config_text(settings.allowed_imports),
        }
        # Data of a class of the user's own that has no fingerprint.
        with_data = type(built.experiment.data).fingerprint is Data.fingerprint
        numbers = training_hyperparameters(with_data=with_data)
        configured = Configured(texts["config"], bindings)
        hparams = hyperparameters(bindings, settings.files)
    return Prepared(built, training, texts, numbers, configured, hparams)


def run_training(
    prepared: Prepared, run: RunDirectory, command: Sequence[str], choices: TrainChoices
) -> TrainResult:
    """Trains in a run directory, which is locked and records the configuration and the command.

    Raises:
      InputError: the directory cannot be used, or training has failed.
    """
    training = prepared.training
    gpu = unused_gpu()
    misspelt = prepared.built.experiment.mesh.misspelt_rules()
    for warning in [*misspelt, *([gpu] if gpu else [])]:
        progress.note(progress.warning(warning))
    texts = {**prepared.texts, "command": as_text(command)}
    restarted = _Restarted(run)

    @contextlib.contextmanager
    def records() -> Iterator[None]:
        """Writes the records of this training in the run directory."""
        restarted.settle()
        with contextlib.ExitStack() as stack:

            def begin() -> None:
                finished_steps = lambda: training.state.finished_steps  # noqa: E731
                experiment = prepared.built.experiment
                setup = setup_of(experiment, prepared.texts["config"])
                operative_config = prepared.texts["operative_config"]
                stack.enter_context(
                    recorded(run, experiment.data, setup, operative_config, command, finished_steps)
                )
                start = experiment.init_checkpoint
                if start is not None and start.path and run.checkpoints().latest() is None:
                    source = pathlib.Path(os.path.expanduser(start.path))
                    keep_origin(source, pathlib.Path(run.path))

            processes.by_first(begin)
            hparams = prepared.hparams
            stack.enter_context(
                record_hparams(
                    run.path, hparams.values, metrics=_metrics(prepared), first=hparams.own
                )
            )
            yield

    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_incompatible(prepared.configured))

        def lock() -> None:
            run.prepare()
            stack.enter_context(run.lock())
            if choices.restart:
                stack.enter_context(restarted)

        processes.by_first(lock)
        run.check_shared()
        return training.run(
            run,
            texts={tag: config.as_markdown(text) for tag, text in texts.items()},
            profile=choices.profile,
            max_hours=choices.max_hours,
            accept_changes=choices.accept_changes,
            numbers=prepared.numbers,
            recorded=records,
        )


def _metrics(prepared: Prepared) -> list[Metric]:
    """Returns the model's own numbers in evaluation and training: columns of a table of runs."""
    shapes = prepared.built.experiment.model.metric_shapes
    names = [name for name, shape in shapes.items() if not shape and "/" not in name]
    return [Metric(tag_of(name), group, name) for group in ("eval", "train") for name in names]


class _Restarted:
    """Moves a run's checkpoints aside; moves them back unless training begins, see `settle`."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._aside: str | None = None

    def __enter__(self) -> None:
        self._aside = self._run.set_checkpoints_aside()

    def settle(self) -> None:
        """Leaves the checkpoints set aside, because training begins."""
        if self._aside is not None:
            progress.note(
                f"mtfrun: beginning again; the old checkpoints are in {self._aside} until "
                "`mtfrun checkpoints prune --set_aside` deletes them"
            )
        self._aside = None

    def __exit__(self, *_: object) -> None:
        if self._aside is not None:
            with contextlib.suppress(OSError):  # the error that ends the training matters more
                pathlib.Path(self._aside).rename(pathlib.Path(self._run.path, CHECKPOINTS))
