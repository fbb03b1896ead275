"""Convolutions over a sequence, as sublayers that cache their last inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense, DenseProduct
from mtfrun.models.transformer.residual_transforms import SublayerClass
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

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


class LightweightFilters(mtf.Module):
    """Filters normalised by a softmax over the taps; Wu et al. 2019, arXiv:1901.10430, section 4.

    Args:
      repeats: the number of times that the d_model / repeats filters are tiled over the channels;
        channel i has filter i % num_filters.
      scale: the variance of a filter's sum, before the softmax over the taps.
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
        if repeats < 1 or d_model.size % repeats:
            raise InputError(f"repeats={repeats} of filters must divide {d_model}")
        self._mesh, self._d_model, self._dtypes, self._repeats = mesh, d_model, dtypes, repeats
        filters = mtf.Dimension("filters", d_model.size // repeats)
        self.taps: list[Any] = [self._tap(filters, scale / taps.size) for _ in range(taps.size)]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., relative_position, d_model}, one filter for all positions or one each."""
        logits = mtf.stack(self._logits(x, call), TAPS, axis=-2)
        taps = logits.shape.get_dim_by_name(TAPS)
        filters = mtf.cast(mtf.softmax(mtf.to_float(logits), taps), logits.dtype)
        if self._repeats > 1:
            filters = mtf.concat([filters] * self._repeats, "filters")
        return mtf.rename_dimension(filters, "filters", self._d_model.name)

    def _tap(self, filters: mtf.Dimension, variance: float) -> mtf.Variable | Dense:
        initial = mtf.initializers.RandomNormal(variance**0.5)
        return mtf.Variable(self._mesh, [filters], initial, self._dtypes.master)

    def _logits(self, x: mtf.Tensor, call: Call) -> list[mtf.Tensor]:
        return [mtf.cast(tap, self._dtypes.activation) for tap in self.taps]


class DynamicFilters(LightweightFilters):
    """Filters predicted from each position's input by a linear map; Wu et al. 2019, section 5."""

    def _tap(self, filters: mtf.Dimension, variance: float) -> mtf.Variable | Dense:
        scaling = mtf.VarianceScaling(variance)
        dims = ([self._d_model], [filters])
        return Dense(self._mesh, *dims, self._dtypes, kernel_initializer=scaling)

    def _logits(self, x: mtf.Tensor, call: Call) -> list[mtf.Tensor]:
        return [tap(x, call) for tap in self.taps]


Activation = Callable[[mtf.Tensor], mtf.Tensor] | None


