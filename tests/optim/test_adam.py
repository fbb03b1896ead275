"""Adam and SGD compute their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from tests.layouts import ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates

NUM_STEPS = 20


def _adamw(
    theta: np.ndarray,
    gradients: np.ndarray,
    *,
    alpha: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> np.ndarray:
    """Returns theta after every update of Loshchilov & Hutter 2019, algorithm 2, line by line."""
    m = v = np.zeros_like(theta, dtype=np.float64)
    history = []
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - alpha * (m_hat / (np.sqrt(v_hat) + epsilon) + weight_decay * theta)
        history.append(theta)
    return np.stack(history)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
def test_adam_equals_the_paper(epsilon: float, weight_decay: float) -> None:
    rng = np.random.default_rng(0)
    values = {path: rng.normal(size=[5, 3]).astype(np.float32) for path in ("kernel", "bias")}
    gradients = {
        path: rng.normal(size=[NUM_STEPS, 5, 3]).astype(np.float32) for path in ("kernel", "bias")
    }
    optimizer = optim.Adam(
        0.01,
        beta1=0.9,
        beta2=0.999,
        epsilon=epsilon,
        weight_decay=weight_decay,
        exclude_from_weight_decay=["bias"],
    )
    dims = {"kernel": ["a", "b"], "bias": ["a", "b"]}

    after = run_updates(optimizer, make_variables(mtf.Mesh(ONE_DEVICE), values, dims), gradients)

    for path, decay in {"kernel": weight_decay, "bias": 0.0}.items():
        expected = _adamw(
            values[path],
            gradients[path],
            alpha=0.01,
            beta1=0.9,
            beta2=0.999,
            epsilon=epsilon,
            weight_decay=decay,
        )
        # The first update is compared too, since it is far smaller than the parameter.
        assert_close(after[path], expected)
        assert_close(after[path][0] - values[path], expected[0] - values[path], 1e-4)


def test_a_pattern_that_excludes_nothing_from_decay_is_an_error() -> None:
    variables = make_variables(mtf.Mesh(ONE_DEVICE), {"kernel": np.zeros([2])}, {"kernel": ["a"]})
    optimizer = optim.Adam(0.1, weight_decay=0.1, exclude_from_weight_decay=["kernl"])
    with pytest.raises(InputError, match=r"='kernl' is in none.*did you mean 'kernel'"):
        optimizer.init(variables)


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
