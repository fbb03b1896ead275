"""Reordering of beams, and of the decoder state that belongs to them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtfrun import mtf


def reorder(x: mtf.Tensor, parents: mtf.Tensor, beam: mtf.Dimension) -> mtf.Tensor:
    """Returns the entries of x at the indices `parents` along `beam`, by a gather in every row.

    No data is sent between devices, whichever of the other dimensions are split.

    Args:
      x: {batch, beam, ...}.
      parents: {batch, beams} int32, below the size of `beam`; `beams` may be `beam` itself.
      beam: the dimension of x.

    Returns:
      {batch, beams, ...}.
    """
    batch, beams = parents.shape
    inner = [dim for dim in x.shape if dim not in (batch, beam)]
    x = mtf.transpose(x, [batch, beam, *inner])
    reordered: mtf.Tensor = mtf.slicewise(
        lambda x, parents: tf.gather(x, parents, axis=1, batch_dims=1),
        [x, parents],
        output_shape=mtf.Shape([batch, beams, *inner]),
        splittable_dims=[batch, *inner],
    )
    return reordered


def reorder_state(state: Any, parents: mtf.Tensor, beam: mtf.Dimension) -> Any:
    """Returns a nested structure with all tensors that have the dimension `beam` reordered."""
    return tf.nest.map_structure(
        lambda x: reorder(x, parents, beam) if beam in x.shape else x, state
    )
