"""A small model's variables, which tests save and restore."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def variables(seed: int = 0, **changed: tuple[int, ...]) -> dict[str, tf.Variable]:
    """A small model with optimizer slots, different for every seed."""
    rng = np.random.default_rng(seed)
    shapes = {"decoder/kernel": (3, 4), "decoder/bias": (4,), "slots/decoder/bias": (4,), **changed}
    made = {
        path: tf.Variable(rng.normal(size=shape), dtype=tf.float32)
        for path, shape in shapes.items()
    }
    return {**made, "step": tf.Variable(seed, dtype=tf.int64)}


def values(of: dict[str, tf.Variable]) -> dict[str, bytes]:
    """The bits of all variables."""
    return {path: variable.numpy().tobytes() for path, variable in of.items()}
