"""Filters of depthwise convolutions over positions: trained, softmaxes of these, or predicted."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolution_window import (
    TAPS,
    ConvolutionWindow,
)
from mtfrun.layers import Call, Dense


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
            raise InputError(
                f"repeats={repeats} of filters must divide {d_model.name}:{d_model.size}"
            )
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
        super().__init__(d_model, repeats)
        scaling = mtf.VarianceScaling(scale / taps.size)
        self.taps = [
            Dense(mesh, [d_model], [self._filters], dtypes, kernel_initializer=scaling)
            for _ in range(taps.size)
        ]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., relative_position, d_model} for x {..., d_model}."""
        return self._of_logits([tap(x, call) for tap in self.taps])
