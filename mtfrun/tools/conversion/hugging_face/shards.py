from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from mtfrun.tools.conversion.hugging_face.folder import INDEX, SINGLE
from mtfrun.tools.conversion.hugging_face.safetensors_file import write_file

MAX_SHARD_BYTES = 50 * 10**9
"""The size of the largest file, by default, as in transformers 5."""

Shards = Mapping[str, Mapping[str, np.ndarray]]


def shards_by_size(
    tensors: Mapping[str, np.ndarray], max_bytes: int
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the tensors of every file, in their order, as transformers spreads them.

    A file ends before it would exceed `max_bytes`; a larger tensor has a file alone. See
    `split_state_dict_into_shards_factory` in https://github.com/huggingface/huggingface_hub.
    """
    parts: list[dict[str, np.ndarray]] = []
    current: dict[str, np.ndarray] = {}
    size = 0
    for name, value in tensors.items():
        if value.nbytes > max_bytes:
            parts.append({name: value})
            continue
        if size + value.nbytes > max_bytes:
            parts.append(current)
            current, size = {}, 0
        current[name] = value
        size += value.nbytes
    if current:
        parts.append(current)
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    stem, _, suffix = SINGLE.rpartition(".")
    return {
        f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}": part
        for number, part in enumerate(parts, 1)
    }


def write_shards(directory: pathlib.Path, shards: Shards, metadata: Mapping[str, str]) -> None:
    """Writes files of tensors, and the index of several, in the form of transformers."""
    if list(shards) != [SINGLE]:
        (directory / INDEX).write_text(_index(shards), encoding="utf-8")
    for name, shard in shards.items():
        write_file(directory / name, shard, metadata)


def _index(shards: Shards) -> str:
    tensors = [value for shard in shards.values() for value in shard.values()]
    index = {
        "metadata": {
            "total_parameters": sum(value.size for value in tensors),
            "total_size": sum(value.nbytes for value in tensors),
        },
        "weight_map": {name: file for file, shard in shards.items() for name in shard},
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"
