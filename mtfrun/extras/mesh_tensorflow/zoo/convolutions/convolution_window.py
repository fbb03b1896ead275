"""The positions that a convolution over a sequence reads, whole or from a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.transformer.sublayer import SequenceCall

_CACHE = "cached_positions"
TAPS = "relative_position"
"""The name of the dimension of the positions that are read."""


@dataclasses.dataclass(frozen=True)
class ConvolutionWindow:
    """Which inputs a position reads: those from `first` to `last` relative to its own.

    Padding and what lies before and after a row count as 0. Packed documents are not kept apart.

    Attributes:
      first, last: both included; in a decoder `last` is at most 0.
      masks_start: the input at position 0 counts as 0, as in decoders of Mesh TensorFlow in
        training, where the id 0 before the first one counts as padding. (Not so while they decode.)
    """

    first: int = -2
    last: int = 0
    masks_start: bool = False

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise InputError(
                f"ConvolutionWindow: first={self.first} must be at most last={self.last}"
            )

    @property
    def taps(self) -> mtf.Dimension:
        """The dimension of the positions that are read."""
        return mtf.Dimension(TAPS, self.last - self.first + 1)

    def visible(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns x {..., length, d_model}, or of a step {..., d_model}, with 0 for padding."""
        if call.progress.position is None:
            if self.last > 0 and not call.bidirectional:
                raise InputError(
                    f"ConvolutionWindow.last={self.last}: a decoder's positions do not see later "
                    "ones; last must be at most 0 there"
                )
            if call.nonpadding is not None:
                x = x * mtf.cast(call.nonpadding, x.dtype)
        if self.masks_start:
            x = x * mtf.cast(mtf.greater(call.positions(x), 0), x.dtype)
        return x

    def shift(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns, for every input that a position {..., length} reads, a tensor of all positions.

        Where the length is split, neighbouring devices exchange the positions at their edges.
        """
        length = x.shape.get_dim_by_name("length")
        taps = range(self.first, self.last + 1)
        return [x if tap == 0 else mtf.shift(x, -tap, length, wrap=False) for tap in taps]

    def cache_shape(self, batch: Iterable[mtf.Dimension], d_model: mtf.Dimension) -> mtf.Shape:
        """Returns {batch..., cached_positions, d_model} of the inputs before a step's position."""
        return mtf.Shape([*batch, self._cache_dim, d_model])

    def read(
        self, cache: mtf.Tensor, x: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns the inputs {batch..., relative_position, d_model} of a step, and the next cache.

        x: {batch..., d_model}, `visible`. Rows whose prompt has the position keep their cache.
        """
        *batch, d_model = x.shape.dims
        entry = mtf.reshape(x, [*batch, mtf.Dimension(_CACHE, 1), d_model])
        inputs = mtf.concat([cache, entry], _CACHE)
        begin = self.first + self._cache_dim.size
        read = mtf.slice(inputs, begin, self.taps.size, _CACHE)
        extended = mtf.slice(inputs, 1, self._cache_dim.size, _CACHE)
        condition = call.progress.is_after_prompt()
        if condition is not None:
            extended = mtf.where(condition, extended, cache, output_shape=cache.shape)
        return mtf.rename_dimension(read, _CACHE, TAPS), extended

    def cache_after(self, x: mtf.Tensor, call: SequenceCall, cache: mtf.Tensor) -> mtf.Tensor:
        """Returns the cache after the prompts of a prefill, in the shape of `cache`.

        x: {batch..., length, d_model}, `visible`.
        """
        last = call.progress.prefill_lengths() - self._cache_dim.size
        places = mtf.range(x.mesh, self._cache_dim)
        positions = mtf.add(last, places, output_shape=[*last.shape, self._cache_dim])
        length = x.shape.get_dim_by_name("length")
        return mtf.gather(x, positions, length, output_shape=cache.shape)

    @property
    def _cache_dim(self) -> mtf.Dimension:
        return mtf.Dimension(_CACHE, max(1, -self.first))
