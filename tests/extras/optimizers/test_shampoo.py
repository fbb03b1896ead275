"""Shampoo besides layouts: roots by products, and ten updates by the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras import optimizers
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates

MESH = mtf.Mesh(ONE_DEVICE)
NUM_STEPS = 10
RATE, DECAY, BETA2 = 0.02, 0.1, 0.9
DIMS = {
    "tall": ["d_ff", "d_model"],
    "query": ["d_model", "heads", "d_kv"],
    "experts": ["experts", "d_model", "expert_hidden"],
    "bias": ["d_ff"],
}
REDUCED = {"tall": ["d_ff"], "query": ["d_model"], "experts": ["d_model"]}
SIZES = {"d_model": 6, "d_ff": 10, "heads": 2, "d_kv": 4, "experts": 3, "expert_hidden": 5}
# Of each variable: the sizes of a batch, of rows and of columns.
MATRICES = {"tall": (1, 10, 6), "query": (1, 6, 8), "experts": (3, 6, 5)}
# Well above float32's precision of the products.
EPSILON = 0.03


@pytest.mark.parametrize("power", [2, 4])
def test_roots_are_those_of_eigenvalues(power: int) -> None:
    side = mtf.Dimension("side", 12)
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=[3, 12, 12]))
    values = 10.0 ** np.linspace(-3, 1, 12)
    matrices = np.einsum("bij,j,bkj->bik", vectors, values, vectors)
    dims = [mtf.Dimension("batch", 3), side, mtf.Dimension("side_other", 12)]
    x = mtf.import_tf_tensor(MESH, matrices.astype(np.float32), dims)
    actual = mtf.to_numpy(mtf.function(lambda x: optimizers.inverse_root(x, side, power))(x))
    expected = np.einsum("bij,j,bkj->bik", vectors, values ** (-1 / power), vectors)
    # Entries have the rounding of the smallest eigenvalue, 1e-4 of the largest.
    assert_close(actual, expected, 1e4**0.25 * FLOAT32_OP_TOLERANCE)


def _root(average: np.ndarray, power: int) -> np.ndarray:
    norm = np.linalg.norm(average, axis=(-2, -1), keepdims=True)
    values, vectors = np.linalg.eigh(average / norm + EPSILON * np.eye(average.shape[-1]))
    return np.einsum("bij,bj,bkj->bik", vectors, values ** (-1 / power), vectors)


def _expected(
    path: str, parameter: np.ndarray, gradients: np.ndarray, every_steps: int
) -> np.ndarray:
    """Returns the parameters after each update, in float64."""
    p, after = parameter.astype(np.float64), []
    m, v, left, right = (np.zeros_like(p) for _ in range(4))
    if path in MATRICES:
        batch, rows, columns = MATRICES[path]
        left, right = np.zeros([batch, rows, rows]), np.zeros([batch, columns, columns])
    roots: list[np.ndarray] = []
    for step, g in enumerate(gradients.astype(np.float64)):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        of_adam = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        direction = of_adam
        if path in MATRICES:
            shape = MATRICES[path]
            matrix = g.reshape(shape)
            left = BETA2 * left + (1 - BETA2) * np.einsum("bij,bkj->bik", matrix, matrix)
            right = BETA2 * right + (1 - BETA2) * np.einsum("bij,bik->bjk", matrix, matrix)
            if step % every_steps == 0:
                roots = [_root(left, 4), _root(right, 4)]
            x = roots[0] @ m.reshape(shape) @ roots[1]
            norms = [np.linalg.norm(y.reshape(shape), axis=(1, 2)) for y in (of_adam, x)]
            direction = (x * (norms[0] / norms[1])[:, np.newaxis, np.newaxis]).reshape(p.shape)
        p = p - RATE * (direction + DECAY * p)
        after.append(p)
    return np.stack(after)


@pytest.mark.slow
@pytest.mark.parametrize("every_steps", [1, 4])
def test_ten_updates_are_those_of_the_formulas(every_steps: int) -> None:
    rng = np.random.default_rng(1)
    shapes = {path: [SIZES[name] for name in names] for path, names in DIMS.items()}
    values = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    gradients = {
        path: rng.normal(size=[NUM_STEPS, *shape]).astype(np.float32)
        for path, shape in shapes.items()
    }
    optimizer = optimizers.Shampoo(
        RATE, DECAY, preconditioning=optimizers.Preconditioning(BETA2, EPSILON, every_steps)
    )
    variables = make_variables(MESH, values, DIMS, ["heads", "d_kv"], REDUCED)
    after = run_updates(optimizer, variables, gradients)
    for path in DIMS:
        expected = _expected(path, values[path], gradients[path], every_steps)
        assert_close(after[path], expected.astype(np.float32), FLOAT32_OP_TOLERANCE)


def test_gradients_of_rank_1_have_a_root() -> None:
    rng = np.random.default_rng(2)
    sides = rng.normal(size=[2, 256]) * np.exp(rng.normal(size=[2, 256]))
    gradient = np.outer(*sides).astype(np.float32)
    variables = make_variables(
        MESH, {"tall": np.zeros_like(gradient)}, DIMS, (), {"tall": ["d_ff"]}
    )
    after = run_updates(optimizers.Shampoo(RATE), variables, {"tall": gradient[np.newaxis]})["tall"]
    # Along the only singular vectors, with the norm of Adam's first direction, 1 for each entry.
    expected = -RATE * gradient.size**0.5 * gradient / np.linalg.norm(gradient)
    assert_close(after[0], expected.astype(np.float32), 1e-3)


def test_a_long_side_has_no_preconditioner_and_settings_are_checked() -> None:
    variables = make_variables(MESH, {"tall": np.ones([10, 6], np.float32)}, DIMS, (), REDUCED)
    settings = optimizers.Preconditioning(largest_side=6)
    optimizer = optimizers.Shampoo(0.1, preconditioning=settings)
    optimizer.init(variables)
    slots = [f"tall/{name}" for name in ("m", "v", "right", "right_root")]
    assert [*optimizer.named_slots()] == slots
    with pytest.raises(InputError, match=r"every_steps"):
        optimizers.Preconditioning(every_steps=0)
