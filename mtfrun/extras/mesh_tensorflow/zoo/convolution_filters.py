"""Windows and filters of convolutions over a sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense
from mtfrun.models.transformer.sublayer import SequenceCall

_CACHE = "cached_positions"
TAPS = "relative_position"
"""The name of the window's dimension."""


@dataclasses.dataclass(frozen=True)
class ConvolutionWindow:
    """The inputs that a position reads, from `first` to `last` relative to itself.

    Padding and positions outside the row read as 0. Packed documents see each other.

    Attributes:
      first, last: the inclusive bounds; in a decoder `last` is at most 0.
      masks_start: whether position 0 reads as 0, as in training decoders of Mesh TensorFlow, which
        take the initial id 0 for padding (but not while decoding).
    """

    first: int = -2
    last: int = 0
    masks_start: bool = False

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise InputError(
                f"ConvolutionWindow.first={self.first} must be at most {self.last}, last"
            )

    @property
    def taps(self) -> mtf.Dimension:
        return mtf.Dimension(TAPS, self.last - self.first + 1)

    def visible(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns x {..., length, d_model}, or of a step {..., d_model}, with 0 for padding."""
        if call.progress.position is None:
            if self.last > 0 and not call.bidirectional:
                raise InputError(
                    f"ConvolutionWindow.last={self.last} must be at most 0 in a decoder"
                )
            if call.nonpadding is not None:
                x = x * mtf.cast(call.nonpadding, x.dtype)
        if self.masks_start:
            x = x * mtf.cast(mtf.greater(call.positions(x), 0), x.dtype)
        return x

    def shift(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns x {..., length, d_model} shifted by each tap of the window.

        Where the length is split, neighbouring devices exchange the positions at their edges.
        """
        length = x.shape.get_dim_by_name("length")
        taps = range(self.first, self.last + 1)
        return [x if tap == 0 else mtf.shift(x, -tap, length, wrap=False) for tap in taps]

    def cache_shape(self, batch: Iterable[mtf.Dimension], d_model: mtf.Dimension) -> mtf.Shape:
        """Returns {batch..., cached_positions, d_model}: the inputs before a step's position."""
        return mtf.Shape([*batch, self._cache_dim, d_model])

    def read(
        self, cache: mtf.Tensor, x: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns the inputs {batch..., relative_position, d_model} of a step, and the next cache.

        x: {batch..., d_model}, `visible`. Rows that are still inside their prompt keep their cache.
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

    As in Mesh TensorFlow, each tap is a separate variable, here and in the classes below.

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
    """Filters normalised by a softmax over the taps, repeated along the channels."""

    def __init__(self, d_model: mtf.Dimension, repeats: int) -> None:
        super().__init__()
        if repeats < 1 or d_model.size % repeats:
            raise InputError(f"repeats={repeats} of filters must divide {d_model}")
        self._d_model, self._repeats = d_model, repeats
        self._filters = mtf.Dimension("filters", d_model.size // repeats)

    def _normalise(self, logits: list[mtf.Tensor]) -> mtf.Tensor:
        """Returns {..., relative_position, d_model}; channel i has filter i % num_filters."""
        stacked = mtf.stack(logits, TAPS, axis=-2)
        weights = mtf.softmax(mtf.to_float(stacked), stacked.shape.get_dim_by_name(TAPS))
        filters = mtf.cast(weights, stacked.dtype)
        if self._repeats > 1:
            filters = mtf.concat([filters] * self._repeats, "filters")
        return mtf.rename_dimension(filters, "filters", self._d_model.name)


class LightweightFilters(_SoftmaxFilters):
    """Filters normalised by a softmax over the taps; Wu et al. 2019, arXiv:1901.10430, section 4.

    Args:
      repeats: the number of times that the d_model / repeats filters are tiled over the channels.
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
        return self._normalise([mtf.cast(tap, self._dtype) for tap in self.taps])


class DynamicFilters(_SoftmaxFilters):
    """Filters predicted from each position's input by a linear map; Wu et al. 2019, section 5.

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
        return self._normalise([tap(x, call) for tap in self.taps])
