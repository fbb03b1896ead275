"""Infeed of batches, from a dataset's iterator to a mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import split_batch, validate_batch
from mtfrun.data.reading import reading

STEPS = "steps"


class Infeed:
    """Lays out the next batches on a mesh, those of several steps at a time.

    It does not prefetch: the iterator's position is just behind the batches that it has returned,
    hence `tf.train.Checkpoint(iterator=infeed.iterator)` is exact. The dataset prefetches, which is
    part of the iterator's state.

    Args:
      iterator: over dicts of integer tensors, int32 or uint8, whose first dimension is the batch,
        e.g. `iter(data.train(batch, seed=0))`.
      mesh: where the batches go.
      shapes: the named shape of each feature, e.g. `language_model_shapes(batch, length)`.
      outer_batch: number of parts into which the batch is split; above 1 features are {outer_batch,
        batch, ...}, for layouts that split a batch over two mesh axes.
      source: of the batches, for messages about data that cannot be read.
    """

    def __init__(
        self,
        iterator: Iterator[Mapping[str, tf.Tensor]],
        mesh: mtf.Mesh,
        shapes: Mapping[str, mtf.Shape],
        outer_batch: int = 1,
        source: object = "the data",
    ):
        self.iterator = iterator
        self._mesh = mesh
        self._source = source
        self._shapes = dict(shapes)
        self._shapes_out = {
            name: split_batch(shape, outer_batch) if outer_batch > 1 else shape
            for name, shape in self._shapes.items()
        }

    def next(self, steps: int, capacity: int | None = None) -> dict[str, mtf.Tensor] | None:
        """Returns the features {steps, [outer_batch,] batch, ...} of the next batches.

        None at the end of the data.

        If fewer than `steps` are left, or `capacity` is larger than `steps`, batches of zeros
        (padding, loss weight 0) fill up the `capacity` steps, so that the shape, and with it the
        compiled step, is always the same.
        """
        capacity = steps if capacity is None else capacity
        if steps < 1:
            raise DataError(f"Infeed: steps must be at least 1, not {steps}")
        if capacity < steps:
            raise DataError(f"Infeed: capacity {capacity} is too small for {steps} steps")
        batches = []
        for _ in range(steps):
            with reading(self._source):
                batch = next(self.iterator, None)
            if batch is None:
                break
            arrays = {name: value.numpy() for name, value in batch.items()}
            validate_batch(arrays, self._shapes)
            batches.append(arrays)
        return self._stacked(batches, capacity) if batches else None

    def _stacked(self, batches: list[dict[str, np.ndarray]], steps: int) -> dict[str, mtf.Tensor]:
        tensors = {}
        for name, shape in self._shapes_out.items():
            stacked_shape = mtf.Shape([mtf.Dimension(STEPS, steps)]) + shape
            stacked = np.zeros(stacked_shape.to_integer_list, batches[0][name].dtype)
            sizes = shape.to_integer_list
            stacked[: len(batches)] = [batch[name].reshape(sizes) for batch in batches]
            tensors[name] = mtf.import_tf_tensor(self._mesh, stacked, stacked_shape)
        return tensors
