"""Logits of whole sequences from a decoder, one position after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.transformer.token_model import TokenModel
from tests.models.small_model import on_mesh


def logits_step_by_step(
    model: TokenModel,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    *,
    prompts: np.ndarray | None = None,
    first: int = 0,
    jit_compile: bool = False,
) -> np.ndarray:
    """Returns the logits of `targets`, each computed by a step that reads the id before it.

    Args:
      model, mesh: the model.
      features: those of the model besides targets.
      targets: [batch, length], or [beams, batch, length] where every beam has targets of its own.
      prompts: [batch, length], the ids that the model may read beforehand; by default none.
      first: the position of the first step; the logits are those from there on.
      jit_compile: compile with XLA.
    """
    batch = mtf.Dimension("batch", targets.shape[-2])
    length = mtf.Dimension("length", targets.shape[-1])
    beam = mtf.Dimension("beam", len(targets)) if targets.ndim == 3 else None
    rows = mtf.Shape([batch, *([] if beam is None else [beam])])
    before = np.roll(targets, 1, axis=-1)
    before[..., 0] = 0
    if beam is not None:
        before = np.moveaxis(before, 0, 1)

    def run(features: dict[str, mtf.Tensor], before: mtf.Tensor) -> mtf.Tensor:
        decoder = model.decoder(features, beam)
        shape = mtf.Shape([*rows, length, model.vocab])

        def step(position: mtf.Tensor, all_logits: mtf.Tensor, state: Any) -> list[Any]:
            logits, state = decoder.step(mtf.gather(before, position, length), position, state)
            assert set(logits.shape) == {*rows, model.vocab}
            is_position = mtf.equal(mtf.range(mesh, length), position)
            return [
                position + 1,
                mtf.where(is_position, logits, all_logits, output_shape=shape),
                state,
            ]

        position = mtf.constant(mesh, first, dtype=tf.int32)
        start = [position, mtf.zeros(mesh, shape), decoder.initial_state]
        return mtf.while_loop(lambda position, *_: mtf.less(position, length.size), step, start)[1]

    ids = mtf.import_tf_tensor(mesh, before, mtf.Shape([*rows, length]))
    if prompts is None:
        prompts = np.zeros([batch.size, length.size], np.int32)
    all_features = on_mesh(mesh, {**features, "targets": prompts})
    all_logits = mtf.to_numpy(mtf.function(run, jit_compile=jit_compile)(all_features, ids))[
        ..., first:, :
    ]
    return all_logits if beam is None else np.moveaxis(all_logits, 1, 0)
