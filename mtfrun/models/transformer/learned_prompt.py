"""Learned prompts: vectors before the vectors of a text, trained in the place of a model."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtfrun import mtf
from mtfrun.checks import COUNT, POSITIVE, check_range
from mtfrun.errors import InputError
from mtfrun.layers import Adapter


class LearnedPrompt(mtf.Module):
    """Vectors {prompt_length, d_model} that a model reads before the vectors of every row."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, length: int, stddev: float) -> None:
        super().__init__()
        self.length = length
        self._dim = mtf.Dimension("prompt_length", length)
        initializer = mtf.initializers.RandomNormal(stddev)
        self.vectors = mtf.Variable(mesh, [self._dim, d_model], initializer, reduced_dims=())

    def for_rows(self, batch: mtf.ShapeLike, dtype: tf.DType) -> mtf.Tensor:
        """Returns the vectors {batch..., length, d_model} of rows without a text."""
        vectors = mtf.rename_dimension(self.vectors, self._dim.name, "length")
        return mtf.broadcast(
            mtf.cast(vectors, dtype), [*mtf.convert_to_shape(batch), *vectors.shape]
        )

    def before(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., length, d_model}, longer by the prompt, for x of such a shape."""
        vectors = self.for_rows(x.shape.dims[:-2], x.dtype)
        return mtf.concat([vectors, x], "length")

    def before_ids(self, ids: mtf.Tensor, number: int) -> mtf.Tensor:
        """Returns ids {..., length}, longer by a number for each vector of the prompt."""
        shape = ids.shape.resize_dimension("length", self.length)
        return mtf.concat([mtf.constant(ids.mesh, number, shape, ids.dtype), ids], "length")

    def after(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the part of {..., length, ...} that belongs to the text."""
        size = x.shape.get_dim_by_name("length").size - self.length
        return mtf.slice(x, self.length, size, "length")


class ReadsPrompt(mtf.Module):
    """A model that may have a learned prompt, None by default.

    `cannot_read_prompt` is why it cannot have one as it is configured, "" where it can.
    """

    prompt: LearnedPrompt | None = None

    @property
    def cannot_read_prompt(self) -> str:
        return ""

    def vectors_like(self) -> mtf.Variable:
        """Returns a table {..., d_model} of vectors such as a prompt's."""
        raise NotImplementedError

    def with_prompt(self, ids: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {..., length} after the prompt's, if there is one: no padding."""
        return ids if self.prompt is None else self.prompt.before_ids(ids, 1)

    def segments_with_prompt(self, segments: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the numbers of documents after -1 for the prompt, which all see."""
        if segments is None or self.prompt is None:
            return segments
        return self.prompt.before_ids(segments, -1)

    def positions_with_prompt(self, positions: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the positions {..., length} in texts that begin with the prompt."""
        if positions is None or self.prompt is None:
            return positions
        number = self.prompt.length
        shape = positions.shape.resize_dimension("length", number)
        first = mtf.range(positions.mesh, mtf.Dimension("length", number))
        return mtf.concat([mtf.broadcast(first, shape), positions + number], "length")


@dataclasses.dataclass(frozen=True)
class LearnedPrompts(Adapter):
    """Trains vectors before the inputs of an encoder-decoder, or before a language model's text.

    Prompt tuning; Lester et al. 2021, arXiv:2104.08691. All texts of a packed row see the vectors;
    pairs of an encoder-decoder have rows of their own, since an encoder's vectors see the inputs.
    Relative and rotary positions count them, a table of positions does not.

    Attributes:
      length: the number of vectors.
      stddev: of their initial values.
    """

    length: int = 20
    stddev: float = 0.5

    def __post_init__(self) -> None:
        check_range("LearnedPrompts.length", self.length, COUNT)
        check_range("LearnedPrompts.stddev", self.stddev, POSITIVE)

    def attach(self, root: mtf.Module) -> None:
        """See `Adapter`."""
        if not isinstance(root, ReadsPrompt) or root.cannot_read_prompt:
            why = root.cannot_read_prompt if isinstance(root, ReadsPrompt) else "it reads no text"
            raise InputError(f"LearnedPrompts have no place in {type(root).__name__}: {why}")
        table = root.vectors_like()
        root.prompt = LearnedPrompt(table.mesh, table.shape[-1], self.length, self.stddev)
