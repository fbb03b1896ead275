"""Models of other programs: how they are read, and the runs that are made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.entry_points import entry_points, load_entry_points
from mtfrun.configuration.run_files import CONFIG
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import is_directory, is_regular
from mtfrun.experiment.runs.opening import ROOTS, build_training
from mtfrun.files.errors import is_system_error, reason
from mtfrun.rundir import RunDirectory, run_versions
from mtfrun.rundir.copied_files import (
    IMPORTED_CONFIG,
    ORIGIN_FOLDER,
    ORIGIN_RECORD,
    keep_origin,
    write_run_files,
)
from mtfrun.rundir.run_directory import CHECKPOINTS


class ConversionError(InputError):
    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model, or a whole run, of another program.

    Attributes:
      config: returns config.gin's text; called with the run's directory, where `files` will be.
      values: returns the variables' values by checkpoint path; called with the variables by path:
        "model/embedding/table", "optimizer/embedding/table/vr", "averages/...", "step". All values
        of the model are needed; omitted slots start with 0. None without a checkpoint.
      files: contents by their name in the directory, "tokenizer/spiece.model".
      record: JSON values for import.json, with which an export returns the same bytes.
      metadata: further entries of the checkpoint's manifest.
      base: the run whose model an imported adapter is for; None for a model.
      notes: lines for the user about what was imported or left out.
    """

    config: Callable[[pathlib.Path], str]
    values: Callable[[Mapping[str, mtf.Variable]], Mapping[str, np.ndarray]] | None
    step: int = 0
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    base: pathlib.Path | None = None
    notes: Sequence[str] = ()


class Importer(Protocol):
    """Reads models of another program; entry points of the group "mtfrun.importers" name classes.

    They are called without arguments, and asked in order, mtfrun's last. Importing the module of a
    class must not import TensorFlow: every command starts with it.

    Attributes:
      description: the files that it reads, in one line, for the help text and for errors.
      needs_base: whether a model is an adapter, for the model of the run that --base names.
    """

    description: str
    needs_base: bool

    def recognises(self, path: pathlib.Path) -> bool:
        """Returns whether `read` is for these files; must not read much."""

    def read(
        self,
        path: pathlib.Path,
        *,
        partial: bool = False,
        search_paths: Sequence[str] = (),
        base: RunDirectory | None = None,
    ) -> Imported:
        """Raises ConversionError for files that it cannot read.

        Args:
          path: a folder or a file, untrusted.
          partial: whether to leave out, with a note, settings that are not supported.
          search_paths: further directories of files that other files include.
          base: the run of --base; None unless `needs_base`.
        """


# Matches names of models on the Hub: "google/flan-t5-small".
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

IMPORTERS = "mtfrun.importers"
"""The group of entry points that name an `Importer`."""


def importer_for(path: pathlib.Path) -> Importer:
    """Raises ConversionError if no installed importer recognises the files."""
    run = path if is_directory(path) else path.parent
    run = run.parent if run.name == CHECKPOINTS else run
    if is_directory(run / CHECKPOINTS) and is_regular(run / CONFIG):
        raise ConversionError(f"--from={path} is a run of mtfrun: use --model_dir={run}")
    # Before anything else: the path of a checkpoint is the beginning of its files' names.
    classes = load_entry_points(IMPORTERS)
    by_distribution = sorted(classes, key=lambda x: entry_points(IMPORTERS)[x][0] == "mtfrun")
    importers: list[Importer] = [classes[name]() for name in by_distribution]
    for importer in importers:
        if importer.recognises(path):
            return importer
    try:
        path.stat()
    except (OSError, ValueError) as error:
        remedy = "name a folder with a model"
        if _HUB_NAME.fullmatch(str(path)):
            remedy = (
                "a folder is needed, for nothing is downloaded: if this is a model of the Hugging "
                f"Face Hub, `hf download {path} --local-dir {path.name}` makes one (pip install "
                f"huggingface_hub), and --from={path.name} names it"
            )
        raise ConversionError(f"--from={path}: {reason(error)}; {remedy}") from error
    descriptions = "; ".join(importer.description for importer in importers)
    raise ConversionError(
        f"--from={path}: no importer recognises it; those installed read {descriptions or 'none'}"
    )


