"""Clipped gradients, and the variables that are trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.optim.trainable_variables import learning_rate_factors, matching_paths
from tests.layouts import ONE_DEVICE, assert_close

GRADIENTS: dict[str, np.ndarray] = {
    "kernel": np.arange(32, dtype=np.float32).reshape([8, 4]),
    "bias": np.array([3, 4, -5, 6], np.float32),
}
SHAPES = {"kernel": "d_model:8;d_ff:4", "bias": "d_ff:4"}
NORM = float(np.sqrt(sum((value**2).sum() for value in GRADIENTS.values())))


def _clip(mesh_shape: str, max_norm: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    mesh = mtf.Mesh(mesh_shape, "d_model:data;d_ff:model")
    gradients = {
        path: mtf.import_tf_tensor(mesh, value, SHAPES[path]) for path, value in GRADIENTS.items()
    }
    clip = mtf.function(lambda gradients: optim.clip_by_global_norm(gradients, max_norm))
    return mtf.to_numpy(clip(gradients))


def test_large_gradients_are_scaled_to_the_norm(mesh_shape: str) -> None:
    clipped, norm = _clip(mesh_shape, max_norm=2.0)
    assert_close(norm, NORM)
    for path, value in GRADIENTS.items():
        assert_close(clipped[path], value * 2.0 / NORM)


def test_small_gradients_are_not_changed() -> None:
    clipped, norm = _clip(ONE_DEVICE, max_norm=NORM * 1.01)
    assert_close(norm, NORM)
    for path, value in GRADIENTS.items():
        np.testing.assert_array_equal(clipped[path], value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_norm_shows_a_gradient_that_is_not_finite(bad: float) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    gradients = {"bias": mtf.import_tf_tensor(mesh, np.array([1, bad, 0, 0], np.float32), "d_ff:4")}
    _, norm = mtf.to_numpy(optim.clip_by_global_norm(gradients, 1.0))
    assert not np.isfinite(norm)


def test_a_norm_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="max_norm is 0: it must be more than 0"):
        optim.clip_by_global_norm({}, 0)


def test_the_squares_are_added_in_one_order() -> None:
    """TensorFlow makes an AddN of a chain of sums, whose order differs from run to run."""
    mesh = mtf.Mesh()

    def norm(x: tf.Tensor) -> tf.Tensor:
        tensor = mtf.Tensor(mesh, x, mtf.convert_to_shape("d_ff:4"))
        return optim.global_norm({str(i): tensor * float(i) for i in range(5)}).value

    program = tf.function(norm, autograph=False).get_concrete_function(tf.TensorSpec([4]))
    kinds = [operation.type for operation in program.graph.get_operations()]
    assert kinds.count("L2Loss") == 5 and kinds.count("Sum") == 1
    assert not {"Add", "AddV2", "AddN"} & set(kinds)


PATHS = [
    "embedding/table",
    "blocks/0/attention/query",
    "blocks/0/norm/scale",
    "blocks/1/norm/scale",
]


def _variables() -> dict[str, mtf.Variable]:
    mesh = mtf.Mesh(ONE_DEVICE)
    variables = {path: mtf.Variable(mesh, "d_model:4") for path in PATHS}
    variables["blocks/1/moving_mean"] = mtf.Variable(mesh, "d_model:4", trainable=False)
    return variables


def test_frozen_variables_are_not_trained() -> None:
    assert list(optim.trainable_variables(_variables())) == PATHS
    assert list(optim.trainable_variables(_variables(), ["norm", "^embedding/"])) == [PATHS[1]]


def test_freezing_everything_is_an_error() -> None:
    with pytest.raises(InputError, match="matches every variable"):
        optim.trainable_variables(_variables(), [""])


@pytest.mark.parametrize(
    "pattern, nearest",
    [("^embeding", "mean 'embedding'"), ("querry", "mean 'query'"), ("zzz", "embedding/table")],
)
def test_a_pattern_that_matches_nothing_names_the_nearest_path(pattern: str, nearest: str) -> None:
    message = f"frozen='{pattern.replace('^', '.')}' is in none of the 4 paths .*{nearest}"
    with pytest.raises(InputError, match=message):
        optim.trainable_variables(_variables(), [pattern])


def test_a_pattern_that_is_no_regular_expression_is_an_error() -> None:
    with pytest.raises(InputError, match=r"frozen='\(' is not a regular expression"):
        matching_paths(PATHS, ["("], "frozen")


def test_the_first_pattern_gives_the_factor() -> None:
    factors = learning_rate_factors(PATHS, {"/1/": 0.5, "norm": 0.1, "embedding": 0.0})
    assert factors == dict(zip(PATHS, [0.0, 1.0, 0.1, 0.5], strict=True))


def test_a_pattern_that_only_repeats_an_earlier_one_is_no_error() -> None:
    assert learning_rate_factors(["a/b"], {"a": 2.0, "b": 3.0}) == {"a/b": 2.0}


def test_a_factor_or_a_schedule_by_path_scales_the_update() -> None:
    gradient = np.array([1, -2, 3, 4], np.float32)
    mesh = mtf.Mesh(ONE_DEVICE)
    makers: list[Callable[..., optim.SlotOptimizer]] = [
        optim.Sgd,
        optim.Momentum,
        optim.Adam,
        optim.Adafactor,
    ]
    for make, factor in itertools.product(makers, [4.0, optim.Piecewise([3], [1.0, 4.0])]):
        variables = {path: mtf.Variable(mesh, "d_model:4") for path in ("head/w", "body/w")}
        optimizer = make(0.5, learning_rate_factors={"^head": factor})
        optimizer.init(variables)
        for path, variable in {**variables, **optimizer.named_slots()}.items():
            variable.initialize(seed=0, path=path)
        gradients = {path: mtf.import_tf_tensor(mesh, gradient, "d_model:4") for path in variables}
        new = optimizer.update(gradients, mtf.import_tf_tensor(mesh, np.int32(3), []))
        head, body = (mtf.to_numpy(new[variables[path]]) for path in ("head/w", "body/w"))
        assert np.abs(body).min() > 0
        np.testing.assert_allclose(head, body * 4.0, rtol=1e-6)