class _CachedConvolution(Sublayer):
    """A sublayer that caches the inputs in its `window`."""

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
        # The inputs before a step's position.
        self._cached = mtf.Dimension(_CACHE, max(1, -window.first))

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> mtf.Tensor:
        return mtf.zeros(self.mesh, [*batch, self._cached, self.d_model], self.dtypes.activation)

    def prefill(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        last = call.progress.prefill_lengths() - self._cached.size
        places = mtf.range(x.mesh, self._cached)
        positions = mtf.add(last, places, output_shape=[*last.shape, self._cached])
        length = x.shape.get_dim_by_name("length")
        inputs = self._visible(x, call)
        return self(x, call), mtf.gather(inputs, positions, length, output_shape=state.shape)

    def _visible(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns x {..., length, d_model}, or of a step {..., d_model}, with 0 for padding."""
        x = mtf.cast(x, self.dtypes.activation)
        if call.progress.position is None:
            if self.window.last > 0 and not call.bidirectional:
                raise InputError(
                    f"ConvolutionWindow.last={self.window.last} must be at most 0 in a decoder"
                )
            if call.nonpadding is not None:
                x = x * mtf.cast(call.nonpadding, x.dtype)
        if self.window.masks_start:
            x = x * mtf.cast(mtf.greater(call.positions(x), 0), x.dtype)
        return x

    def _shift(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns x {..., length, d_model} shifted by each tap of the window.

        Where the length is split, neighbouring devices exchange the positions at their edges.
        """
        length = x.shape.get_dim_by_name("length")
        taps = range(self.window.first, self.window.last + 1)
        return [x if tap == 0 else mtf.shift(x, -tap, length, wrap=False) for tap in taps]

    def _read(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns the inputs {batch..., relative_position, d_model} of a step, and the next cache.

        Rows that are still inside their prompt keep their cache.
        """
        *batch, d_model = x.shape.dims
        entry = mtf.reshape(self._visible(x, call), [*batch, mtf.Dimension(_CACHE, 1), d_model])
        inputs = mtf.concat([state, entry], _CACHE)
        begin = self.window.first + self._cached.size
        read = mtf.slice(inputs, begin, self.window.taps.size, _CACHE)
        extended = mtf.slice(inputs, 1, self._cached.size, _CACHE)
        condition = call.progress.is_after_prompt()
        if condition is not None:
            extended = mtf.where(condition, extended, state, output_shape=state.shape)
        return mtf.rename_dimension(read, _CACHE, TAPS), extended


class Convolution(_CachedConvolution):
    """A convolution over positions: the sum over taps of x[position + tap] * kernel[tap].

    The kernel is {relative_position, _d_model, channels}; `channels` is d_model by default.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: ConvolutionWindow = ConvolutionWindow(),
        activation: Activation = None,
        channels: mtf.Dimension | None = None,
    ) -> None:
        super().__init__(mesh, d_model, dtypes, window)
        inner = mtf.Dimension(f"_{d_model.name}", d_model.size)
        reduced, scaling = [window.taps, inner], mtf.VarianceScaling(mode="fan_avg")
        self._channels = d_model if channels is None else channels
        initial = scaling(reduced, [window.taps, self._channels])
        self._inner, self._activate = inner, activation or (lambda y: y)
        self.kernel = mtf.Variable(
            mesh, [*reduced, self._channels], initial, dtypes.master, reduced_dims=reduced
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        inputs = self._shift(self._visible(x, call))
        kernels = mtf.unstack(mtf.cast(self.kernel, self.dtypes.activation), self.window.taps)
        pairs = zip(inputs, kernels, strict=True)
        return self._activate(mtf.add_n([self._product(*pair, x.shape) for pair in pairs]))

    def step(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        inputs, state = self._read(x, state, call)
        kernel = mtf.cast(self.kernel, self.dtypes.activation)
        return self._activate(self._product(inputs, kernel, x.shape)), state

    def _product(self, inputs: mtf.Tensor, kernel: mtf.Tensor, shape: mtf.Shape) -> mtf.Tensor:
        inputs = mtf.rename_dimension(inputs, self.d_model.name, self._inner.name)
        return mtf.einsum([inputs, kernel], output_shape=shape - self.d_model + self._channels)


class DepthwiseConvolution(_CachedConvolution):
    """A convolution of each channel by a filter, then a linear map of the channels.

    With `TrainedFilters` it is separable; Chollet 2016, arXiv:1610.02357.

    Args:
      filters: the filters' class, called as `filters(mesh, d_model, dtypes, taps=...)`.
      use_bias: whether the convolution and the linear map have biases.
      channels: the dimension of the output, by default d_model.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: ConvolutionWindow = ConvolutionWindow(),
        filters: Callable[..., TrainedFilters | LightweightFilters] = TrainedFilters,
        activation: Activation = None,
        use_bias: bool = True,
        pointwise_scale: float = 1.0,
        channels: mtf.Dimension | None = None,
    ) -> None:
        super().__init__(mesh, d_model, dtypes, window)
        self.filters = filters(mesh, d_model, dtypes, taps=window.taps)
        self.bias = mtf.Variable(mesh, [d_model], dtype=dtypes.master) if use_bias else None
        self.pointwise = Dense(
            mesh,
            [d_model],
            [d_model if channels is None else channels],
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
            taps = mtf.unstack(filters, self.window.taps)
            pairs = zip(self._shift(visible), taps, strict=True)
            y = mtf.add_n([shifted * tap for shifted, tap in pairs])
        return self._pointwise(y, call)

    def step(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        inputs, state = self._read(x, state, call)
        y = mtf.reduce_sum(inputs * self.filters(x, call), reduced_dim=self.window.taps)
        return self._pointwise(y, call), state

    def _pointwise(self, y: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if self.bias is not None:
            y = y + mtf.cast(self.bias, y.dtype)
        return self.pointwise(y, call)


class GatedConvolution(Sublayer):
    """A gated linear unit, a convolution, and a linear map; Wu et al. 2019, figure 2b.

    Args:
      convolution: the convolution's class, called as `convolution(mesh, d_model, dtypes)`.
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

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        y, state = self.convolution.prefill(self.input(x, call), state, call)
        return self.output(y, call), state
