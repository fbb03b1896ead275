from __future__ import annotations

import dataclasses
import functools
import pathlib
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError, Imported
from mtfrun.extras.huggingface.families.registry import family_of
from mtfrun.extras.huggingface.family import Family, Processor
from mtfrun.extras.huggingface.origin import origin_of
from mtfrun.extras.huggingface.safetensors_file import FLOATS, INDEX, SINGLE
from mtfrun.extras.huggingface.tables.folder import CONFIG, Folder, is_unreadable, unreadable_error
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable

_MODEL = "model/"
# Settings that make transformers run code of the folder.
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")


def is_folder(path: pathlib.Path) -> bool:
    """Returns whether a path looks like a folder of transformers, or a file of it."""
    folder = Folder(path)
    if is_unreadable(path) or any(folder.has(name) for name in (CONFIG, SINGLE, INDEX)):
        return True
    return any(next(path.glob(name), None) for name in ("*.gguf", "*.ggml", "pytorch_model*"))


def read_folder(path: pathlib.Path) -> Imported:
    """Reads a folder; tensors are read on demand."""
    if is_unreadable(path):
        raise unreadable_error(path)
    folder = Folder(path)
    if not folder.has(CONFIG):
        _ = folder.headers  # unreadable weights are the clearer error
    settings = Settings(folder.config, str(path / CONFIG), frozenset(folder.tensors))
    family = family_of(settings)
    copies = _copies(folder, family.ties)
    settings = dataclasses.replace(settings, tensors=frozenset(folder.tensors) - set(copies))
    family = family_of(settings)
    table, processors = family.table(), family.processors(folder)
    notes = [note for part in processors for note in part.notes] + [*family.notes]
    code = [name for name in _CODE if name in settings.values]
    if code:
        notes.append(f"{', '.join(code)} in {CONFIG}: no code of the folder is run")
    # First, since its errors name settings.
    config = functools.partial(_config, folder, family, processors)
    config(path)
    table.check_names(settings.tensors, path)
    for name in (name for row in table.rows for name in row.names):
        dtype = folder.tensors[name].dtype
        if dtype not in FLOATS:
            raise ConversionError(
                f"{path}: {name} has type {dtype}: convert it to one of {', '.join(FLOATS)} first"
            )
    origin = origin_of(folder, table, copies)
    return Imported(
        config,
        functools.partial(_values, folder, table),
        files=origin.run_files(),
        record=origin.record(),
        notes=notes,
    )


def _config(
    folder: Folder, family: Family, processors: Sequence[Processor], directory: pathlib.Path
) -> str:
    header = [
        *(f"{family.name}, imported from {folder.path}.", ""),
        f"Train on:  mtfrun train --gin_file={shlex.quote(str(directory / 'config.gin'))} \\",
        "               --gin_file=... --model_dir=...",
    ]
    file = GinFile(header)
    file.include("defaults.gin")
    file.macro("INIT_CHECKPOINT", str(directory), "where a new run of this file begins")
    family.write_gin(file)
    for processor in processors:
        processor.write_gin(file, directory)
    return file.text()


def _values(
    folder: Folder, table: TensorTable, variables: Mapping[str, mtf.Variable]
) -> dict[str, np.ndarray]:
    shapes = {
        path.removeprefix(_MODEL): tuple(variable.shape.to_integer_list)
        for path, variable in variables.items()
        if path.startswith(_MODEL)
    }
    values = table.to_ours(lambda name: folder.tensors[name].read(), shapes, folder.path)
    return {f"{_MODEL}{path}": value.astype(np.float32) for path, value in values.items()}


def _copies(folder: Folder, ties: Mapping[str, str]) -> dict[str, str]:
    tensors = folder.tensors
    return {
        name: original
        for name, original in ties.items()
        if name in tensors
        and original in tensors
        and tensors[name][1:3] == tensors[original][1:3]  # type and shape
        and tensors[name].read().tobytes() == tensors[original].read().tobytes()
    }
