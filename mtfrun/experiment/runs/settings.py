"""The gin files and bindings that a user has named, for a command or in Python."""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import processes
from mtfrun.configuration import config
from mtfrun.configuration.arguments import quote
from mtfrun.configuration.hyperparameters import values_of
from mtfrun.configuration.run_files import RunFiles
from mtfrun.configuration.statements import Binding
from mtfrun.data import Data, ImageData
from mtfrun.errors import ConfigError
from mtfrun.experiment.evaluation.evaluation import Evaluation
from mtfrun.experiment.experiment import ALL_DATA, Experiment
from mtfrun.experiment.loss_terms import LossTerm
from mtfrun.experiment.records import require
from mtfrun.experiment.training import Training
from mtfrun.rundir.code import module_hashes
from mtfrun.rundir.init_checkpoint import InitCheckpoint

ROOTS = (Experiment, Evaluation, Training)
"""The classes that the program itself calls; a gin file's other objects are their arguments."""

# What a gin reference or macro begins with.
_REFERENCE_SIGNS = ("@", "%")


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
    """Returns gin files and bindings; see `mtfrun.load` for the arguments."""
    meshes = {"mtf.Mesh.shape": mesh, "mtf.Mesh.layout": layout}
    return Settings(
        files,
        [
            *literal_bindings(bindings),
            *((text, text) for text in params),
            *literal_bindings({name: text for name, text in meshes.items() if text is not None}),
        ],
        search_paths,
        allowed_imports,
    )


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


def literal_bindings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Returns the bindings of Python values to macros and parameters.

    A text that begins with @ or % is a reference, as in a gin file. ConfigError if a value has no
    form in gin.

    >>> literal_bindings({"BATCH_SIZE": 8, "TASK": "@data.Task()"})
    [('BATCH_SIZE=8', 'BATCH_SIZE = 8'), ('TASK=@data.Task()', 'TASK = @data.Task()')]
    """
    texts = {name: _literal(name, value) for name, value in values.items()}
    return [(f"{name}={text}", f"{name} = {text}") for name, text in texts.items()]


def _literal(name: str, value: object) -> str:
    if isinstance(value, str) and value.startswith(_REFERENCE_SIGNS):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = repr(value)
    try:
        is_literal = bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError):
        is_literal = False
    if not is_literal:
        raise ConfigError(
            f"{name}={quote(value)}: a value is a number, a text, True, False, None, or a list, "
            'tuple or dictionary of these; what gin should make is a text such as "@optim.Adam()"'
        )
    return text
