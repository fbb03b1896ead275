"""Embeddings of ids and of positions."""

from __future__ import annotations

import abc

import numpy as np

from mtfrun import mtf
from mtfrun.errors.checks import INDEX, check_range
from mtfrun.layers.dense import Dense
from mtfrun.layers.layer import Call

_LONGEST_WAVE = 10000.0


class TokenVectors(mtf.Module, abc.ABC):
    """Vectors of the ids of a vocabulary."""

    @abc.abstractmethod
    def __call__(self, ids: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the vectors {..., d_model} of int ids {...}; zeros for ids out of range."""

    @abc.abstractmethod
    def vectors_like(self) -> mtf.Variable:
        """Returns a table {..., d_model} of vectors in the space of the ids' vectors."""


class Embedding(TokenVectors):
    """One trained vector for each id of a vocabulary."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocab: mtf.Dimension,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        initializer: mtf.Initializer = mtf.initializers.RandomNormal(1.0),
        logits_scale: float | None = None,
        factor: float | None = None,
        d_embedding: mtf.Dimension | None = None,
    ) -> None:
        """Makes the spec of the table {vocab, d_model}; for `logits_scale` see `logits`.

        `factor`: scales the vectors of ids, also an attribute, or None. With `d_embedding` the
        table is {vocab, d_embedding}, and a "projection" without bias maps its rows to d_model;
        Lan et al. 2019, arXiv:1909.11942, section 3.1.
        """
        super().__init__()
        self.factor, self._logits_scale = factor, logits_scale
        self._vocab, self._dtypes = vocab, dtypes
        self.columns = d_model if d_embedding is None else d_embedding
        self.table = mtf.Variable(
            mesh, [vocab, self.columns], initializer, dtypes.master, reduced_dims=()
        )
        self.projection = None
        if d_embedding is not None:
            self.projection = Dense(mesh, [d_embedding], [d_model], dtypes, use_bias=False)

    @property
    def logits_scale(self) -> float:
        """The factor of `logits`: with base sizes the base size's factor over the growth.

        A tied table is initialised and trained as an embedding, and so the rule of the softmax is a
        factor here; Yang et al. 2022, arXiv:2203.03466, table 8.
        """
        growth = self.table.widths.growth([self.columns])
        scale = self._logits_scale
        return ((self.columns.size / growth) ** -0.5 if scale is None else scale) / growth

    def __call__(self, ids: mtf.Tensor, call: Call) -> mtf.Tensor:
        # Cast after the gather: a few rows, not the whole table.
        outer = self.table.shape - [self._vocab, self.columns]  # of `mtf.stack_variables`
        shape = [*outer, *ids.shape, self.columns]
        vectors = mtf.gather(self.table, ids, self._vocab, output_shape=shape)
        vectors = mtf.cast(vectors, self._dtypes.activation)
        vectors = vectors if self.factor is None else vectors * self.factor
        return vectors if self.projection is None else self.projection(vectors, call)

    def vectors_like(self) -> mtf.Variable:
        return self.table if self.projection is None else self.projection.kernel

    def logits(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns logits {..., vocab} of x: {..., columns}: the table tied to the softmax.

        The columns are d_model, or d_embedding. x is scaled, by default by columns ** -0.5, so that
        a table of unit variance gives logits of unit variance; Raffel et al. 2020,
        arXiv:1910.10683.
        """
        dtype = self._dtypes.activation
        x = mtf.cast(x, dtype) * self.logits_scale
        output_shape = [*(x.shape - self.columns), self._vocab]
        return mtf.einsum([x, mtf.cast(self.table, dtype)], output_shape=output_shape)


class Positions(mtf.Module, abc.ABC):
    """Vectors of positions below `max_length`, which are added to the vectors of ids.

    An id `skipped_id` gets no vector of its position.
    """

    skipped_id: int | None = None

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    @abc.abstractmethod
    def __call__(self, positions: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the vectors {..., d_model} of int positions {...}."""

    @abc.abstractmethod
    def first(self, length: mtf.Dimension) -> mtf.Tensor:
        """Returns the vectors {length, d_model} of positions 0, 1, ...."""

    def check_length(self, length: mtf.Dimension) -> None:
        """Raises a ShapeError for a sequence that is longer than `max_length`."""
        if length.size > self.max_length:
            most = f"max_length={self.max_length}"
            raise mtf.ShapeError(f"sequences of {length} are longer than {most}: raise max_length")


class PositionalEmbedding(Positions):
    """One vector for each absolute position; a ShapeError for longer sequences.

    `offset`: the row of position 0 in the table, which has as many rows more. `trainable`: False
    where the vectors are constant, such as stored sines and cosines.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        max_length: int,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        initializer: mtf.Initializer = mtf.initializers.RandomNormal(1.0),
        offset: int = 0,
        trainable: bool = True,
    ) -> None:
        super().__init__(max_length)
        check_range("PositionalEmbedding.offset", offset, INDEX)
        self._offset = offset
        self._max_length = mtf.Dimension("max_length", max_length + offset)
        self._dtypes = dtypes
        shape, dtype = [self._max_length, d_model], dtypes.master
        self.table = mtf.Variable(
            mesh, shape, initializer, dtype, trainable=trainable, reduced_dims=()
        )

    def __call__(self, positions: mtf.Tensor, call: Call) -> mtf.Tensor:
        rows = positions + self._offset if self._offset else positions
        vectors = mtf.gather(self.table, rows, self._max_length)
        return mtf.cast(vectors, self._dtypes.activation)

    def first(self, length: mtf.Dimension) -> mtf.Tensor:
        # Cheaper than a gather.
        self.check_length(length)
        vectors = mtf.slice(self.table, self._offset, length.size, self._max_length.name)
        vectors = mtf.rename_dimension(vectors, self._max_length.name, length.name)
        return mtf.cast(vectors, self._dtypes.activation)


class SinusoidPositions(Positions):
    """Sines and cosines of the position; Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    All sines come first. The wavelengths end at 2 pi * 10000 exactly, as in Tensor2Tensor, unless
    `is_exact_end` is False: then, as in the paper, one step before it. The first position counts
    as `offset`. `skipped_id`: see `Positions`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        max_length: int,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        is_exact_end: bool = True,
        offset: int = 0,
        skipped_id: int | None = None,
    ) -> None:
        super().__init__(max_length)
        self.skipped_id = skipped_id
        if d_model.size % 2:
            raise mtf.ShapeError(f"sinusoid positions need an even d_model, not {d_model}")
        check_range("SinusoidPositions.offset", offset, INDEX)
        self._mesh, self._d_model, self._dtypes, self._offset = mesh, d_model, dtypes, offset
        half = d_model.size // 2
        self._num_steps = max(half - 1, 1) if is_exact_end else half

    def __call__(self, positions: mtf.Tensor, call: Call) -> mtf.Tensor:
        half = self._d_model.size // 2
        positions = positions + self._offset if self._offset else positions
        frequency = _LONGEST_WAVE ** (-np.arange(half) / self._num_steps)
        # cos(x) = sin(x + pi / 2)
        phase = mtf.constant(self._mesh, np.repeat([0.0, np.pi / 2], half), [self._d_model])
        frequencies = mtf.constant(self._mesh, np.tile(frequency, 2), [self._d_model])
        shape = [*positions.shape, self._d_model]
        angle = mtf.multiply(mtf.to_float(positions), frequencies, output_shape=shape)
        return mtf.cast(mtf.sin(angle + phase), self._dtypes.activation)

    def first(self, length: mtf.Dimension) -> mtf.Tensor:
        self.check_length(length)
        return self(mtf.range(self._mesh, length), Call())
