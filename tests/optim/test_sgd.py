"""Momentum against plain Python; its plain form is among the reference values as well."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from tests.layouts import ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates


def test_nesterov_equals_sutskever_et_al() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=[4]).astype(np.float32)
    gradients = rng.normal(size=[10, 4]).astype(np.float32)
    variables = make_variables(mtf.Mesh(ONE_DEVICE), {"w": start}, {"w": ["a"]})

    after = run_updates(optim.Momentum(0.1, 0.9, nesterov=True), variables, {"w": gradients})

    # Equations 3 and 4: theta is the iterate. The variable is theta + mu * v, where gradients are
    # computed.
    theta, v = start.astype(np.float64), np.zeros([4])
    expected = []
    for gradient in gradients:
        v = 0.9 * v - 0.1 * gradient
        theta = theta + v
        expected.append(theta + 0.9 * v)
    assert_close(after["w"], np.stack(expected))


def test_nesterov_differs_from_plain_momentum() -> None:
    gradients = {"w": np.ones([3, 2], np.float32)}
    plain, nesterov = (
        run_updates(
            optim.Momentum(0.1, 0.9, nesterov=nesterov),
            make_variables(mtf.Mesh(ONE_DEVICE), {"w": np.zeros([2], np.float32)}, {"w": ["a"]}),
            gradients,
        )["w"]
        for nesterov in (False, True)
    )
    assert_close(plain[:, 0], [-0.1, -0.29, -0.561])
    assert_close(nesterov[:, 0], [-0.19, -0.461, -0.8049])


def test_weight_decay_is_added_to_the_gradient_except_for_excluded_paths() -> None:
    start = np.array([2.0, -4.0], np.float32)
    variables = make_variables(
        mtf.Mesh(ONE_DEVICE), {"w": start, "norm/scale": start}, {"w": ["a"], "norm/scale": ["a"]}
    )
    optimizer = optim.Momentum(0.1, 0.9, weight_decay=0.5, exclude_from_weight_decay=["norm/"])
    gradients = {"w": np.ones([1, 2], np.float32), "norm/scale": np.ones([1, 2], np.float32)}
    after = run_updates(optimizer, variables, gradients)
    assert_close(after["w"][0], start - 0.1 * (1.0 + 0.5 * start))
    assert_close(after["norm/scale"][0], start - 0.1)


def test_a_delayed_velocity_is_that_of_the_step_before() -> None:
    gradients = np.array([[1.0], [2.0], [4.0]], np.float32)
    variables = make_variables(mtf.Mesh(ONE_DEVICE), {"w": np.zeros([1], np.float32)}, {"w": ["a"]})
    after = run_updates(optim.Momentum(0.1, 0.5, delayed=True), variables, {"w": gradients})
    # Velocities 0, 0.1, 0.25.
    assert_close(after["w"][:, 0], [0.0, -0.1, -0.35])


def test_a_delayed_velocity_is_not_nesterov_s() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        optim.Momentum(0.1, nesterov=True, delayed=True)
