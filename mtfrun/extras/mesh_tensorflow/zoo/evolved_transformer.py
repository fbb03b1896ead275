"""Sublayers of the Evolved Transformer; So et al. 2019, arXiv:1901.11117, figure 3.

Its decoder's first sublayer is `Parallel` with self-attention and attention to the encoder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.zoo.convolutions import Convolution
from mtfrun.layers import DenseProduct, Dropout, LayerNorm
from mtfrun.models.transformer.convolution import (
    ConvolutionWindow,
    DepthwiseConvolution,
    TrainedFilters,
)
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class GatedLinearUnit(Sublayer):
    """(x * w_0 + b_0) . sigmoid(x * w_1 + b_1); Dauphin et al. 2016, arXiv:1612.08083, eq. 1."""

    def __init__(
        self, mesh: mtf.Mesh, d_model: mtf.Dimension, dtypes: mtf.DTypePolicy = mtf.DTypePolicy()
    ) -> None:
        super().__init__()
        gated = (None, mtf.sigmoid)
        self.unit = DenseProduct(
            mesh, [d_model], [d_model], dtypes, activations=gated, use_bias=True
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self.unit(x, call)


class _ConvolutionBranches(Sublayer):
    """output(norm(left(x) + right(x))), each with dropout, zero-padded to equal sizes."""

    def __init__(
        self,
        d_model: mtf.Dimension,
        left: Convolution | DepthwiseConvolution,
        right: Convolution | DepthwiseConvolution,
        norm: LayerNorm,
        output: DepthwiseConvolution,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self._d_model, self._hidden = d_model, output.d_model
        self.left, self.right, self.norm, self.output = left, right, norm, output
        self.left_dropout, self.right_dropout, self.output_dropout = (
            Dropout(dropout_rate, ("length",)) for _ in range(3)
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._run(lambda part, x, _, call: (part(x, call), ()), x, {}, call)[0]

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        batch, names = list(batch), ("left", "right", "output")
        return {n: getattr(self, n).initial_state(batch, memory_length, call) for n in names}

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run(lambda part, *arguments: part.step(*arguments), x, state, call)

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run(lambda part, *arguments: part.prefill(*arguments), x, state, call)

    def _run(
        self,
        run: Callable[..., tuple[mtf.Tensor, Any]],
        x: mtf.Tensor,
        state: Any,
        call: SequenceCall,
    ) -> tuple[mtf.Tensor, Any]:
        """x: {..., d_model}; `run(part, x, state, call)` applies a convolution."""
        left, left_state = run(self.left, x, state.get("left"), call)
        right, right_state = run(self.right, x, state.get("right"), call)
        left, right = self.left_dropout(left, call), self.right_dropout(right, call)
        hidden = self.norm(_pad_to(self._hidden, left) + _pad_to(self._hidden, right), call)
        y, output_state = run(self.output, hidden, state.get("output"), call)
        states = {"left": left_state, "right": right_state, "output": output_state}
        return _pad_to(self._d_model, self.output_dropout(y, call)), states


def _pad_to(channels: mtf.Dimension, x: mtf.Tensor) -> mtf.Tensor:
    """Pads the last dimension of x with zeros to {..., channels}."""
    last = x.shape[-1]
    if last == channels:
        return x
    padded = mtf.pad(x, [0, channels.size - last.size], last.name)
    return mtf.rename_dimension(padded, last.name, channels.name)


class EncoderConvolutions(_ConvolutionBranches):
    """A linear map to 4 * d_model channels beside a convolution to d_model / 2.

    A depthwise convolution over 9 positions reads their sum, in the dimension "d_ff".

    Args:
      dropout_rate: the three outputs' dropout rate, with one mask for all positions.
      filter_scale: the initial variance scale of depthwise filters and their linear maps.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        dropout_rate: float = 0.0,
        filter_scale: float = 1.0,
        norm_epsilon: float = 1e-6,
    ) -> None:
        hidden = mtf.Dimension("d_ff", 4 * d_model.size)
        half = _half(d_model)
        convolution = functools.partial(Convolution, mesh, d_model, dtypes, activation=mtf.relu)
        super().__init__(
            d_model,
            convolution(window=ConvolutionWindow(0, 0), channels=hidden),
            convolution(window=ConvolutionWindow(-1, 1), channels=half),
            LayerNorm(mesh, hidden, dtypes, epsilon=norm_epsilon),
            _depthwise(filter_scale)(
                mesh, hidden, dtypes, window=ConvolutionWindow(-4, 4), channels=half
            ),
            dropout_rate,
        )


class DecoderConvolutions(_ConvolutionBranches):
    """Causal depthwise convolutions over 11 positions to 2 * d_model, and over 7 to d_model / 2.

    Another one over 7 positions reads their sum, in the dimension "d_ff".

    Args:
      dropout_rate, filter_scale: see `EncoderConvolutions`.
      masks_start: see `ConvolutionWindow`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        dropout_rate: float = 0.0,
        filter_scale: float = 1.0,
        norm_epsilon: float = 1e-6,
        masks_start: bool = False,
    ) -> None:
        hidden = mtf.Dimension("d_ff", 2 * d_model.size)
        wide, narrow = (ConvolutionWindow(first, 0, masks_start) for first in (-10, -6))
        depthwise = _depthwise(filter_scale)
        super().__init__(
            d_model,
            depthwise(mesh, d_model, dtypes, window=wide, channels=hidden, activation=mtf.relu),
            depthwise(mesh, d_model, dtypes, window=narrow, channels=_half(d_model)),
            LayerNorm(mesh, hidden, dtypes, epsilon=norm_epsilon),
            depthwise(mesh, hidden, dtypes, window=narrow, channels=d_model),
            dropout_rate,
        )


def _half(d_model: mtf.Dimension) -> mtf.Dimension:
    return mtf.Dimension(f"half_{d_model.name}", d_model.size // 2)


def _depthwise(scale: float) -> Callable[..., DepthwiseConvolution]:
    filters = functools.partial(TrainedFilters, scale=scale)
    return functools.partial(DepthwiseConvolution, filters=filters, pointwise_scale=scale)
