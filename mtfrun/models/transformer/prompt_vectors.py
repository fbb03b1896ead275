"""Vectors that a model reads before the vectors of every row: a learned prompt."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf


class PromptVectors(mtf.Module):
    """Vectors {prompt_length, d_model} before those of every row; none until `learn` is called."""

    vectors: mtf.Variable | None = None

    def learn(self, like: mtf.Variable, length: int, stddev: float) -> None:
        """Makes the vectors, of the width of `like` {..., d_model}."""
        shape = [mtf.Dimension("prompt_length", length), like.shape[-1]]
        initializer = mtf.initializers.RandomNormal(stddev)
        self.vectors = mtf.Variable(like.mesh, shape, initializer, reduced_dims=())

    @property
    def length(self) -> int:
        return 0 if self.vectors is None else self.vectors.shape[0].size

    def for_rows(self, batch: mtf.ShapeLike, dtype: tf.DType) -> mtf.Tensor:
        """Returns the vectors {batch..., length, d_model} of rows without a text."""
        assert self.vectors is not None
        vectors = mtf.rename_dimension(self.vectors, self.vectors.shape[0].name, "length")
        return mtf.broadcast(
            mtf.cast(vectors, dtype), [*mtf.convert_to_shape(batch), *vectors.shape]
        )

    def before(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., length, d_model}, longer by the prompt, for x of such a shape."""
        if self.vectors is None:
            return x
        return mtf.concat([self.for_rows(x.shape.dims[:-2], x.dtype), x], "length")

    def before_ids(self, ids: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {..., length} after those of the prompt, which are not padding."""
        return self._before_numbers(ids, 1)

    def before_segments(self, segments: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the numbers of documents after -1 for the prompt, which all see."""
        return None if segments is None else self._before_numbers(segments, -1)

    def before_positions(self, positions: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the positions {..., length} in texts that begin with the prompt."""
        if positions is None or self.vectors is None:
            return positions
        shape = positions.shape.resize_dimension("length", self.length)
        first = mtf.range(positions.mesh, mtf.Dimension("length", self.length))
        return mtf.concat([mtf.broadcast(first, shape), positions + self.length], "length")

    def after(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the part of {..., length, ...} that belongs to the text."""
        if self.vectors is None:
            return x
        size = x.shape.get_dim_by_name("length").size - self.length
        return mtf.slice(x, self.length, size, "length")

    def _before_numbers(self, ids: mtf.Tensor, number: int) -> mtf.Tensor:
        if self.vectors is None:
            return ids
        shape = ids.shape.resize_dimension("length", self.length)
        return mtf.concat([mtf.constant(ids.mesh, number, shape, ids.dtype), ids], "length")
