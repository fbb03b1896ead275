"""Convolutions over a sequence, as sublayers that cache their last inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.zoo.convolution_filters import (
    ConvolutionWindow,
    DynamicFilters,
    LightweightFilters,
    TrainedFilters,
)
from mtfrun.layers import Dense, DenseProduct
from mtfrun.models.transformer.residual_transforms import SublayerClass
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

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
        self._activation, self._inner = activation, inner
        self.kernel = mtf.Variable(
            mesh, [*reduced, self._channels], initial, dtypes.master, reduced_dims=reduced
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        inputs = self.window.shift(self._visible(x, call))
        kernels = mtf.unstack(self._cast_kernel(), self.window.taps)
        products = [
            mtf.einsum([self._rename_channels(x), kernel], output_shape=self._output_shape(x))
            for x, kernel in zip(inputs, kernels, strict=True)
        ]
        return self._activate(mtf.add_n(products))

    def step(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        inputs, state = self.window.read(state, self._visible(x, call), call)
        y = mtf.einsum(
            [self._rename_channels(inputs), self._cast_kernel()], output_shape=self._output_shape(x)
        )
        return self._activate(y), state

    def _cast_kernel(self) -> mtf.Tensor:
        return mtf.cast(self.kernel, self.dtypes.activation)

    def _rename_channels(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.rename_dimension(x, self.d_model.name, self._inner.name)

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return x.shape - self.d_model + self._channels

    def _activate(self, y: mtf.Tensor) -> mtf.Tensor:
        return y if self._activation is None else self._activation(y)


# Made as `filters_class(mesh, d_model, dtypes, taps=...)`.
FiltersClass = Callable[..., TrainedFilters | LightweightFilters | DynamicFilters]


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
        filters: FiltersClass = TrainedFilters,
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
            pairs = zip(self.window.shift(visible), taps, strict=True)
            y = mtf.add_n([shifted * tap for shifted, tap in pairs])
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

    def can_step_in_blocks(self) -> bool:
        return self.convolution.can_step_in_blocks()

    def can_prefill(self, call: SequenceCall) -> bool:
        return self.convolution.can_prefill(call)

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        y, state = self.convolution.prefill(self.input(x, call), state, call)
        return self.output(y, call), state
