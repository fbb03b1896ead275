"""Vectors of texts: means of a model's last vectors over their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.data import PromptRow, pad_rows
from mtfrun.data.prompts import bucket
from mtfrun.experiment import Decoding
from mtfrun.experiment.records import split_into_batches


class TextVectors:
    """Computes the vectors of rows of prompts, in batches.

    A vector is the mean over the tokens of the model's last vectors, before the softmax, divided by
    its norm. Language models are not trained for it: similarity of texts is rough.
    """

    def __init__(self, decoding: Decoding):
        self._experiment, self._model = decoding.experiment, decoding.model
        self._batch_size = self._experiment.rows_for(decoding.batch_size)
        self._format = decoding.prompt_format
        self._program = mtf.function(self._means)

    def __call__(self, rows: Sequence[PromptRow]) -> list[np.ndarray]:
        """Returns float32 [d_model] for every row; NonFiniteError for NaN.

        InputError if the model has no vectors of texts.
        """
        vectors: dict[int, np.ndarray] = {}
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        for batch in split_into_batches(order, self._batch_size):
            ids = [rows[index].ids for index in batch]
            vectors.update(zip(batch, self._compute(ids), strict=True))
        return [vectors[index] for index in range(len(rows))]

    def _compute(self, rows: list[np.ndarray]) -> np.ndarray:
        length = bucket(len(rows[-1]), self._format.max_lengths[self._format.feature])
        ids = pad_rows(rows, self._batch_size, length, self._format.padding)
        sizes = np.ones([self._batch_size], np.int32)
        sizes[: len(rows)] = [max(1, len(row)) for row in rows]
        mesh, batch = self._experiment.mesh, mtf.Dimension("batch", self._batch_size)
        means = mtf.to_numpy(
            self._program(
                mtf.import_tf_tensor(mesh, ids, [batch, ("length", length)]),
                mtf.import_tf_tensor(mesh, sizes, [batch]),
            )
        )[: len(rows)]
        self._experiment.require_finite(means, "vectors")
        norms = np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
        vectors: np.ndarray = means / norms
        return vectors

    def _means(self, ids: mtf.Tensor, sizes: mtf.Tensor) -> mtf.Tensor:
        """ids: {batch, length}, sizes: {batch}, the rows' numbers of tokens."""
        (length,) = ids.shape - sizes.shape
        inside = mtf.less(mtf.range(ids.mesh, length), sizes, output_shape=ids.shape)
        x = mtf.to_float(self._model.vectors(ids))
        total = mtf.reduce_sum(mtf.where(inside, x, 0.0, output_shape=x.shape), reduced_dim=length)
        return total / mtf.to_float(sizes)
