"""A toy model that a batch can poison: its loss, or one entry of one gradient, becomes NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.model import Loss
from tests.training.toy_model import Bigram

IN_LOSS, IN_GRADIENT = 14, 15
"""Ids that poison a batch."""

NAMED = "model/hidden"
"""The variable whose gradient has the NaN, in its last entry: on one device of a mesh alone."""


class Poisoned(Bigram):
    """`Bigram`, whose loss is NaN in a batch with one id, and a gradient in one with another."""

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        loss = super().loss(features, training=training, key=key)
        targets = features["targets"]
        nan = mtf.where(mtf.equal(targets, IN_LOSS), float("nan"), mtf.zeros_like(loss.total))
        total = loss.total + mtf.reduce_sum(nan)
        is_poisoned = mtf.to_float(mtf.reduce_any(mtf.equal(targets, IN_GRADIENT)))
        return loss._replace(total=total + self._zero(is_poisoned))

    def _zero(self, is_poisoned: mtf.Tensor) -> mtf.Tensor:
        """Returns 0; the last entry of the gradient of `hidden` is NaN where `is_poisoned` is 1."""
        last = np.zeros([self.d_model.size, self.d_ff.size], bool)
        last[-1, -1] = True
        place = mtf.import_tf_tensor(is_poisoned.mesh, last, self.hidden.shape)

        def gradients(
            inputs: Sequence[mtf.Tensor], _outputs: object, _gradients: object
        ) -> list[mtf.Tensor | None]:
            hidden, poison = inputs
            chosen = mtf.logical_and(place, mtf.greater(poison, 0.0))
            return [mtf.where(chosen, float("nan"), mtf.zeros_like(hidden)), None]

        return mtf.custom_gradient(
            lambda hidden, poison: mtf.zeros_like(poison), gradients, [self.hidden, is_poisoned]
        )


def poisoned(ids: np.ndarray, places: Mapping[int, int]) -> np.ndarray:
    """Returns ids [steps, batch, length] below `IN_LOSS`, poisoned where `places` says.

    Args:
      ids: of any vocabulary.
      places: by the index of the step the id that poisons it.
    """
    ids = (ids - 1) % (IN_LOSS - 1) + 1
    for step, poison in places.items():
        ids[step, -1, -1] = poison
    return ids.astype(tf.int32.as_numpy_dtype)
