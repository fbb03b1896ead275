"""Dropout as a layer, and of attention weights that are computed in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from mtfrun import mtf
from mtfrun.errors.checks import SHARE_BELOW_1, check_range
from mtfrun.layers.layer import Call


class Dropout(mtf.Module):
    """Sets a share of the elements to 0 in training; Srivastava et al. 2014.

    Draws depend on key, path and element: no layout and no rematerialisation changes them. Along
    the dimensions named in `same_along` all elements have the same draw.
    """

    def __init__(self, rate: float, same_along: Collection[str] = ()) -> None:
        super().__init__()
        check_range("dropout_rate", rate, SHARE_BELOW_1)
        self.rate, self._same_along = rate, same_along

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x with dropped elements, the rest scaled to keep the mean."""
        if not call.training or self.rate == 0.0:
            return x
        shape = [dim for dim in x.shape if dim.name not in self._same_along]
        return mtf.dropout(
            x, training=True, rate=self.rate, key=call.key_of(self), noise_shape=shape
        )


@dataclasses.dataclass(frozen=True)
class AttentionDropout:
    """The dropout of attention weights, of every part of them as if all were computed at once.

    `within` has the dimensions {..., length, memory_length} of all weights, and the part's indices.
    """

    rate: float
    key: mtf.Key
    within: tuple[tuple[mtf.Dimension, mtf.Tensor], ...]

    @classmethod
    def of(
        cls, dropout: Dropout, call: Call, mesh: mtf.Mesh, shape: mtf.ShapeLike
    ) -> AttentionDropout | None:
        """Returns the dropout of all weights of this shape, or None."""
        if not call.training or dropout.rate == 0.0:
            return None
        within = tuple((dim, mtf.range(mesh, dim)) for dim in mtf.convert_to_shape(shape))
        return cls(dropout.rate, call.key_of(dropout), within)

    def __call__(self, weights: mtf.Tensor) -> mtf.Tensor:
        """Returns the weights of this part with dropped elements."""
        return mtf.dropout(weights, training=True, rate=self.rate, key=self.key, within=self.within)

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> AttentionDropout:
        """Returns the dropout of another part, with the indices function(indices)."""
        within = tuple((dim, function(index)) for dim, index in self.within)
        return dataclasses.replace(self, within=within)