# From a gin file to its training variables by checkpoint path, without storage, and the names of
# its vocabulary files.
Build = Callable[[pathlib.Path], tuple[Mapping[str, mtf.Variable], Sequence[str]]]


def build_variables(config_path: pathlib.Path) -> tuple[Mapping[str, mtf.Variable], Sequence[str]]:
    bindings = config.parse([str(config_path)], [], roots=ROOTS, allowed_imports=[])
    with mtf.planned_meshes():
        training = build_training(bindings)
    return training.state.named_variables(), training.experiment.data.vocabulary_files()


def write_run(imported: Imported, model_dir: str, build: Build = build_variables) -> RunDirectory:
    """Makes `model_dir` (new or empty) whole or not at all; `build` uses a directory beside it."""
    run = RunDirectory(model_dir)
    target = pathlib.Path(run.path)
    check_new(target, "--model_dir")
    with replaced_directory(target) as directory:
        _write(imported, directory, target, build)
    return run


def check_new(target: pathlib.Path, flag: str) -> None:
    try:
        names = os.listdir(target)  # noqa: PTH208 - the errors of all systems
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConversionError(f"{flag}={target}: {error.strerror}; name a new directory") from error
    if names:
        raise ConversionError(f"{flag}={target} is not empty: name a new directory")


@contextlib.contextmanager
def replaced_directory(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new directory that replaces `target` (absent or empty) unless there is an error."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(target)
    except (OSError, tf.errors.OpError) as error:
        if not is_system_error(error):
            raise
        raise ConversionError(
            f"cannot write {target}: {reason(error)}; free space or name a place you may write to"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.exists():
            for parent in missing:
                with contextlib.suppress(OSError):
                    parent.rmdir()


def _write(imported: Imported, directory: pathlib.Path, target: pathlib.Path, build: Build) -> None:
    for name, content in imported.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    run = RunDirectory(directory)
    # Files of the configuration are where it says only once the directory has its name.
    run.write_config(imported.config(directory))
    config_path = directory / "config.gin"
    try:
        variables, files = build(config_path)
    except InputError as error:
        # The path will not exist after the error.
        why = str(error).replace(str(config_path), "config.gin")
        source = imported.record.get("from", "the import")
        raise ConversionError(f"{source} makes no valid configuration: {why}") from error
    if imported.values is not None:
        _save(run, imported, dict(imported.values(variables)), variables)
    text = imported.config(target)
    run.write_config(text)
    write_run_files(directory, files, place=target)
    if imported.base is not None:
        keep_origin(imported.base, directory)
        return
    (directory / ORIGIN_FOLDER).mkdir(exist_ok=True)
    (directory / ORIGIN_FOLDER / IMPORTED_CONFIG).write_text(text, encoding="utf-8")
    record = json.dumps(dict(imported.record), indent=1) + "\n"
    (directory / ORIGIN_RECORD).write_text(record, encoding="utf-8")


def _save(
    run: RunDirectory,
    imported: Imported,
    values: dict[str, np.ndarray],
    variables: Mapping[str, mtf.Variable],
) -> None:
    _check_values(values, variables)
    values["step"] = np.asarray(imported.step, np.int64)
    metadata = {"data_position": 0, "seed": 0, "versions": run_versions(), **imported.metadata}
    stored = {}
    for path, spec in variables.items():
        value = values.get(path, np.zeros(spec.shape.to_integer_list))
        stored[path] = tf.Variable(np.asarray(value).astype(spec.dtype.as_numpy_dtype))
    run.checkpoints().save(imported.step, stored, metadata=metadata)


def _check_values(values: Mapping[str, np.ndarray], variables: Mapping[str, mtf.Variable]) -> None:
    missing = [path for path in variables if path.startswith("model/") and path not in values]
    surplus = [path for path in values if path not in variables]
    if missing or surplus:
        what = f"no value for {missing[0]}" if missing else f"no variable for {surplus[0]}"
        raise ConversionError(f"the configuration does not fit the values: {what}")
    for path, value in values.items():
        sizes = variables[path].shape.to_integer_list
        if list(value.shape) != sizes:
            raise ConversionError(f"{path} has sizes {list(value.shape)}, not {sizes}")
