"""Variables of a small model, which tests save and restore."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf


def variables(seed: int = 0, **changed: tuple[int, ...]) -> dict[str, tf.Variable]:
    """Returns parameters, slots and the step of a small model, different for every seed."""
    rng = np.random.default_rng(seed)
    shapes = {"decoder/kernel": (3, 4), "decoder/bias": (4,), "slots/decoder/bias": (4,), **changed}
    weights = {
        path: tf.Variable(rng.normal(size=shape), dtype=tf.float32)
        for path, shape in shapes.items()
    }
    return {**weights, "step": tf.Variable(seed, dtype=tf.int64)}


def values(model: dict[str, tf.Variable]) -> dict[str, bytes]:
    return {path: variable.numpy().tobytes() for path, variable in model.items()}


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
