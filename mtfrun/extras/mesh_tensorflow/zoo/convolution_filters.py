"""The positions that a convolution over a sequence reads, and its filters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense
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


class TrainedFilters(mtf.Module):
    """A filter {relative_position, d_model} for each channel, the same at all positions.

    Every tap is a variable, here and in the other filters, as in Mesh TensorFlow.

    Args:
      scale: the variance of a filter's sum of initial values.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        taps: mtf.Dimension = ConvolutionWindow().taps,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        initial = mtf.initializers.RandomNormal((scale / taps.size) ** 0.5)
        self._dtype = dtypes.activation
        self.taps = [
            mtf.Variable(mesh, [d_model], initial, dtypes.master) for _ in range(taps.size)
        ]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the filters {relative_position, d_model}."""
        return mtf.stack([mtf.cast(tap, self._dtype) for tap in self.taps], TAPS)


class _SoftmaxFilters(mtf.Module):
    """Filters that are a softmax over the taps, and that follow each other along the channels."""

    def __init__(self, d_model: mtf.Dimension, repeats: int) -> None:
        super().__init__()
        if repeats < 1 or d_model.size % repeats:
            raise InputError(f"repeats={repeats} of filters must divide {d_model}")
        self._d_model, self._repeats = d_model, repeats
        self._filters = mtf.Dimension("filters", d_model.size // repeats)

    def _of_logits(self, logits: list[mtf.Tensor]) -> mtf.Tensor:
        """Returns {..., relative_position, d_model} for the logits {..., filters} of the taps.

        Channel i has filter i modulo their number.
        """
        stacked = mtf.stack(logits, TAPS, axis=-2)
        weights = mtf.softmax(mtf.to_float(stacked), stacked.shape.get_dim_by_name(TAPS))
        filters = mtf.cast(weights, stacked.dtype)
        if self._repeats > 1:
            filters = mtf.concat([filters] * self._repeats, "filters")
        return mtf.rename_dimension(filters, "filters", self._d_model.name)


class LightweightFilters(_SoftmaxFilters):
    """Filters that are a softmax over the taps; Wu et al. 2019, arXiv:1901.10430, section 4.

    Args:
      repeats: the d_model / repeats filters follow each other so often along the channels.
      scale: see `TrainedFilters`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        taps: mtf.Dimension = ConvolutionWindow().taps,
        repeats: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__(d_model, repeats)
        initial = mtf.initializers.RandomNormal((scale / taps.size) ** 0.5)
        self.taps = [
            mtf.Variable(mesh, [self._filters], initial, dtypes.master) for _ in range(taps.size)
        ]
        self._dtype = dtypes.activation

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the filters {relative_position, d_model}."""
        return self._of_logits([mtf.cast(tap, self._dtype) for tap in self.taps])


class DynamicFilters(_SoftmaxFilters):
    """Filters that a linear map of each position's input predicts; Wu et al. 2019, section 5.

    Args:
      repeats: see `LightweightFilters`.
      scale: the variance of a predicted filter's sum, before the softmax over the taps.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        taps: mtf.Dimension = ConvolutionWindow().taps,
        repeats: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__(d_model, repeats)
        scaling = mtf.VarianceScaling(scale / taps.size)
        self.taps = [
            Dense(mesh, [d_model], [self._filters], dtypes, kernel_initializer=scaling)
            for _ in range(taps.size)
        ]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., relative_position, d_model} for x {..., d_model}."""
        return self._of_logits([tap(x, call) for tap in self.taps])
