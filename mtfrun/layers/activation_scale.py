"""Metrics of activations."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.collector import Metric
from mtfrun.layers.layer import Call, Layer


class ActivationScale(Layer):
    """Returns its input, and adds metrics of it: "rms" and "max".

    These are the root of the mean square of all entries, padding included, and the largest absolute
    value; over steps and microbatches they are averaged. It can stand among the transforms of a
    stack, which make it with the arguments of all transforms; it needs none of them.
    """

    short_name = "activation"

    def __init__(
        self,
        mesh: mtf.Mesh | None = None,
        d_model: mtf.Dimension | None = None,
        dtypes: mtf.DTypePolicy | None = None,
    ) -> None:
        """Takes the arguments of all transforms."""
        super().__init__()

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """Two scalars."""
        return {"rms": mtf.Shape(), "max": mtf.Shape()}

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x, of any shape."""
        if call.collector is not None:
            values = mtf.stop_gradient(mtf.cast(x, tf.float32))
            one = mtf.constant(x.mesh, 1.0)
            rms = mtf.sqrt(mtf.l2_loss(values) * (2.0 / x.shape.size))
            largest = mtf.reduce_max(mtf.abs(values))
            call.collector.add_metrics(self, {"rms": Metric(rms, one), "max": Metric(largest, one)})
        return x
