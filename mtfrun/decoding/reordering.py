"""Moving what belongs to a beam to where its sequence goes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtfrun import mtf


def reorder(x: mtf.Tensor, parents: mtf.Tensor, beam: mtf.Dimension) -> mtf.Tensor:
    """Returns the entries of x at `parents` along `beam`, by a plain gather in every row.

    Nothing moves between devices, however the other dimensions are split.

    Args:
      x: {batch, beam, ...}.
      parents: {batch, beams} int32, in range; the dimension may be called as `beam` is.
      beam: the dimension of x.

    Returns:
      {batch, beams, ...}.
    """
    batch, beams = parents.shape
    rest = [dim for dim in x.shape if dim not in (batch, beam)]
    x = mtf.transpose(x, [batch, beam, *rest])
    reordered: mtf.Tensor = mtf.slicewise(
        lambda x, parents: tf.gather(x, parents, axis=1, batch_dims=1),
        [x, parents],
        output_shape=mtf.Shape([batch, beams, *rest]),
        splittable_dims=[batch, *rest],
    )
    return reordered


def reorder_state(state: Any, parents: mtf.Tensor, beam: mtf.Dimension) -> Any:
    """Returns a nested structure with all tensors that have the dimension `beam` reordered."""
    return tf.nest.map_structure(
        lambda x: reorder(x, parents, beam) if beam in x.shape else x, state
    )
