"""States of decoders with more room, and for more hypotheses."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtfrun import mtf


def fitted(state: Any, larger: Any) -> Any:
    """Returns a state in the shapes of `larger`, of equal structure.

    Zeros are appended where that has more room, and dimensions that the state lacks, such as a
    beam, have the same everywhere.
    """

    def fit(x: mtf.Tensor, to: mtf.Tensor) -> mtf.Tensor:
        for dim in x.shape:
            room = to.shape.get_dim_by_name(dim.name).size
            if room != dim.size:
                x = mtf.pad(x, [0, room - dim.size], dim.name)
        return x if x.shape == to.shape else mtf.broadcast(x, to.shape)

    return tf.nest.map_structure(fit, state, larger)
