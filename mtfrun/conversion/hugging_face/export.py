"""Folders of Hugging Face made of runs."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.hugging_face.folder import CONFIG, INDEX
from mtfrun.conversion.hugging_face.known_families import family_of
from mtfrun.conversion.hugging_face.origin import Origin
from mtfrun.conversion.hugging_face.safetensors_file import DTYPES
from mtfrun.conversion.hugging_face.settings import Settings
from mtfrun.conversion.hugging_face.shards import MAX_SHARD_BYTES, shards_by_size, write_shards
from mtfrun.conversion.hugging_face.tensor_table import TensorTable


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
    names = frozenset(origin.dtypes) - set(origin.copies)
    settings = Settings(json.loads(origin.files[CONFIG]), CONFIG, names)
    table = family_of(settings).table(settings)
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
    try:
        tensors = table.to_theirs(values)
    except KeyError as error:
        raise ConversionError(
            f"the model has no variable {error}: it is not the one of {CONFIG}; its configuration "
            "has changed since it was imported"
        ) from error
    for name, original in origin.copies.items():
        tensors[name] = tensors[original]
    tensors = {
        name: value.astype(DTYPES[origin.dtypes.get(name, "F32")])
        for name, value in tensors.items()
    }
    return {**tensors, **origin.kept}
