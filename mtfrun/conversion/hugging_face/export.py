"""Folders of Hugging Face made of runs."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.hugging_face.folder import CONFIG, INDEX, SINGLE
from mtfrun.conversion.hugging_face.known_families import family_of
from mtfrun.conversion.hugging_face.origin import Origin
from mtfrun.conversion.hugging_face.safetensors_file import DTYPES, write_file
from mtfrun.conversion.hugging_face.settings import Settings
from mtfrun.conversion.hugging_face.shards import shards_by_size
from mtfrun.conversion.hugging_face.tensor_table import TensorTable

MAX_SHARD_BYTES = 50 * 10**9
"""The size of the largest file, by default: that of transformers 5."""


def export_folder(
    directory: pathlib.Path,
    values: Mapping[str, np.ndarray],
    origin: Origin,
    max_shard_bytes: int | None = None,
) -> list[str]:
    """Writes the files of a model for transformers into a directory, and returns their names.

    Values that were imported and not changed have the bytes that they had.

    Args:
      directory: exists and is empty.
      values: of the model's variables, by path.
      origin: the configuration, the types, and further files.
      max_shard_bytes: the size of the largest file; None for the files of the origin, or if it has
        none, `MAX_SHARD_BYTES`.

    Raises:
      ConversionError: the model is not that of the configuration.
    """
    names = frozenset(origin.dtypes) - set(origin.copies)
    settings = Settings(json.loads(origin.files[CONFIG]), CONFIG, names)
    table = family_of(settings).table(settings)
    tensors = _tensors(table, values, origin)
    reuse = max_shard_bytes is None and bool(origin.shards)
    if reuse:
        shards = {file: {n: tensors[n] for n in names} for file, names in origin.shards.items()}
    else:
        shards = shards_by_size(tensors, max_shard_bytes or MAX_SHARD_BYTES)
    files = {name: content for name, content in origin.files.items() if name != INDEX or reuse}
    if list(shards) != [SINGLE] and INDEX not in files:
        files[INDEX] = _index(shards).encode()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    for name, shard in shards.items():
        write_file(directory / name, shard, origin.metadata)
    return sorted([*files, *shards])


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


def _index(shards: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Returns the text of the index of several files."""
    tensors = [value for shard in shards.values() for value in shard.values()]
    index = {
        "metadata": {
            "total_parameters": sum(value.size for value in tensors),
            "total_size": sum(value.nbytes for value in tensors),
        },
        "weight_map": {name: file for file, shard in shards.items() for name in shard},
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"
