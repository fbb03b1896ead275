"""The language model of the decoding cases, which has two states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder

HIDDEN = mtf.Dimension("hidden", 3)


def stateful_decoder(
    mesh: mtf.Mesh, arrays: Mapping[str, np.ndarray], rows: mtf.ShapeLike, decay: float
) -> Decoder:
    """Returns the model of a case as a decoder for rows {batch} or {batch, beam}.

    With prev = the previous id: state1' = decay * state1 + embedding[prev]; state2' = state2 with
    embedding[prev] at the position; logits = table[prev] + position_bias[position] + batch_bias
    + state1' . w1 + (sum over l of position_coef[l] * state2'[l]) . w2.
    """
    rows = mtf.convert_to_shape(rows)
    length = mtf.Dimension("length", arrays["position_bias"].shape[0])
    before = mtf.Dimension("before", arrays["table"].shape[0])
    vocab = mtf.Dimension("vocab", before.size)
    shapes = {
        "table": [before, vocab],
        "position_bias": [length, vocab],
        "batch_bias": [rows[0], vocab],
        "embedding": [before, HIDDEN],
        "w1": [HIDDEN, vocab],
        "w2": [HIDDEN, vocab],
        "position_coef": [length],
    }
    w = {
        name: mtf.import_tf_tensor(mesh, arrays[name].astype(np.float32), shape)
        for name, shape in shapes.items()
    }

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        entry = mtf.gather(w["embedding"], ids, before)
        state1, state2 = state
        state1 = state1 * decay + entry
        at_position = mtf.cast(mtf.equal(mtf.range(mesh, length), position), tf.float32)
        state2 = state2 + mtf.einsum([at_position, entry], output_shape=state2.shape)
        logits = mtf.gather(w["table"], ids, before) + mtf.gather(
            w["position_bias"], position, length
        )
        logits = logits + w["batch_bias"]
        mixed = mtf.einsum([w["position_coef"], state2], output_shape=state1.shape)
        shape = [*rows, vocab]
        logits = logits + mtf.einsum([state1, w["w1"]], output_shape=shape)
        return logits + mtf.einsum([mixed, w["w2"]], output_shape=shape), (state1, state2)

    state = (mtf.zeros(mesh, [*rows, HIDDEN]), mtf.zeros(mesh, [*rows, length, HIDDEN]))
    return Decoder(step, state)
