"""Names and shapes of the features of a batch, their validation, and their padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data.errors import DataError

INPUTS = "inputs"
TARGETS = "targets"
OUTER_BATCH = "outer_batch"


def ids_shape(length: int) -> mtf.Shape:
    return mtf.Shape([mtf.Dimension("length", length)])


def packed_features(length: int, name: str = TARGETS) -> dict[str, mtf.Shape]:
    """Returns the shapes {length} of rows that hold several texts, by feature.

    `name` has ids, 0 for padding, which has no loss; `{name}_segmentation` the number of each id's
    text in the row, from 1, 0 for padding; `{name}_position` the position in its text, from 0.
    """
    names = (name, f"{name}_segmentation", f"{name}_position")
    return dict.fromkeys(names, ids_shape(length))


def split_batch(shape: mtf.Shape, outer_batch: int) -> mtf.Shape:
    """Returns {outer_batch, batch, ...} for {batch, ...}; the same shape for 1."""
    if outer_batch == 1:
        return shape
    batch, *row_dims = shape
    if outer_batch < 1 or batch.size % outer_batch:
        raise DataError(
            f"an outer batch of {outer_batch} does not divide {batch.name}:{batch.size}: "
            "take a divisor of the batch size"
        )
    inner = mtf.Dimension(batch.name, batch.size // outer_batch)
    return mtf.Shape([mtf.Dimension(OUTER_BATCH, outer_batch), inner, *row_dims])


def shapes_of_rows(
    batch: Mapping[str, np.ndarray], shapes: Mapping[str, mtf.Shape]
) -> dict[str, mtf.Shape]:
    """Returns the shapes of a batch that may lack features of `shapes` and have shorter rows."""
    shorter = {}
    for name, values in batch.items():
        shape = shapes.get(name)
        largest = () if shape is None else tuple(shape.to_integer_list)
        fits = len(largest) == values.ndim and all(
            size <= limit for size, limit in zip(values.shape, largest, strict=True)
        )
        if shape is None or not fits:
            declared = "none" if shape is None else shape.to_string
            raise DataError(
                f'feature "{name}" of an evaluation has sizes {list(values.shape)}; the shape of '
                f"training's batches, which is the largest, is {declared}"
            )
        shorter[name] = mtf.Shape(
            [mtf.Dimension(dim.name, size) for dim, size in zip(shape, values.shape, strict=True)]
        )
    return shorter


def validate_batch(batch: Mapping[str, np.ndarray], shapes: Mapping[str, mtf.Shape]) -> None:
    """Raises DataError unless `batch` has exactly these features, integers of these shapes."""
    if set(batch) != set(shapes):
        missing = ", ".join(sorted(set(shapes) - set(batch))) or "none"
        surplus = ", ".join(sorted(set(batch) - set(shapes))) or "none"
        raise DataError(f"a batch has the wrong features; missing: {missing}; surplus: {surplus}")
    for name, shape in shapes.items():
        value = batch[name]
        if list(value.shape) != shape.to_integer_list:
            raise DataError(
                f'feature "{name}" has sizes {list(value.shape)}, not {shape.to_string}'
            )
        if value.dtype not in (np.int32, np.uint8):
            raise DataError(f'feature "{name}" is {value.dtype} where int32 or uint8 is expected')


class Padding(NamedTuple):
    """How many positions of batches of texts are `empty`, of how many."""

    empty: int
    positions: int


def padding_of(batch: Mapping[str, np.ndarray]) -> Padding:
    """Returns the positions of inputs and targets; no positions for batches without text."""
    empty = positions = 0
    for name in (INPUTS, TARGETS):
        ids = batch.get(name)
        if ids is None or ids.ndim != 2:  # a class is not text
            continue
        empty += ids.size - int(np.count_nonzero(find_tokens(batch, name)))
        positions += ids.size
    return Padding(empty, positions)


def find_tokens(features: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns which positions of a feature of ids hold a token, bool of its shape.

    Segments say so if there are any. Else an id of 0 is padding, and -1 in rows that have it. A
    masked language model has a target for some inputs only: its inputs say where padding is.

    Examples:
      >>> batch = {"inputs": np.array([[5, 9, 1, 0]]), "targets": np.array([[0, 7, 0, 0]])}
      >>> find_tokens(batch, "targets").tolist()
      [[True, True, True, False]]
    """
    segmentation = features.get(f"{name}_segmentation")
    if segmentation is not None:
        return np.asarray(segmentation != 0)
    ids = features[name]
    is_id = np.asarray(ids != (-1 if (ids == -1).any() else 0))
    inputs = features.get(INPUTS)
    has_gaps = bool((~is_id[..., :-1] & is_id[..., 1:]).any())
    if name == TARGETS and has_gaps and inputs is not None and inputs.shape == ids.shape:
        return np.asarray(inputs != 0)
    return is_id
