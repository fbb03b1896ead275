"""Opening of a trained run: its objects from its configuration, and the values of a checkpoint."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.configuration.hyperparameters import changes_of_variables, describe_changes
from mtfrun.configuration.run_files import CONFIG
from mtfrun.configuration.statements import Binding
from mtfrun.display import progress
from mtfrun.errors import ConfigError
from mtfrun.errors.untrusted import escape, read_regular_text
from mtfrun.experiment.adapters import find_adapter
from mtfrun.experiment.evaluation.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.runs.settings import Settings
from mtfrun.experiment.training import Training
from mtfrun.files import RunDirError
from mtfrun.files.errors import IncompatibleError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.run_directory import CHECKPOINTS

# Parameters that limit the examples of evaluators.
_LIMITS = ("num_decodes", "num_examples")
_INCLUDE = re.compile(r"^include\b", re.MULTILINE)


class RunObjects(NamedTuple):
    """The objects of a run; text and bindings of the configuration that they were built from."""

    experiment: Experiment
    evaluation: Evaluation
    config_text: str
    bindings: Sequence[Binding]


def evaluation_of(objects: RunObjects, split: str | None = None) -> Evaluation:
    """Returns the evaluation of a split, None for the configuration's.

    Of a test split every example is decoded, although training decodes fewer of its split, unless a
    flag limits their number.
    """
    evaluation = objects.evaluation if split is None else objects.evaluation.of_split(split)
    is_limited = any(
        binding.from_flag and binding.parameter in _LIMITS for binding in objects.bindings
    )
    is_test = evaluation.split.partition("[")[0] == "test"
    return evaluation.of_all_examples() if is_test and not is_limited else evaluation


def find_trained_run(model_dir: str) -> RunDirectory:
    """Returns the run of a directory; RunDirError without a directory, or a checkpoint in it."""
    run = RunDirectory(model_dir)
    run.require()
    run.checkpoints().require()
    return run


def build(mesh: mtf.Mesh | None = None) -> tuple[Experiment, Evaluation]:
    """Returns the objects of the parsed configuration; a mesh replaces the configuration's."""
    experiment = config.build(Experiment, *([] if mesh is None else [mesh]))
    return experiment, config.build(Evaluation, experiment)


def build_training(bindings: Sequence[Binding]) -> Training:
    """Returns the training of the parsed configuration; ConfigError for bindings without use."""
    training: Training = config.build(Training, *build())
    check_taken(bindings, config.operative_config_text())
    return training


def build_run(
    run: RunDirectory | None,
    settings: Settings,
    *,
    adapter: str | None = None,
    on_one_device: bool = False,
    mesh: mtf.Mesh | None = None,
) -> RunObjects:
    """Returns the objects of the named gin files, or of the run's configuration if there are none.

    With an `adapter` of the run, see `find_adapter`, its configuration takes the run's place: it
    has the data, the vocabulary and the decoding that belong to the adapter. `on_one_device`, or on
    this `mesh`: whatever mesh the configuration says. ConfigError if a setting is invalid.
    """
    run_config = None
    if run is not None and adapter is not None:
        run = find_adapter(adapter, run)
        _note_changes(adapter, run, settings)
    if run is not None and not settings.files:
        run.read_config()  # for its error, which names the remedy
        run_config = run.config_path
    with config.exclusive():
        bindings = settings.parse(run_config)
        if on_one_device:
            config.override(mtf.Mesh, shape="data:1", layout="", devices=None)
        built = build(mesh)
        if mesh is None:  # otherwise the configuration's mesh has no effect
            check_taken(bindings, config.operative_config_text())
        return RunObjects(*built, config.config_text(settings.allowed_imports), bindings)


def _note_changes(name: str, adapter: RunDirectory, settings: Settings) -> None:
    """Says whose data and settings an adapter is used with, unless they are the adapter's."""
    if settings.files:
        source = f"{', '.join(settings.files)}, not of {adapter.config_path}"
    elif settings.bindings:
        changed = ", ".join(flag.partition("=")[0].strip() for flag, _ in settings.bindings)
        source = f"{adapter.config_path}, changed by {changed}"
    else:
        return
    progress.note(escape(f"mtfrun: adapter {name}: data and settings of {source}"))


def restore_model(
    objects: RunObjects,
    run: RunDirectory | None,
    checkpoint: int | str | None,
    adapter: str | None = None,
) -> int:
    """Restores a model and returns the step of its checkpoint.

    Without a run the model begins with `Experiment.init_checkpoint`. `checkpoint` is a step,
    "best", or "latest" or None for the newest. RunDirError if there is none, or it is incompatible.
    With an `adapter`, see `find_adapter`, its newest checkpoint is restored upon the run's, which
    is, for "latest" or None, the one that it was trained for.
    """
    experiment = objects.experiment
    with explain_incompatible(objects):
        if run is None:
            return experiment.restore_without_run()
        if adapter is not None and checkpoint in (None, "latest"):
            return experiment.restore(find_adapter(adapter, run), None, base=run.path)
        step = processes.by_first(lambda: run.checkpoints().named_step(checkpoint))
        if adapter is not None:
            base = f"{run.path}/{CHECKPOINTS}/ckpt-{step}"
            return experiment.restore(find_adapter(adapter, run), None, base)
        return experiment.restore(run, step)


@contextlib.contextmanager
def explain_incompatible(objects: RunObjects) -> Iterator[None]:
    """Explains an IncompatibleError of the block by the settings that differ, if they do."""
    try:
        yield
    except IncompatibleError as error:
        explanation = _explanation(error, objects)
        if not explanation:
            raise
        raise RunDirError(
            f"{error.name} is incompatible with the model, whose configuration has changed: "
            f"{explanation}; {error.remedy}"
        ) from error


def _explanation(error: IncompatibleError, objects: RunObjects) -> str:
    """Returns the lines that differ; "" if no saved configuration explains the error."""
    path = pathlib.Path(error.name)
    for directory in (path, path.parent, path.parent.parent):
        try:
            text = read_regular_text(directory / CONFIG)
        except (OSError, ValueError):
            continue
        if _INCLUDE.search(text):  # as `import` writes it: its values are in other files
            return ""
        try:
            found = changes_of_variables(text, objects.config_text, error.parts)
        except ConfigError:  # not a file that gin has written
            return ""
        return describe_changes(found, objects.bindings) if found else ""
    return ""
