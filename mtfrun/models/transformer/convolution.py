"""Convolutions over a sequence, as sublayers that cache their inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Dense, extend_cache, rename_length_to_memory_length
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

TAPS = "relative_position"
"""The name of the window's dimension."""
# Called as `filters(mesh, d_model, dtypes, taps=...)`. Their call returns {relative_position,
# d_model}, or one filter for each position {..., relative_position, d_model}.
FiltersClass = Callable[..., Callable[[mtf.Tensor, Call], mtf.Tensor]]
Activation = Callable[[mtf.Tensor], mtf.Tensor] | None


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

    As in Mesh TensorFlow, each tap is a separate variable.

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


class CachedConvolution(Sublayer):
    """A sublayer whose steps cache the inputs before them and read those in its `window`."""

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
        return mtf.zeros(self.mesh, [*batch, memory_length, self.d_model], self.dtypes.activation)

    def can_step_in_blocks(self) -> bool:
        return True

    def prefill(
        self, x: mtf.Tensor, state: mtf.Tensor, call: SequenceCall
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        return self(x, call), rename_length_to_memory_length(self._visible(x, call))

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

        In a block {batch..., block, relative_position, d_model}. Rows that are still inside their
        prompt keep their cache.
        """
        position, condition = call.progress.step_position(), call.progress.is_after_prompt()
        cache = extend_cache(state, self._visible(x, call), position, condition)
        taps, memory_length = self.window.taps, cache.shape.get_dim_by_name("memory_length")
        offsets = mtf.range(x.mesh, taps) + self.window.first
        positions = mtf.add(position, offsets, output_shape=[*position.shape, taps])
        shape = [*(x.shape - self.d_model), taps, self.d_model]
        return mtf.gather(cache, positions, memory_length, output_shape=shape), cache


class DepthwiseConvolution(CachedConvolution):
    """A convolution of each channel by a filter, then a linear map of the channels.

    With `TrainedFilters` it is separable; Chollet 2016, arXiv:1610.02357.

    Args:
      filters: the filters' class.
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
