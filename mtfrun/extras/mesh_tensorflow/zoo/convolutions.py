"""Convolutions over a sequence whose filters are normalised, predicted, or mix the channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense, DenseProduct
from mtfrun.models.transformer.convolution import (
    TAPS,
    Activation,
    CachedConvolution,
    ConvolutionWindow,
    DepthwiseConvolution,
)
from mtfrun.models.transformer.residual_transforms import SublayerClass
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class LightweightFilters(mtf.Module):
    """Filters normalised by a softmax over the taps; Wu et al. 2019, arXiv:1901.10430, section 4.

    Each tap is a separate variable, as in `TrainedFilters`.

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


class Convolution(CachedConvolution):
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
