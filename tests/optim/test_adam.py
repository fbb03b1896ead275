"""Adam against the paper's formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf, optim
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
    with pytest.raises(optim.PatternError, match=r"'kernl' matches none.*nearest is 'kernel'"):
        optimizer.init(variables)
