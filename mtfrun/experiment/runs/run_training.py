"""Training of a configuration in a run directory, by the command and in Python."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf, processes
from mtfrun.checkpoints.mirror import registry
from mtfrun.configuration import config
from mtfrun.configuration.hyperparameters import hyperparameters, training_hyperparameters
from mtfrun.configuration.run_files import CONFIG, RECORD
from mtfrun.data import Data
from mtfrun.display import progress
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.runs.opening import (
    RunObjects,
    Settings,
    build_training,
    explain_incompatible,
)
from mtfrun.experiment.saved_configuration import (
    TrainingHyperparameters,
    fingerprint_of,
    fingerprint_of_split,
)
from mtfrun.experiment.training import TrainChoices, Training
from mtfrun.files import URLS, atomic_write, has_masked_urls
from mtfrun.mtf.placement.devices import unused_gpu
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.copied_files import keep_origin, write_run_files
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.training import TrainResult


class Preparation(NamedTuple):
    """A training that has not begun; `settings` distinguish runs, see `hyperparameters`."""

    objects: RunObjects
    training: Training
    operative_config: str
    training_hyperparameters: TrainingHyperparameters
    settings: Mapping[str, bool | float | str]


def prepare(
    settings: Settings, *, planned: bool = False, run: RunDirectory | None = None
) -> Preparation:
    """Builds a configuration and reads a batch; if `planned`, the devices need not exist.

    Without gin files the configuration is the run's.
    """
    with config.exclusive():
        bindings = settings.parse(run.config_path if run and not settings.files else None)
        with (
            mtf.planned_meshes() if planned else contextlib.nullcontext(),
            progress.waiting("building the model and its data"),
        ):
            training = build_training(bindings)
        experiment, evaluation = training.experiment, training.evaluation
        with progress.waiting("reading the first batch to evaluate"):
            evaluation.check_split()
        text = config.config_text(settings.allowed_imports)
        operative_config = config.operative_config_text()
        # Data of a user's class that has no fingerprint.
        with_data = type(experiment.data).fingerprint is Data.fingerprint
        in_training = training_hyperparameters(operative_config, text, with_data=with_data)
        distinguishing = hyperparameters(bindings, operative_config)
        for term in training.prepared_terms:
            # The configuration of another run replaces the present one.
            term.read(experiment, planned=planned)
    objects = RunObjects(experiment, evaluation, text, bindings)
    return Preparation(objects, training, operative_config, in_training, distinguishing)


def run_training(
    prepared: Preparation, run: RunDirectory, command: Sequence[str], choices: TrainChoices
) -> TrainResult:
    """Trains in a run directory, which is locked and records the configuration and the command."""
    config_text = prepared.objects.config_text
    for warning in (*prepared.objects.experiment.mesh.misspelt_rules(), unused_gpu()):
        if warning:
            progress.note(progress.warning(warning))
    if has_masked_urls(config_text):
        progress.note(
            "mtfrun: config.gin has URLs without their passwords: later commands need the same "
            f"setting, or the whole URLs in the environment variable {URLS}"
        )
    texts = {
        "config": config_text,
        "operative_config": prepared.operative_config,
        "command": command_text(command),
    }
    restarted = _Restarted(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_incompatible(prepared.objects))

        def lock() -> None:
            run.prepare()
            stack.enter_context(run.lock())
            run.clean()
            if choices.restart:
                stack.enter_context(restarted)

        processes.by_first(lock)
        run.check_shared()
        return prepared.training.run(
            run,
            choices,
            texts={tag: textwrap.indent(text, "    ") for tag, text in texts.items()},
            hyperparameters=prepared.training_hyperparameters,
            recording=lambda: _record(prepared, run, command, restarted),
        )


@contextlib.contextmanager
def _record(
    prepared: Preparation, run: RunDirectory, command: Sequence[str], restarted: _Restarted
) -> Iterator[None]:
    """Records a training that begins. Collective; the first process writes."""
    restarted.settle()
    experiment, state = prepared.objects.experiment, prepared.training.state
    data, start = experiment.data, experiment.init_checkpoint
    split = prepared.objects.evaluation.split
    setup = {
        **describe_setup(experiment, prepared.objects.config_text),
        "step": state.finished_steps,
        "data": fingerprint_of(data),
        "evaluation": {split: fingerprint_of_split(data, split)},
        "hyperparameters": prepared.training_hyperparameters,
        "settings": prepared.settings,
    }
    gin_text = prepared.operative_config
    recording = record_training(run, data, setup, gin_text, command, lambda: state.finished_steps)
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(recording)
            if start is not None and start.path and run.checkpoints().latest() is None:
                source = pathlib.Path(os.path.expanduser(registry.local_source(start.path)))
                keep_origin(source, pathlib.Path(run.path))

        processes.by_first(begin)
        yield


@dataclasses.dataclass
class _Restarted:
    """Moves a run's checkpoints aside; moves them back unless training begins, see `settle`."""

    run: RunDirectory
    aside: str | None = None

    def __enter__(self) -> None:
        self.aside = self.run.set_checkpoints_aside()

    def settle(self) -> None:
        if self.aside is not None:
            progress.note(
                f"mtfrun: beginning again; the old checkpoints are in {self.aside} until "
                "`mtfrun checkpoints prune --set_aside` deletes them"
            )
        self.aside = None

    def __exit__(self, *_: object) -> None:
        if self.aside is not None:
            with contextlib.suppress(OSError):  # the error that ends the training matters more
                pathlib.Path(self.aside).rename(pathlib.Path(self.run.path, CHECKPOINTS))


@contextlib.contextmanager
def record_training(
    run: RunDirectory,
    data: Data,
    setup: Mapping[str, object],
    operative_config: str,
    command: Sequence[str],
    finished_steps: Callable[[], int],
) -> Iterator[None]:
    """Records configuration, command and vocabulary files; undone by an error before any step."""
    directory = pathlib.Path(run.path)
    files = [directory / name for name in (CONFIG, "operative_config.gin", RECORD)]
    former = {path: path.read_bytes() for path in files if path.is_file()}
    first_step = run.checkpoints().latest() or 0
    write_run_files(directory, data.vocabulary_files(), data.source_summary())
    run.write_config(str(setup["configuration"]))
    run.write_operative_config(operative_config)
    record = run.record_command(command, setup)
    try:
        yield
    except Exception as error:
        # TensorFlow crashes where a variable is read after an error of a collective.
        is_lost = processes.count() > 1 and isinstance(error, tf.errors.OpError)
        if not is_lost and not _has_begun(finished_steps, first_step):
            pathlib.Path(record).unlink(missing_ok=True)
            for path in files:
                if path in former:
                    atomic_write(path, os.fsdecode(former[path]))
                else:
                    path.unlink(missing_ok=True)
        raise


def describe_setup(experiment: Experiment, configuration: str) -> dict[str, object]:
    """Returns what a command about an experiment runs with, for its record."""
    mesh = experiment.mesh
    return {
        "configuration": configuration,
        "seed": experiment.seed,
        "mesh": mesh.shape.to_string,
        "layout": mesh.layout.to_string,
        "devices": mesh.describe_devices(),
        "processes": processes.count(),
    }


def command_text(command: Sequence[str]) -> str:
    """Returns a command as typed in a shell; masks passwords in URLs, replaces invalid UTF-8."""
    return os.fsencode(shlex.join(map(mask_urls, command))).decode("utf-8", "replace")


def _has_begun(finished_steps: Callable[[], int], first_step: int) -> bool:
    try:
        return finished_steps() not in (0, first_step)
    except Exception:
        return False
