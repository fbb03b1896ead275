"""The commands import and export."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from mtfrun import mtf
from mtfrun.cli.flags.inference import chosen_settings
from mtfrun.cli.gin_settings import settings_of
from mtfrun.cli.origin_of_run import origin_of_run
from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.experiment import Training
from mtfrun.experiment.runs.build import ROOTS, build
from mtfrun.experiment.runs.opening import opened, restored
from mtfrun.rundir import RunDirectory
from mtfrun.tools.conversion import (
    check_new,
    export_safetensors,
    export_tensorflow,
    importer_for,
    replaced_directory,
    values_of_run,
    write_run,
)
from mtfrun.tools.conversion.hugging_face import export_folder
from mtfrun.tools.conversion.saved_model import export_saved_model, served
from mtfrun.tools.planning import parse_size
from mtfrun.untrusted import escaped


@terminable()
def import_model(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Makes a run directory of what is at --from, and says what was not taken over."""
    source = pathlib.Path(os.path.expanduser(flags.source))
    importer = importer_for(source)
    imported = importer.read(source, partial=flags.partial, search_paths=flags.gin_search_paths)
    run = write_run(imported, flags.model_dir, _built)
    for note in imported.notes:
        progress.note(f"mtfrun: note: {escaped(note)}")
    print_lines(f"{run.path}: step {imported.step}, imported from {source}")
    return 0


@terminable()
def export_model(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Writes the model of a run to --to."""
    target = pathlib.Path(os.path.expanduser(flags.to))
    check_new(target, "--to")
    run = RunDirectory(flags.model_dir)
    run.require()
    with replaced_directory(target) as directory:
        _EXPORTS[flags.format](flags, run, directory)
    print_lines(f"{target}: {flags.format}")
    return 0


def _export_hugging_face(
    flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path
) -> None:
    origin = origin_of_run(run, flags.gin_allow_imports, weights_only=flags.weights_only)
    export_folder(directory, values_of_run(run, flags.checkpoint).values, origin, _max_bytes(flags))


def _export_saved_model(
    flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path
) -> None:
    built = opened(run, settings_of(flags), on_one_device=True)
    inference = built.experiment.inference.with_settings(chosen_settings(flags))
    step = restored(built, run, flags.checkpoint)
    offered = served(inference, tensorflow_text=flags.tensorflow_text)
    export_saved_model(directory, built.experiment, step, offered)


def _export_safetensors(
    flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path
) -> None:
    export_safetensors(directory, values_of_run(run, flags.checkpoint), _max_bytes(flags))


def _export_tensorflow(
    flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path
) -> None:
    export_tensorflow(directory, values_of_run(run, flags.checkpoint))


# By --format.
_EXPORTS: Mapping[str, Callable[[argparse.Namespace, RunDirectory, pathlib.Path], None]] = {
    "huggingface": _export_hugging_face,
    "saved_model": _export_saved_model,
    "safetensors": _export_safetensors,
    "tensorflow": _export_tensorflow,
}


def _max_bytes(flags: argparse.Namespace) -> int | None:
    """Returns --max_shard_size in bytes."""
    if flags.max_shard_size is None:
        return None
    return int(parse_size(flags.max_shard_size))


def _built(config_path: pathlib.Path) -> tuple[Mapping[str, mtf.Variable], Sequence[str]]:
    """Returns the variables of training with a configuration, and its vocabulary files.

    The variables are on planned devices.
    """
    bindings = config.parse([str(config_path)], [], roots=ROOTS, allowed_imports=[])
    with mtf.planned_meshes():
        experiment, evaluation = build()
        training: Training = config.configured(Training, experiment, evaluation)
    check_taken(bindings, config.operative_config_text())
    return training.state.named_variables(), experiment.data.vocabulary_files()
