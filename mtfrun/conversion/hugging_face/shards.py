"""The files over which the tensors of a model are spread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtfrun.conversion.hugging_face.folder import SINGLE


def shards_by_size(
    tensors: Mapping[str, np.ndarray], max_bytes: int
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the tensors of every file, in their order, as transformers spreads them.

    A file ends before the tensor with which it would hold more than `max_bytes`; a larger tensor
    has a file of its own. See `split_state_dict_into_shards_factory` in
    https://github.com/huggingface/huggingface_hub.

    Args:
      tensors: by name.
      max_bytes: of the tensors of a file.
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
