"""Which rows of a larger vocabulary's table come from which old ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.data import Vocabulary
from mtfrun.errors import InputError
from mtfrun.extras.grow.dimension_map import DimensionMap, placed


def is_extended(old: Vocabulary, new: Vocabulary) -> bool:
    """Returns whether all old ids mean the same in the new vocabulary."""
    return list(new.token_bytes[: old.size]) == list(old.token_bytes) and _specials(
        old
    ) == _specials(new)


def map_vocabulary(old: Vocabulary, new: Vocabulary, rows: int) -> DimensionMap:
    """Returns the map to tables of so many rows, of which those after the ids are padding.

    A new id has the row of the old id of the same bytes, or the mean of the rows of the ids that
    encode its bytes (Gee et al. 2022, "Fast vocabulary transfer", arXiv:2402.09977), or the mean of
    all rows.

    Raises:
      InputError: the new vocabulary has fewer ids.
    """
    if new.size < old.size:
        raise InputError(
            f"the vocabulary would shrink from {old.size} to {new.size} ids: a model can only grow"
        )
    source = np.full(rows, -1)
    everything = range(old.size)
    if is_extended(old, new):
        source[: old.size] = everything
        means = dict.fromkeys(range(old.size, new.size), everything)
        return placed(source, fill="initial", new="new mean", means=means)
    places = {text: number for number, text in enumerate(old.token_bytes) if text}
    special = dict(zip(_specials(new), _specials(old), strict=True))
    encoded: dict[int, Sequence[int]] = {}
    for number, text in enumerate(new.token_bytes):
        same = places.get(text) if text else special.get(number)
        if same is not None and same >= 0:
            source[number] = same
        else:
            encoded[number] = old.encode(text).tolist() or everything if text else everything
    return placed(source, fill="initial", new="by their texts", means=encoded)


def _specials(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.pad_id, vocabulary.end_id, vocabulary.unknown_id]
