"""Opening of a run: the settings that a user names, and the objects and values that they make."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.configuration import config
from mtfrun.configuration.arguments import literal_bindings
from mtfrun.configuration.checks import check_taken
from mtfrun.configuration.hyperparameters import changes_of_variables, values_of
from mtfrun.configuration.run_files import CONFIG, RunFiles
from mtfrun.configuration.statements import Binding
from mtfrun.data import Data, ImageData
from mtfrun.display import progress
from mtfrun.errors import ConfigError
from mtfrun.errors.differences import list_changes
from mtfrun.errors.untrusted import escape, read_regular_text
from mtfrun.experiment.adapters import find_adapter
from mtfrun.experiment.evaluation.evaluation import Evaluation
from mtfrun.experiment.experiment import ALL_DATA, Experiment
from mtfrun.experiment.loss_terms import LossTerm
from mtfrun.experiment.records import require
from mtfrun.experiment.training import Training
from mtfrun.files import RunDirError
from mtfrun.files.errors import IncompatibleError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.commands import module_hashes
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from mtfrun.rundir.run_directory import CHECKPOINTS

ROOTS = (Experiment, Evaluation, Training)
"""The classes that the program itself calls; a gin file's other objects are their arguments."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Gin files and bindings.

    Attributes:
      bindings: pairs of what errors call a binding, such as a flag, and its text in gin.
      search_paths: directories in which gin files are searched for.
      allowed_imports: modules that the configuration in a run directory may use besides mtfrun's.
      modules: modules that are imported, whose classes and functions bindings may name.
    """

    files: Sequence[str] = ()
    bindings: Sequence[tuple[str, str]] = ()
    search_paths: Sequence[str] = ()
    allowed_imports: Sequence[str] = ()
    modules: Sequence[str] = ()

    @classmethod
    def of_flags(cls, flags: argparse.Namespace) -> Settings:
        return cls(
            flags.gin_file,
            flags.bindings,
            flags.gin_search_paths,
            # Who names a module on the command line trusts it.
            [*flags.gin_allow_imports, *flags.module_import],
            flags.module_import,
        )

    @classmethod
    def of_arguments(
        cls,
        files: Sequence[str],
        *,
        bindings: Mapping[str, object],
        params: Sequence[str],
        mesh: str | None,
        layout: str | None,
        search_paths: Sequence[str],
        allowed_imports: Sequence[str] = (),
    ) -> Settings:
        """See `mtfrun.load` for the arguments."""
        meshes = {"mtf.Mesh.shape": mesh, "mtf.Mesh.layout": layout}
        named = {name: text for name, text in meshes.items() if text is not None}
        texts = [
            *literal_bindings(bindings),
            *((text, text) for text in params),
            *literal_bindings(named),
        ]
        return cls(files, texts, search_paths, allowed_imports)

    def parse(self, run_config: str | None = None) -> list[Binding]:
        """Makes the files, or a run's `run_config`, gin's configuration, inside `config.exclusive`.

        Collective; InputError also if another process has a different configuration or code.
        """
        bindings = config.parse(
            self.files if run_config is None else [run_config],
            self.bindings,
            search_paths=self.search_paths,
            roots=ROOTS,
            allowed_imports=None if run_config is None else self.allowed_imports,
            modules=self.modules,
        )
        if processes.count() > 1:
            processes.check_same("configuration", _select_shared(values_of(config.config_text())))
            processes.check_same("code", module_hashes())
        if run_config is not None:
            config.override(InitCheckpoint, names=None)  # a file that only a new run needs
            files = RunFiles.of(pathlib.Path(run_config).parent)
            if files is not None and files.source_summary is not None:
                config.override(ImageData, trained_source=files.source_summary)
        return bindings

    def as_flags(self) -> list[str]:
        """Returns the flags of a command with these files and bindings."""
        return [
            *(f"--gin_file={name}" for name in self.files),
            *(f"--gin.{text.replace(' = ', '=', 1)}" for _, text in self.bindings),
            *(f"--gin_search_paths={path}" for path in self.search_paths),
        ]


class ConfiguredData(NamedTuple):
    """`splits`: training and evaluation; `loss_terms`: see `Training`."""

    data: Data
    splits: list[str]
    seed: int
    batch_size: int
    loss_terms: Sequence[LossTerm] = ()


def configure_data(settings: Settings, run_config: str | None) -> ConfiguredData:
    """See `Settings.parse` for `run_config`."""
    with config.exclusive():
        settings.parse(run_config)
        data = config.argument(Experiment, "data")
        require(data, Data, "Experiment.data", ALL_DATA)
        evaluated = config.argument(Evaluation, "split", "validation")
        seed = config.argument(Experiment, "seed", 0)
        batch_size = config.argument(Training, "batch_size", 0)
        loss_terms = config.argument(Training, "loss_terms", ())
        excluded = config.argument(Training, "exclude_documents")
    if excluded:
        data = data.remove(excluded)
    splits = list(dict.fromkeys(["train", evaluated]))
    return ConfiguredData(data, splits, seed, batch_size, loss_terms)


# Parameters that may differ between the processes of a run.
_OF_A_PROCESS = (
    "DeviceSettings.memory_growth",
    "Mesh.devices",
    "TrainOptions.iterations_per_loop",
    "TrainOptions.profile",
    "TrainOptions.secs_per_loop",
)


def _select_shared(values: Mapping[str, str]) -> dict[str, str]:
    """Returns the bindings that must be the same in all processes.

    >>> _select_shared({"N": "5", "SEED": "0", "training.TrainOptions.iterations_per_loop": "%N"})
    {'SEED': '0'}
    """
    shared = {name: value for name, value in values.items() if not name.endswith(_OF_A_PROCESS)}
    macros = {values[name].removeprefix("%") for name in values.keys() - shared.keys()}
    used = " ".join(shared.values())
    return {n: v for n, v in shared.items() if n not in macros or f"%{n}" in used}


_INCLUDE = re.compile(r"^include\b", re.MULTILINE)


class RunObjects(NamedTuple):
    """The objects of a run; text and bindings of the configuration that they were built from."""

    experiment: Experiment
    evaluation: Evaluation
    config_text: str
    bindings: Sequence[Binding]


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
        run_config = run.require_config()
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
            return list_changes(changes_of_variables(text, objects.config_text))
        except ConfigError:  # not a file that gin has written
            return ""
    return ""
