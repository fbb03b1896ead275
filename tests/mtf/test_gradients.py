"""Gradients, of functions that are recomputed too."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf
from mtfrun.mtf.parameters import initializers
from tests.layouts import assert_close

RNG = np.random.default_rng(2)
X = RNG.standard_normal([8, 4]).astype(np.float32)


class Linear(mtf.Module):
    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.kernel = mtf.Variable(mesh, "features:4;d_ff:8", initializers.RandomNormal())
        self.unused = mtf.Variable(mesh, "d_ff:8")

    def __call__(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.tanh(mtf.einsum([x, self.kernel], reduced_dims=["features:4"]))


def linear(mesh_shape: str) -> tuple[Linear, mtf.Tensor]:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_ff:model")
    model = Linear(mesh)
    mtf.initialize(model, 1)
    return model, mtf.import_tf_tensor(mesh, X, "batch:8;features:4")


def expected_gradient(model: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Returns the loss, a sum of squares, and its gradient, by numpy in float64."""
    hidden = np.tanh(X.astype(np.float64) @ mtf.to_numpy(model.kernel))
    return (hidden**2).sum(), X.T @ (2 * hidden * (1 - hidden**2))


def test_value_and_gradients_of_variables(mesh_shape: str) -> None:
    model, x = linear(mesh_shape)

    def step(x: mtf.Tensor) -> tuple[mtf.Tensor, dict[str, mtf.Tensor | None]]:
        return mtf.value_and_gradients(
            lambda: mtf.reduce_sum(mtf.square(model(x))), model.named_variables()
        )

    loss, gradients = mtf.function(step)(x)
    expected_loss, expected = expected_gradient(model)
    assert_close(mtf.to_numpy(loss), np.float32(expected_loss))
    assert gradients["kernel"].shape == model.kernel.shape
    assert_close(mtf.to_numpy(gradients["kernel"]), expected.astype(np.float32))
    assert gradients["unused"] is None


def test_gradients_of_tensors_and_variables_with_cotangents(mesh_shape: str) -> None:
    model, x = linear(mesh_shape)

    def step(x: mtf.Tensor) -> list[mtf.Tensor | None]:
        kernel = mtf.read_variable(model.kernel)
        y = mtf.einsum([x, kernel], "d_ff:8;batch:8")
        cotangent = mtf.broadcast(mtf.range(x.mesh, "batch:8", x.dtype), "batch:8;d_ff:8")
        return mtf.gradients([y, mtf.square(x)], [x, kernel, model.unused], [cotangent, None])

    of_x, of_kernel, of_unused = mtf.function(step)(x)
    cotangent = np.repeat(np.arange(8.0)[:, None], 8, 1)
    kernel = mtf.to_numpy(model.kernel)
    assert_close(mtf.to_numpy(of_x), (cotangent @ kernel.T + 2 * X).astype(np.float32))
    assert_close(mtf.to_numpy(of_kernel), (X.T @ cotangent).astype(np.float32))
    assert of_unused is None


def test_custom_gradient_replaces_the_gradient_of_the_function(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data")
    x = mtf.import_tf_tensor(mesh, X, "batch:8;features:4")

    def step(x: mtf.Tensor) -> tuple[mtf.Tensor | None, ...]:
        y, z = mtf.custom_gradient(
            lambda a, b: (a * b, mtf.reduce_sum(a)),
            lambda inputs, outputs, grads: [mtf.ones_like(inputs[0]) * 7.0, grads[0] * outputs[0]],
            [x, x + 1.0],
        )
        return y, z, mtf.gradients([y], [x])[0]

    y, z, gradient = mtf.function(step)(x)
    assert_close(mtf.to_numpy(y), X * (X + 1))
    assert_close(mtf.to_numpy(z), X.sum(dtype=np.float64).astype(np.float32))
    assert_close(mtf.to_numpy(gradient), 7.0 + X * (X + 1))


def test_recompute_grad_gives_the_same_gradients_of_inputs_and_variables(mesh_shape: str) -> None:
    model, x = linear(mesh_shape)

    def step(x: mtf.Tensor, recompute: bool) -> list[mtf.Tensor]:
        def loss() -> mtf.Tensor:
            hidden = mtf.recompute_grad(model, [x]) if recompute else model(x)
            return mtf.reduce_sum(mtf.square(hidden))

        value, gradients = mtf.value_and_gradients(loss, {"kernel": model.kernel})
        return [value, gradients["kernel"]]

    compiled = mtf.function(step)
    for actual, expected in zip(compiled(x, True), compiled(x, False), strict=True):
        assert_close(mtf.to_numpy(actual), mtf.to_numpy(expected))
