"""No layout changes the result of a ported function, nor its gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models import parity
from tests.layers.differentiated import output_and_gradients
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close, meshes

X = np.random.default_rng(0).normal(size=[8, 4, 8]).astype(np.float32)
INPUTS = {"x": ("batch:8;length:4;d_model:8", X)}

FUNCTIONS: dict[str, Callable[[mtf.Tensor, mtf.Key], mtf.Tensor]] = {
    "annealed_dropout": lambda x, key: parity.annealed_dropout(
        x, True, 10, 50, init_rate=0.8, step=mtf.constant(x.mesh, 30, dtype=tf.int64), key=key
    ),
    "multiplicative_jitter": lambda x, key: parity.multiplicative_jitter(x, 0.3, key=key),
    "clip_activation_gradient": lambda x, key: parity.clip_activation_gradient(mtf.tanh(x), 0.01),
}


@functools.cache
def _results(name: str, mesh_shape: str) -> dict[str, np.ndarray]:
    return output_and_gradients(
        mesh_shape,
        lambda mesh: mtf.Module(),
        lambda module, inputs, call: FUNCTIONS[name](inputs["x"], call.key_of(module)),
        INPUTS,
    )


@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_layout_changes_neither_output_nor_gradients(name: str, mesh_shape: str) -> None:
    expected, actual = _results(name, ONE_DEVICE), _results(name, mesh_shape)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value, FLOAT32_OP_TOLERANCE)
