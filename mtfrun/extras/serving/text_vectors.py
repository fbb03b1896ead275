"""Vectors of texts: means of a model's last vectors over their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.data import PromptFormat, PromptRow, pad_rows
from mtfrun.data.prompts import bucket
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import require, split_into_batches
from mtfrun.models import TextModel


class TextVectors:
    """Computes the vectors of rows of prompts, in batches.

    A vector is the mean over the tokens of the model's last vectors, before the softmax, divided by
    its norm. Language models are not trained for it: similarity of texts is rough.
    """

    def __init__(self, experiment: Experiment, batch_size: int, prompt_format: PromptFormat):
        self._experiment = experiment
        self._model = require(experiment.model, TextModel, "vectors", "use a model of text")
        self._batch = mtf.Dimension("batch", experiment.rows_for(batch_size))
        self._format = prompt_format
        self._program = mtf.function(self._means)

    def __call__(self, rows: Sequence[PromptRow]) -> list[np.ndarray]:
        """Returns float32 [d_model] for every row; NonFiniteError for NaN.

        InputError if the model has no vectors of texts.
        """
        longest = self._format.max_lengths[self._format.feature]
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(bucket(len(row.ids), longest), []).append(index)
        vectors: dict[int, np.ndarray] = {}
        for length, indices in by_length.items():
            for batch in split_into_batches(indices, self._batch.size):
                ids = [rows[index].ids for index in batch]
                vectors.update(zip(batch, self._compute(ids, length), strict=False))
        return [vectors[index] for index in range(len(rows))]

    def _compute(self, rows: list[np.ndarray], length: int) -> np.ndarray:
        mesh, padding = self._experiment.mesh, self._format.padding
        ids = pad_rows(rows, self._batch.size, length, padding)
        sizes = np.ones([self._batch.size], np.int32)
        sizes[: len(rows)] = [max(1, len(row)) for row in rows]
        means = mtf.to_numpy(
            self._program(
                mtf.import_tf_tensor(mesh, ids, [self._batch, ("length", length)]),
                mtf.import_tf_tensor(mesh, sizes, [self._batch]),
            )
        )
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
