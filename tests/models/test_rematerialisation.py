"""Blocks that compute again in the backward pass what is not stored by its name."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.transformer import FeedForward, Stack
from tests.layouts import ONE_DEVICE, meshes
from tests.models.small_model import LAYOUT, on_mesh, packed_rows, small_model
from tests.models.under_layouts import Step, assert_same_step, training_step

ALL = ("attention", "dense", "projections")
# What is computed again, and the block length of attention.
CASES = [
    ((), None),
    (("dense", "projections"), 4),
    (("attention", "projections"), None),
    (("attention", "dense"), 4),
]


@functools.cache
def _stored(mesh_shape: str, block_length: int | None) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, dropout_rate=0.2, block_length=block_length)
    return training_step(model, mesh, packed_rows())


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize(("names", "block_length"), CASES)
def test_what_is_stored_changes_no_gradient(
    names: Sequence[str], block_length: int | None, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, dropout_rate=0.2, block_length=block_length, rematerialise=names)
    actual = training_step(model, mesh, packed_rows())
    assert_same_step(actual, _stored(ONE_DEVICE, block_length))


def _operations(kind: str, names: Sequence[str], block_length: int | None = None) -> int:
    """Returns how many operations a step of a block runs, those that nothing needs left out."""
    mesh = mtf.Mesh()
    model = small_model(mesh, num_layers=1, block_length=block_length, rematerialise=names)
    features = on_mesh(mesh, packed_rows())
    variables = model.named_variables()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step() -> list[tf.Tensor]:
        def total() -> mtf.Tensor:
            return model.loss(features, training=True).total

        _, gradients = mtf.value_and_gradients(total, variables)
        return [gradient.value for gradient in gradients.values() if gradient is not None]

    graph = step.get_concrete_function().graph
    needed: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        x = waiting.pop()
        # A custom gradient has its inputs among its outputs; Grappler splits the operation.
        inputs = [x.op.inputs[x.value_index]] if x.op.type == "IdentityN" else x.op.inputs
        waiting += [] if x.op.name in needed and x.op.type != "IdentityN" else inputs
        needed.add(x.op.name)
    return sum(op.type in kind.split() for op in graph.get_operations() if op.name in needed)


def test_products_that_are_stored_are_not_computed_again() -> None:
    products = functools.partial(_operations, "MatMul BatchMatMulV2 Einsum")
    all_again = products(ALL)
    # The last product of a block is not needed.
    assert all_again - products(["attention", "projections"]) == 1
    assert all_again - products(["attention", "dense"]) == 4
    # The weights are needed, but not the mean of the values.
    assert all_again - products(["dense"]) == 5


@pytest.mark.slow
def test_attention_in_blocks_that_is_stored_has_no_second_loop() -> None:
    loops = functools.partial(_operations, "While StatelessWhile", block_length=4)
    assert loops(ALL) - loops(["dense", "projections"]) == 1


def test_a_value_is_replaced_by_the_stored_one() -> None:
    mesh = mtf.Mesh()
    x = mtf.import_tf_tensor(mesh, np.array([1.0, 2.0], np.float32), "n:2")

    def cube(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.keep(x * x, "square") * x

    def gradients(x: mtf.Tensor, names: Sequence[str] | None) -> list[mtf.Tensor | None]:
        y = mtf.recompute_grad(cube, [x], names)
        return mtf.gradients([mtf.reduce_sum(y)], [x])

    for names in (None, (), ("square",)):
        (gradient,) = mtf.function(functools.partial(gradients, names=names))(x)
        np.testing.assert_array_equal(mtf.to_numpy(gradient), [3.0, 12.0])
    with pytest.raises(InputError, match="is called 'sqare', did you mean 'square'"):
        mtf.recompute_grad(cube, [x], ["sqare"])


def test_a_loop_over_blocks_takes_no_names() -> None:
    feed_forward = functools.partial(FeedForward, d_ff=8)
    d_model = mtf.Dimension("d_model", 8)
    with pytest.raises(InputError, match="a loop over blocks stores their inputs alone"):
        Stack(mtf.Mesh(), d_model, layers=[feed_forward], rematerialise=["dense"], scan_blocks=1)
