"""Decoder states in larger shapes: of longer caches, and of more hypotheses."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtfrun import mtf


def fitted(state: Any, larger: Any) -> Any:
    """Returns a state in the shapes of `larger`, which has the same structure.

    Dimensions that are larger there are padded with zeros at their end, and the state is broadcast
    along those that it lacks, such as a beam.
    """

    def fit(x: mtf.Tensor, larger_x: mtf.Tensor) -> mtf.Tensor:
        for dim in x.shape:
            size = larger_x.shape.get_dim_by_name(dim.name).size
            if size != dim.size:
                x = mtf.pad(x, [0, size - dim.size], dim.name)
        return x if x.shape == larger_x.shape else mtf.broadcast(x, larger_x.shape)

    return tf.nest.map_structure(fit, state, larger)
