"""Training of a configuration in a run directory, by the command and in Python."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.api.build import Built, build
from mtfrun.api.recorded_training import as_text, recorded
from mtfrun.api.settings import Settings
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.conversion.hugging_face import keep_origin
from mtfrun.experiment import Training
from mtfrun.mtf.devices import unused_gpu
from mtfrun.planning import misspelt_rules
from mtfrun.rundir import RunDirectory
from mtfrun.training import TrainResult


@dataclasses.dataclass(frozen=True)
class TrainChoices:
    """How to begin a training.

    Attributes:
      restart: begin at step 0; existing checkpoints are moved to checkpoints.1.
      accept_changes: go on although the data have changed since the checkpoint.
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
    """

    built: Built
    training: Training
    texts: Mapping[str, str]


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
        with mtf.planned_meshes() if planned else contextlib.nullcontext():
            built = build()
            training = config.configured(Training, *built)
        check_taken(bindings, config.operative_config_text())
        built.evaluation.check_split()
        texts = {
            "operative_config": config.operative_config_text(),
            "config": config.config_text(settings.allowed_imports),
        }
    return Prepared(built, training, texts)


def run_training(
    prepared: Prepared, run: RunDirectory, command: Sequence[str], choices: TrainChoices
) -> TrainResult:
    """Trains in a run directory, which is locked and records the configuration and the command.

    Raises:
      InputError: the directory cannot be used, or training has failed.
    """
    training = prepared.training
    gpu = unused_gpu()
    for warning in [*misspelt_rules(prepared.built.experiment.mesh), *([gpu] if gpu else [])]:
        _print_once(f"mtfrun: warning: {warning}")
    texts = {**prepared.texts, "command": as_text(command)}
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            run.prepare()
            stack.enter_context(run.lock())
            finished_steps = lambda: training.state.finished_steps  # noqa: E731
            stack.enter_context(recorded(run, texts, command, finished_steps))
            if choices.restart:
                _restart(run)
            start = prepared.built.experiment.warm_start
            if start is not None and run.checkpoints().latest() is None:
                keep_origin(start.path, pathlib.Path(run.path))

        processes.by_first(begin)
        return training.run(
            run,
            texts={tag: config.as_markdown(text) for tag, text in texts.items()},
            profile=choices.profile,
            max_hours=choices.max_hours,
            accept_changes=choices.accept_changes,
        )


def _restart(run: RunDirectory) -> None:
    """Moves the run's checkpoints aside, so that training begins at step 0."""
    directory = run.set_checkpoints_aside()
    if directory is not None:
        print(f"mtfrun: beginning again; the old checkpoints are in {directory}", file=sys.stderr)


def _print_once(line: str) -> None:
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)
