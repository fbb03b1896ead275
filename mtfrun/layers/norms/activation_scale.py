"""Metrics of activations."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.collector import Metric
from mtfrun.layers.layer import Call, Layer


class ActivationScale(Layer):
    """Returns its input, and adds its metrics "rms" (root mean square) and "max" (absolute).

    All entries count, also padding; steps and microbatches are averaged. It can be a transform.
    """

    short_name = "activation"

    def __init__(
        self,
        mesh: mtf.Mesh | None = None,
        d_model: mtf.Dimension | None = None,
        dtypes: mtf.DTypePolicy | None = None,
    ) -> None:
        super().__init__()

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        return {"rms": mtf.Shape(), "max": mtf.Shape()}

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        if call.collector is not None:
            values = mtf.stop_gradient(mtf.cast(x, tf.float32))
            one = mtf.constant(x.mesh, 1.0)
            rms = mtf.sqrt(mtf.l2_loss(values) * (2.0 / x.shape.size))
            largest = mtf.reduce_max(mtf.abs(values))
            call.collector.add_metrics(self, {"rms": Metric(rms, one), "max": Metric(largest, one)})
        return x
