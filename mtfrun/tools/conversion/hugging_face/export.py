"""Folders of Hugging Face made of runs."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.hugging_face.folder import CONFIG, INDEX
from mtfrun.tools.conversion.hugging_face.known_families import family_of
from mtfrun.tools.conversion.hugging_face.origin import Origin
from mtfrun.tools.conversion.hugging_face.safetensors_file import DTYPES, FLOATS
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.shards import (
    MAX_SHARD_BYTES,
    shards_by_size,
    write_shards,
)
from mtfrun.tools.conversion.hugging_face.tensor_table import TensorTable
from mtfrun.untrusted import parse_json


def export_folder(
    directory: pathlib.Path,
    values: Mapping[str, np.ndarray],
    origin: Origin,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes the files of a model for transformers into a directory.

    Values that were imported and not changed have the bytes that they had.

    Args:
      directory: exists and is empty.
      values: of the model's variables, by path.
      origin: the configuration, the types, and further files.
      max_shard_bytes: the size of the largest file; None for the files of the origin, or if it has
        none, 50 GB.

    Raises:
      ConversionError: the model is not that of the configuration.
    """
    settings = Settings(parse_json(origin.files[CONFIG]), CONFIG, frozenset(origin.dtypes))
    family = family_of(settings)
    ties = family.ties(settings)
    if origin.copies.items() - ties.items():
        raise ConversionError(f"the copies of tensors are none of {CONFIG}: import the model again")
    settings = dataclasses.replace(settings, tensors=settings.tensors - set(origin.copies))
    table = family.table(settings)
    table.check_names(settings.tensors, "the run")
    tensors = _tensors(table, values, origin)
    reuse = max_shard_bytes is None and origin.keeps_files
    if reuse:
        shards = {file: {n: tensors[n] for n in names} for file, names in origin.shards.items()}
    else:
        shards = shards_by_size(tensors, max_shard_bytes or MAX_SHARD_BYTES)
    files = {name: content for name, content in origin.files.items() if name != INDEX or reuse}
    write_shards(directory, shards, origin.metadata)
    for name, content in files.items():
        (directory / name).write_bytes(content)  # also the index, if the files are the origin's


def _tensors(
    table: TensorTable, values: Mapping[str, np.ndarray], origin: Origin
) -> dict[str, np.ndarray]:
    """Returns all tensors of the folder by name, in the types of the origin."""
    tensors = table.to_theirs(values)
    for name, original in origin.copies.items():
        tensors[name] = tensors[original]
    dtypes = {name: DTYPES[dtype] for name, dtype in origin.dtypes.items()}
    if any(origin.dtypes[name] not in FLOATS for name in tensors):
        raise ConversionError("a tensor of the run is none of floats: import the model again")
    missing = set(dtypes) - set(tensors) - set(origin.kept)
    if missing:
        raise ConversionError(f"the run has no values of {min(missing)}: import the model again")
    tensors = {name: value.astype(dtypes[name]) for name, value in tensors.items()}
    return {**origin.kept, **tensors}
