"""Convolutions over the positions of a sequence as sublayers, with a cache of their last inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense, DenseProduct
from mtfrun.models.transformer.residual_transforms import SublayerClass
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

Activation = Callable[[mtf.Tensor], mtf.Tensor] | None

_CACHE, _TAPS = "cached_positions", "relative_position"


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
        return mtf.Dimension(_TAPS, self.last - self.first + 1)

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
        return mtf.rename_dimension(read, _CACHE, _TAPS), extended

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


class _CachedConvolution(Sublayer):
    """A sublayer with a `window`, whose cache are its inputs there."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        window: ConvolutionWindow,
    ) -> None:
        super().__init__()
        self.mesh, self.d_model, self.dtypes = mesh, d_model, dtypes
        self.window = window

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> mtf.Tensor:
        shape = self.window.cache_shape(batch, self.d_model)
        return mtf.zeros(self.mesh, shape, self.dtypes.activation)

    def prefill(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        return self(x, call), self.window.cache_after(self._visible(x, call), call, state)

    def _visible(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self.window.visible(mtf.cast(x, self.dtypes.activation), call)


class Convolution(_CachedConvolution):
    """A convolution over positions: the sum over taps of x[position + tap] * kernel[tap]."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: ConvolutionWindow = ConvolutionWindow(),
        activation: Activation = None,
    ) -> None:
        """Makes the spec of the kernel {relative_position, _d_model, d_model}, without a bias."""
        super().__init__(mesh, d_model, dtypes, window)
        inner = mtf.Dimension(f"_{d_model.name}", d_model.size)
        reduced, scaling = [window.taps, inner], mtf.VarianceScaling(mode="fan_avg")
        initial = scaling(reduced, [window.taps, d_model])
        self._activation, self._inner = activation, inner
        self.kernel = mtf.Variable(
            mesh, [*reduced, d_model], initial, dtypes.master, reduced_dims=reduced
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        inputs = self.window.shift(self._visible(x, call))
        kernels = mtf.unstack(self._cast_kernel(), self.window.taps)
        products = [
            mtf.einsum([self._rename_channels(x), kernel], output_shape=x.shape)
            for x, kernel in zip(inputs, kernels, strict=True)
        ]
        return self._activate(mtf.add_n(products))

    def step(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        inputs, state = self.window.read(state, self._visible(x, call), call)
        y = mtf.einsum([self._rename_channels(inputs), self._cast_kernel()], output_shape=x.shape)
        return self._activate(y), state

    def _cast_kernel(self) -> mtf.Tensor:
        return mtf.cast(self.kernel, self.dtypes.activation)

    def _rename_channels(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.rename_dimension(x, self.d_model.name, self._inner.name)

    def _activate(self, y: mtf.Tensor) -> mtf.Tensor:
        return y if self._activation is None else self._activation(y)


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
        return mtf.stack([mtf.cast(tap, self._dtype) for tap in self.taps], _TAPS)


class LightweightFilters(mtf.Module):
    """Filters that are a softmax over the taps; Wu et al. 2019, arXiv:1901.10430, section 4.

    Args:
      repeats: the d_model / repeats filters follow each other so often along the channels.
      scale: as of `TrainedFilters`.
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
        super().__init__()
        self._d_model, self._repeats = d_model, repeats
        filters = _filters_dimension(d_model, repeats)
        initial = mtf.initializers.RandomNormal((scale / taps.size) ** 0.5)
        self.taps = [
            mtf.Variable(mesh, [filters], initial, dtypes.master) for _ in range(taps.size)
        ]
        self._dtype = dtypes.activation

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the filters {relative_position, d_model}."""
        logits = [mtf.cast(tap, self._dtype) for tap in self.taps]
        return _repeat(_softmax_of_taps(logits), self._d_model, self._repeats)


class DynamicFilters(mtf.Module):
    """Filters that a linear map of each position's input predicts; Wu et al. 2019, section 5.

    Args:
      repeats: as of `LightweightFilters`.
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
        super().__init__()
        self._d_model, self._repeats = d_model, repeats
        filters = _filters_dimension(d_model, repeats)
        scaling = mtf.VarianceScaling(scale / taps.size)
        self.taps = [
            Dense(mesh, [d_model], [filters], dtypes, kernel_initializer=scaling)
            for _ in range(taps.size)
        ]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., relative_position, d_model} for x {..., d_model}."""
        logits = [tap(x, call) for tap in self.taps]
        return _repeat(_softmax_of_taps(logits), self._d_model, self._repeats)


# Made as `filters_class(mesh, d_model, dtypes, taps=...)`.
FiltersClass = Callable[..., TrainedFilters | LightweightFilters | DynamicFilters]


class DepthwiseConvolution(_CachedConvolution):
    """A convolution of each channel by a filter, then a linear map of the channels.

    With `TrainedFilters` it is separable; Chollet 2016, arXiv:1610.02357.

    Args:
      filters: a class, called as `filters(mesh, d_model, dtypes, taps=...)`, of what channels are
        multiplied by.
      use_bias: of both.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: ConvolutionWindow = ConvolutionWindow(),
        filters: FiltersClass = TrainedFilters,
        activation: Activation = None,
        use_bias: bool = True,
        pointwise_scale: float = 1.0,
    ) -> None:
        super().__init__(mesh, d_model, dtypes, window)
        self.filters = filters(mesh, d_model, dtypes, taps=window.taps)
        self.bias = mtf.Variable(mesh, [d_model], dtype=dtypes.master) if use_bias else None
        self.pointwise = Dense(
            mesh,
            [d_model],
            [d_model],
            dtypes,
            use_bias=use_bias,
            activation=activation,
            kernel_initializer=mtf.VarianceScaling(pointwise_scale),
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        filters = self.filters(x, call)
        visible = self._visible(x, call)
        if filters.shape.ndims == 2:
            length = x.shape.get_dim_by_name("length")
            y = mtf.depthwise_conv1d(visible, filters, length, self.window.first)
        else:
            of_taps = mtf.unstack(filters, self.window.taps)
            pairs = zip(self.window.shift(visible), of_taps, strict=True)
            y = mtf.add_n([each * of_tap for each, of_tap in pairs])
        return self._pointwise(y, call)

    def step(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        inputs, state = self.window.read(state, self._visible(x, call), call)
        y = mtf.reduce_sum(inputs * self.filters(x, call), reduced_dim=self.window.taps)
        return self._pointwise(y, call), state

    def _pointwise(self, y: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if self.bias is not None:
            y = y + mtf.cast(self.bias, y.dtype)
        return self.pointwise(y, call)


class GatedConvolution(Sublayer):
    """A gated linear unit, a convolution, and a linear map; Wu et al. 2019, figure 2b.

    Args:
      convolution: a class, called as `convolution(mesh, d_model, dtypes)`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        convolution: SublayerClass = DepthwiseConvolution,
    ) -> None:
        super().__init__()
        gated = (None, mtf.sigmoid)
        self.input = DenseProduct(
            mesh, [d_model], [d_model], dtypes, activations=gated, use_bias=True
        )
        self.convolution = convolution(mesh, d_model, dtypes)
        self.output = Dense(mesh, [d_model], [d_model], dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self.output(self.convolution(self.input(x, call), call), call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        return self.convolution.initial_state(batch, memory_length, call)

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        y, state = self.convolution.step(self.input(x, call), state, call)
        return self.output(y, call), state

    def can_step_in_blocks(self) -> bool:
        return self.convolution.can_step_in_blocks()

    def can_prefill(self, call: SequenceCall) -> bool:
        return self.convolution.can_prefill(call)

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        y, state = self.convolution.prefill(self.input(x, call), state, call)
        return self.output(y, call), state


def _filters_dimension(d_model: mtf.Dimension, repeats: int) -> mtf.Dimension:
    if repeats < 1 or d_model.size % repeats:
        raise InputError(f"repeats={repeats} of filters must divide {d_model.name}:{d_model.size}")
    return mtf.Dimension("filters", d_model.size // repeats)


def _softmax_of_taps(logits: list[mtf.Tensor]) -> mtf.Tensor:
    """Returns {..., relative_position, filters} for the logits {..., filters} of the taps."""
    stacked = mtf.stack(logits, _TAPS, axis=-2)
    weights = mtf.softmax(mtf.to_float(stacked), stacked.shape.get_dim_by_name(_TAPS))
    return mtf.cast(weights, stacked.dtype)


def _repeat(filters: mtf.Tensor, d_model: mtf.Dimension, repeats: int) -> mtf.Tensor:
    """Returns {..., relative_position, d_model}: channel i has filter i modulo their number."""
    repeated = mtf.concat([filters] * repeats, "filters") if repeats > 1 else filters
    return mtf.rename_dimension(repeated, "filters", d_model.name)
