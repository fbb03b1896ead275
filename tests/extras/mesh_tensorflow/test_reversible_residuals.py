"""Reversible residuals: values, gradients, and what the backward pass stores and prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import zoo
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

SHAPE = mtf.convert_to_shape("batch:8;d_model:8")
PARTS = [np.random.default_rng(i).standard_normal([8, 8], np.float32) for i in range(2)]


class _Block(mtf.Module):
    """A function tanh(x kernel) kernel^T."""

    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.kernel = mtf.Variable(mesh, "d_model:8;d_ff:8", mtf.initializers.RandomNormal(0.5))

    def __call__(self, x: mtf.Tensor) -> mtf.Tensor:
        hidden = mtf.tanh(mtf.einsum([x, self.kernel], "batch:8;d_ff:8"))
        return mtf.einsum([hidden, self.kernel], x.shape)


class _Chain(mtf.Module):
    """Three residual blocks, of which the first is applied twice."""

    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.first, self.second, self.third = (_Block(mesh) for _ in range(3))
        self.blocks = [self.first, self.second, self.third, self.first]

    def __call__(self, x1: mtf.Tensor, x2: mtf.Tensor, reversible: bool) -> list[mtf.Tensor]:
        if reversible:
            return list(zoo.reversible_residuals(x1, x2, self.blocks))
        for block in self.blocks:
            x1, x2 = x2, x1 + block(x2)
        return [x1, x2]


def _results(mesh_shape: str, reversible: bool) -> list[np.ndarray]:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_ff:model")
    chain = _Chain(mesh)
    mtf.initialize(chain)
    variables = chain.named_variables()
    inputs = [mtf.import_tf_tensor(mesh, part, SHAPE) for part in PARTS]

    def step(x1: mtf.Tensor, x2: mtf.Tensor) -> list[mtf.Tensor | None]:
        outputs = chain(x1, x2, reversible)
        loss = mtf.reduce_sum(mtf.square(outputs[0]) + mtf.pow(outputs[1], 3))
        return [*outputs, *mtf.gradients([loss], [x1, x2, *variables.values()])]

    return mtf.to_numpy(mtf.function(step)(*inputs))


def test_numbers_and_gradients_are_those_of_ordinary_blocks(mesh_shape: str) -> None:
    reversible, ordinary = _results(mesh_shape, True), _results(mesh_shape, False)
    assert len(reversible) == 7
    for actual, expected in zip(reversible, ordinary, strict=True):
        # Recomputed activations have the rounding of a sum of all blocks.
        assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)


def _num_stored(chain: Callable[[mtf.Tensor, mtf.Tensor], Sequence[mtf.Tensor]]) -> int:
    """Returns how many values of the forward pass the backward pass uses."""
    mesh = mtf.Mesh()
    stored: set[str] = set()

    def step(a: tf.Tensor, b: tf.Tensor) -> list[tf.Tensor]:
        graph = tf.compat.v1.get_default_graph()
        xs = [mtf.Tensor(mesh, value, SHAPE) for value in (a, b)]
        y1, y2 = chain(*xs)
        forward = {op.name for op in graph.get_operations()}
        gradients = mtf.gradients([y1 * y2], xs)
        for op in graph.get_operations():
            if op.name not in forward:
                stored.update(x.op.name for x in op.inputs if x.op.type in ("Tanh", "AddV2"))
        stored.intersection_update(forward)
        return [gradient.value for gradient in gradients if gradient is not None]

    tf.function(step, autograph=False).get_concrete_function(*PARTS)
    return len(stored)


def test_only_the_last_activations_are_stored_for_the_backward_pass() -> None:
    def ordinary(x1: mtf.Tensor, x2: mtf.Tensor) -> list[mtf.Tensor]:
        for _ in range(5):
            x1, x2 = x2, x1 + mtf.tanh(x2)
        return [x1, x2]

    assert _num_stored(ordinary) >= 5
    assert _num_stored(lambda x1, x2: zoo.reversible_residuals(x1, x2, [mtf.tanh] * 5)) == 2


def test_another_shape_is_an_error() -> None:
    x = mtf.zeros(mtf.Mesh(), SHAPE)
    with pytest.raises(mtf.ShapeError, match=r"of reversible_residuals have one shape: .*, not"):
        zoo.reversible_residuals(x, mtf.zeros(x.mesh, "batch:8"), [mtf.tanh])
    with pytest.raises(mtf.ShapeError, match=r"of reversible_residuals have one shape: .*, not"):
        zoo.reversible_residuals(x, x, [lambda y: mtf.reduce_sum(y)])


def test_further_results_have_gradients_and_are_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mesh = mtf.Mesh()
    x, w = (mtf.constant(mesh, value, "batch:2") for value in (1.0, 3.0))

    def layer(z: mtf.Tensor, w: mtf.Tensor) -> tuple[mtf.Tensor, dict[str, mtf.Tensor]]:
        return mtf.Print(z, [z], "z") * 0.0, {"sum": mtf.reduce_sum(z * w)}

    def step(x: mtf.Tensor, w: mtf.Tensor) -> list[mtf.Tensor | None]:
        _, _, further = zoo.reversible_layers(x, x, [layer], [w])
        return mtf.gradients([further[0]["sum"]], [x, w])

    assert [value.tolist() for value in mtf.to_numpy(mtf.function(step)(x, w))] == [[3, 3], [1, 1]]
    assert len(capsys.readouterr().err.splitlines()) == 1
