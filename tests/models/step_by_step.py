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
    """Returns the logits of `targets`, each made by a step that reads the id before it.

    Args:
      model, mesh: the model.
      features: what the model is given besides targets.
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

        def step(position: mtf.Tensor, made: mtf.Tensor, state: Any) -> list[Any]:
            logits, state = decoder.step(mtf.gather(before, position, length), position, state)
            assert set(logits.shape) == {*rows, model.vocab}
            here = mtf.equal(mtf.range(mesh, length), position)
            return [position + 1, mtf.where(here, logits, made, output_shape=shape), state]

        position = mtf.constant(mesh, first, dtype=tf.int32)
        start = [position, mtf.zeros(mesh, shape), decoder.initial_state]
        return mtf.while_loop(lambda position, *_: mtf.less(position, length.size), step, start)[1]

    ids = mtf.import_tf_tensor(mesh, before, mtf.Shape([*rows, length]))
    if prompts is None:
        prompts = np.zeros([batch.size, length.size], np.int32)
    given = on_mesh(mesh, {**features, "targets": prompts})
    made = mtf.to_numpy(mtf.function(run, jit_compile=jit_compile)(given, ids))[..., first:, :]
    return made if beam is None else np.moveaxis(made, 1, 0)
