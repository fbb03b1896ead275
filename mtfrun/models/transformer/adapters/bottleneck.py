"""Bottleneck adapters: two small maps after every sublayer of a Transformer."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Adapter, Call, dense, find_paths
from mtfrun.models.transformer.residual_transforms import TransformedLayer


@dataclasses.dataclass(frozen=True)
class Bottlenecks(Adapter):
    """Trains x + relu(x * down) * up after sublayers, before their residual; up begins with zeros.

    Houlsby et al. 2019, arXiv:1902.00751, section 2.1; of T5 in Raffel et al. 2020,
    arXiv:1910.10683, section 3.5.1.

    Attributes:
      size: of the vectors between the two maps.
      sublayers: a regular expression; sublayers in whose path it is found have one, by default all.
        "feed_forward$" is as in Raffel et al.
    """

    size: int = 64
    sublayers: str = ".*"

    def __post_init__(self) -> None:
        check_range("Bottlenecks.size", self.size, COUNT)

    def attach(self, root: mtf.Module) -> None:
        """See `Adapter`."""
        layers = {
            path: module
            for path, module in root.named_modules().items()
            if isinstance(module, TransformedLayer)
        }
        for path in find_paths(layers, self.sublayers, "sublayers", "Bottlenecks.sublayers"):
            layer = layers[path]
            layer.adapter = Bottleneck(layer.mesh, layer.d_model, self.size)


class Bottleneck(mtf.Module):
    """A residual layer of two maps, {d_model, bottleneck} and back, each with a bias."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, size: int) -> None:
        super().__init__()
        self._d_model, self._bottleneck = d_model, mtf.Dimension("bottleneck", size)
        into, out = [d_model], [self._bottleneck]
        self.down = mtf.Variable(mesh, [*into, *out], mtf.VarianceScaling()(into, out))
        self.down_bias = mtf.Variable(mesh, out)
        self.up = mtf.Variable(mesh, [*out, *into], reduced_dims=out)
        self.up_bias = mtf.Variable(mesh, into)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., d_model} for x of the same shape."""

        def project(x: mtf.Tensor, kernel: mtf.Variable, bias: mtf.Variable, **dims: Any) -> Any:
            return dense(x, mtf.cast(kernel, x.dtype), mtf.cast(bias, x.dtype), **dims)

        into, out = [self._d_model], [self._bottleneck]
        hidden = project(x, self.down, self.down_bias, reduced_dims=into, new_dims=out)
        change = project(mtf.relu(hidden), self.up, self.up_bias, reduced_dims=out, new_dims=into)
        return x + mtf.einsum([change], output_shape=x.shape)
