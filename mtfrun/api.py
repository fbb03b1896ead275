"""The functions of `import mtfrun`, which import TensorFlow and the rest when they are called."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mtfrun.configuration.arguments import (
    check_checkpoint,
    check_optional_text,
    check_switches,
    names_of,
    path_of,
    paths_of,
)

if TYPE_CHECKING:
    from mtfrun.configuration.files import GinHeader
    from mtfrun.experiment.runs.run import Run

_importing = threading.Lock()


def load(
    model_dir: str | os.PathLike[str] | None,
    *,
    checkpoint: int | str | None = None,
    mesh: str | None = None,
    layout: str | None = None,
    gin_files: str | Sequence[str] = (),
    gin_params: Sequence[str] = (),
    gin_search_paths: Sequence[str] = (),
    gin_allow_imports: Sequence[str] = (),
    adapters: Mapping[str, str | os.PathLike[str]] | Sequence[str] = (),
    **bindings: Any,
) -> Run:
    """Returns a trained run: its model with the values of a checkpoint, and its data.

        run = mtfrun.load("/tmp/run", mesh="data:2,model:2", USE_AVERAGES=False)

    The configuration is read from the directory, unless `gin_files` names another one. Several runs
    may be loaded in one process. A CPU is divided into the devices of the first mesh: load the run
    with the largest one first.

    Args:
      model_dir: the directory of the run, also one that `mtfrun import` has made; None for a model
        of `gin_files` that begins with the checkpoint INIT_CHECKPOINT.
      checkpoint: a step; "best" for the one that `CheckpointOptions.best_metric` has chosen; None
        for the newest.
      mesh: the axes of the devices, such as "data:2,model:2"; None for the configuration's.
      layout: rules such as "batch:data;heads:model"; None for the configuration's.
      gin_files: names of gin files, in the place of the configuration in the directory.
      gin_params: bindings as gin writes them, as for parameters: "FeedForward.d_ff = 512".
      gin_search_paths: directories in which gin files are searched for.
      gin_allow_imports: modules that the configuration in the directory may use besides mtfrun's.
      adapters: runs of adapters of this model by a name, or names of those in `adapters` in the
        directory; see `Run.adapters`.
      **bindings: values of macros. A text that begins with @ or % is a reference.

    Raises:
      InputError: an invalid setting or a missing checkpoint, in one line.
    """
    directory = None if model_dir is None else path_of(model_dir, "model_dir")
    check_checkpoint(checkpoint)
    named = _check_arguments(gin_files, gin_params, gin_search_paths, mesh, layout)
    modules = names_of(gin_allow_imports, "gin_allow_imports", "my_models")
    run_module, opening = _import_runs()
    settings = opening.Settings.of_arguments(**named, bindings=bindings, allowed_imports=modules)
    named_adapters = _adapters(adapters)
    run: Run = run_module.load(directory, settings, checkpoint, named_adapters)
    return run


def train(
    gin_files: str | Sequence[str],
    model_dir: str | os.PathLike[str],
    *,
    mesh: str | None = None,
    layout: str | None = None,
    gin_params: Sequence[str] = (),
    gin_search_paths: Sequence[str] = (),
    restart: bool = False,
    accept_changes: bool = False,
    profile: bool = False,
    **bindings: Any,
) -> Run:
    """Trains as `mtfrun train` does, and returns the run with its newest checkpoint.

        run = mtfrun.train("runs/quickstart.gin", model_dir="/tmp/run", TRAIN_STEPS=100)

    It resumes from the newest checkpoint in the directory, which is locked and gets the same files.
    Ctrl-C and SIGTERM take effect after the current steps are saved. Further arguments are as for
    `load`. InputError also if the directory is in use, or training fails.

    Args:
      gin_files: a name of a gin file, or several, of which later ones override earlier ones.
      restart: begin at step 0; existing checkpoints are moved to checkpoints.1.
      accept_changes: resume although data, configuration or code have changed.
      profile: record a trace of some steps in `model_dir`.
    """
    directory = path_of(model_dir, "model_dir")
    check_switches(restart=restart, accept_changes=accept_changes, profile=profile)
    named = _check_arguments(gin_files, gin_params, gin_search_paths, mesh, layout)
    run_module, opening = _import_runs()
    settings = opening.Settings.of_arguments(**named, bindings=bindings)
    choices = run_module.TrainChoices(restart, accept_changes, profile)
    run: Run = run_module.train(directory, settings, choices)
    return run


def configs() -> dict[str, GinHeader]:
    """Returns the header of every shipped gin file by the file's name.

    >>> configs()["runs/quickstart.gin"].command
    'mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run'
    """
    from mtfrun.configuration.files import shipped_headers  # noqa: PLC0415 - takes milliseconds

    return shipped_headers()


def _adapters(adapters: object) -> dict[str, str]:
    if isinstance(adapters, Mapping):
        return {str(name): path_of(path, f"adapters[{name!r}]") for name, path in adapters.items()}
    return {name: name for name in names_of(adapters, "adapters", "formal")}


def _check_arguments(
    gin_files: object, gin_params: object, search_paths: object, mesh: object, layout: object
) -> dict[str, Any]:
    check_optional_text(mesh, "mesh", "data:2,model:2")
    check_optional_text(layout, "layout", "batch:data")
    return {
        "files": paths_of(gin_files, "gin_files"),
        "params": names_of(gin_params, "gin_params", "FeedForward.d_ff = 512"),
        "search_paths": paths_of(search_paths, "gin_search_paths"),
        "mesh": mesh,
        "layout": layout,
    }


def _import_runs() -> tuple[ModuleType, ModuleType]:
    """These modules take seconds to import."""
    from mtfrun.display.tensorflow_import import import_tensorflow  # noqa: PLC0415 - takes milliseconds

    with _importing:
        quiet = import_tensorflow() if "tensorflow" not in sys.modules else contextlib.nullcontext()
        with quiet:
            from mtfrun.experiment.runs import opening, run  # noqa: PLC0415 - imports TensorFlow

        return run, opening
