"""What a run directory keeps of the folder that it was imported from."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.hugging_face.folder import (
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    PREPROCESSOR_CONFIG,
    Folder,
)
from mtfrun.conversion.hugging_face.processor import Processor
from mtfrun.conversion.hugging_face.safetensors_file import file_content, read_header
from mtfrun.conversion.hugging_face.tensor_table import TensorTable
from mtfrun.conversion.hugging_face.tokenizer import DIRECTORY
from mtfrun.conversion.run_writer import CONFIG as IMPORTED
from mtfrun.conversion.run_writer import ORIGIN, RECORD
from mtfrun.rundir import atomic_write

FORMAT = "huggingface"
"""The format in import.json."""

# Tensors without a meaning for the model.
_KEPT = "kept.safetensors"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The folder that a run was imported from.

    Attributes:
      shards: the types of its tensors by file and name, both in their order.
      metadata: texts in the headers of the files.
      copies: names of tensors that equal another one, by its name.
      files: contents by name: config.json, generation_config.json, a tokenizer.
      kept: tensors without a meaning for the model, by name.
      keeps_files: an export has the same files of weights, unless the user wants other sizes.
    """

    shards: Mapping[str, Mapping[str, str]]
    metadata: Mapping[str, str]
    copies: Mapping[str, str]
    files: Mapping[str, bytes]
    kept: Mapping[str, np.ndarray]
    keeps_files: bool = True

    @property
    def dtypes(self) -> dict[str, str]:
        """The types of all tensors, by name."""
        return {name: dtype for tensors in self.shards.values() for name, dtype in tensors.items()}


def origin_record(folder: Folder, copies: Mapping[str, str]) -> dict[str, Any]:
    """Returns the entries of import.json; for `copies` see `Origin`."""
    return {
        "format": FORMAT,
        "from": str(folder.path),
        "metadata": dict(folder.metadata),
        "copies": dict(copies),
        "shards": {
            name: {tensor: stored.dtype for tensor, stored in tensors.items()}
            for name, tensors in folder.shards.items()
        },
    }


def origin_files(folder: Folder, table: TensorTable, processor: Processor) -> dict[str, bytes]:
    """Returns the files that a run directory keeps of a folder, by their names in it."""
    files = {f"{DIRECTORY}/{name}": content for name, content in processor.files.items()}
    for name in (CONFIG, GENERATION_CONFIG, PREPROCESSOR_CONFIG, INDEX):
        if folder.has(name):
            files[f"{ORIGIN}/{name}"] = folder.bytes_of(name)
    kept = {name: t.read() for name, t in folder.tensors.items() if table.is_kept(name)}
    if kept:
        files[f"{ORIGIN}/{_KEPT}"] = file_content(kept, {})
    return files


def read_origin(directory: pathlib.Path) -> Origin | None:
    """Returns what a run directory keeps; None if it was not imported from such a folder.

    Raises:
      ConversionError: a file of it is damaged.
    """
    if not (directory / RECORD).exists():
        return None
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            return None
        files = {
            path.name: path.read_bytes()
            for place in (directory / ORIGIN, directory / DIRECTORY)
            if place.is_dir()
            for path in sorted(place.iterdir())
            if path.name not in (_KEPT, IMPORTED)
        }
        return Origin(
            record["shards"], record["metadata"], record["copies"], files, _kept(directory)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{directory / RECORD} is damaged: {error}; import again") from error


def keep_origin(source: str | None, directory: pathlib.Path) -> None:
    """Copies what a run keeps of its folder to a run that begins with its values.

    So a run that was trained further can be exported, also without the one that was imported.

    Args:
      source: the run directory, or another checkpoint, that a new run begins with; None for none.
      directory: of the new run.
    """
    origin = pathlib.Path(os.path.expanduser(source or ""))
    record = origin / RECORD
    if not source or not record.is_file() or (directory / RECORD).exists():
        return
    for name in (ORIGIN, DIRECTORY):
        if (origin / name).is_dir():
            shutil.copytree(origin / name, directory / name, dirs_exist_ok=True)
    # Last: an export takes the files for whole if there is a record.
    atomic_write(directory / RECORD, record.read_text(encoding="utf-8"))


def _kept(directory: pathlib.Path) -> dict[str, np.ndarray]:
    path = directory / ORIGIN / _KEPT
    if not path.exists():
        return {}
    with path.open("rb") as file:
        return {name: stored.read() for name, stored in read_header(path, file).tensors.items()}
