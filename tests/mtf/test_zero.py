"""Variables that the reserved layout rules `slots` and `weights` split further."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from mtfrun.mtf.placement.zero import shard_shape
from tests.optim.updates import Known

MESH = "data:2,model:2"
ARRAY = np.arange(32, dtype=np.float32).reshape(8, 4)


def _variable(layout: str, mesh_shape: str = MESH) -> mtf.Variable:
    """Returns an initialised variable {a, b}."""
    reduced = [mtf.Dimension("a", 8)]
    variable = mtf.Variable(
        mtf.Mesh(mesh_shape, layout), "a:8;b:4", Known(ARRAY), reduced_dims=reduced
    )
    variable.initialize(seed=0, path="kernel")
    return variable


def _sharded(layout: str, shape: str, mesh_shape: str = MESH) -> str:
    return shard_shape(mtf.Mesh(mesh_shape, layout), shape).to_string


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("slots:data", "a:4;b:8;c:8", "a:4;b_over_data:8;c:8"),
        ("weights:data", "a:4;b:8;c:8", "a:4;b_over_data:8;c:8"),
        ("b:model;slots:data", "a:4;b:8", "a_over_data:4;b:8"),
        ("b:data;slots:data", "a:4;b:8", "a:4;b:8"),
        ("slots:data", "a:3;b:5", "a:3;b:5"),
        ("slots:data", "a:2;b:5", "a_over_data:2;b:5"),
        ("slots:data", "", ""),
        ("weights:data;slots:model", "a:4;b:8", "a_over_model:4;b_over_data:8"),
        ("weights:data;slots:data", "a:4;b:8", "a:4;b_over_data:8"),
    ],
)
def test_the_largest_dimension_that_is_free_and_divisible_is_split(
    layout: str, shape: str, expected: str
) -> None:
    assert _sharded(layout, shape) == expected


def test_an_axis_of_one_device_splits_nothing_and_leaves_dimensions_free() -> None:
    assert _sharded("slots:data", "a:4;b:8", "data:1,model:2") == "a:4;b:8"
    assert _sharded("b:model;slots:data", "a:4;b:8", "data:2,model:1") == "a:4;b_over_data:8"


def test_a_dimension_with_the_name_of_a_rule_is_an_error() -> None:
    mtf.Mesh(MESH, "a:data").partition("slots:4;weights:4")  # no such rule
    with pytest.raises(
        mtf.LayoutError,
        match=r"^dimension 'slots' of .* has the name of the layout rule slots:data",
    ):
        mtf.Mesh(MESH, "slots:data").partition("slots:4")


def test_a_rule_that_splits_nothing_is_unused() -> None:
    mesh = mtf.Mesh(MESH, "slots:data")
    mtf.Variable(mesh, "a:3").sharded  # noqa: B018
    assert mesh.unused_rules() == ["slots"]
    mtf.Variable(mesh, "a:4").sharded  # noqa: B018
    assert mesh.unused_rules() == []


def test_without_such_rules_a_sharded_variable_is_the_variable_itself() -> None:
    variable = _variable("a:data")
    assert mtf.shard_variables({"kernel": variable}) == {"kernel": variable}


@pytest.mark.parametrize(
    ("rule", "stored"), [("slots:data", [None, None]), ("weights:data", ["data", None])]
)
def test_a_variable_and_its_sharded_form_are_one(rule: str, stored: list[str | None]) -> None:
    variable = _variable(rule)
    sharded = variable.sharded
    assert sharded.path == "kernel"
    assert sharded.shape.to_string == "a_over_data:8;b:4"
    assert [side.to_string for side in sharded.sides] == ["a_over_data:8", "b:4"]
    assert sharded.reduced_dims is not None
    assert sharded.reduced_dims.to_string == "a_over_data:8"
    specs = dtensor.fetch_layout(variable.variable).sharding_specs
    assert specs == [axis or dtensor.UNSHARDED for axis in stored]
    whole, part = variable.read(), sharded.read()
    assert dtensor.fetch_layout(whole.value).is_fully_replicated()
    assert dtensor.fetch_layout(part.value).sharding_specs == ["data", dtensor.UNSHARDED]

    @mtf.function
    def add_one(x: mtf.Tensor) -> None:
        mtf.assign(sharded, sharded.read() + x)

    @mtf.function
    def double(x: mtf.Tensor) -> None:
        mtf.assign(variable, variable.read() * x)

    add_one(mtf.constant(variable.mesh, 1.0))
    double(mtf.constant(variable.mesh, 2.0))
    for one in (variable, sharded):
        np.testing.assert_array_equal(mtf.to_numpy(one), (ARRAY + 1) * 2)
    assert dtensor.fetch_layout(variable.variable).sharding_specs == specs


@pytest.mark.parametrize("rule", ["slots:data", "weights:data"])
def test_gradients_have_the_shape_of_the_form_that_is_differentiated(rule: str) -> None:
    variable = _variable(f"batch:data;{rule}")
    mesh = variable.mesh
    x = mtf.import_tf_tensor(mesh, np.ones([4, 8], np.float32), "batch:4;a:8")

    @mtf.function
    def gradients(x: mtf.Tensor) -> list[mtf.Tensor | None]:
        def loss() -> mtf.Tensor:
            return mtf.reduce_sum(mtf.square(mtf.einsum([x, variable], output_shape="batch:4;b:4")))

        return [
            mtf.value_and_gradients(loss, {"kernel": form})[1]["kernel"]
            for form in (variable, variable.sharded)
        ]

    whole, part = gradients(x)
    assert whole is not None and part is not None
    assert whole.shape == variable.shape and part.shape == variable.sharded.shape
    assert dtensor.fetch_layout(part.value).sharding_specs == ["data", dtensor.UNSHARDED]
    expected = tf.tile(2.0 * 4 * ARRAY.sum(0, keepdims=True), [8, 1]).numpy()
    np.testing.assert_allclose(mtf.to_numpy(whole), expected)
    np.testing.assert_allclose(mtf.to_numpy(part), expected)


def test_a_loop_reads_what_was_gathered_before_it() -> None:
    variable = _variable("weights:data")

    @mtf.function
    def four_times(start: mtf.Tensor) -> mtf.Tensor:
        with mtf.read_once({"kernel": variable}):
            _, total = mtf.while_loop(
                lambda i, total: i < 4,
                lambda i, total: (i + 1, total + variable.read()),
                [mtf.constant(variable.mesh, 0, dtype=tf.int32), start],
            )
        return total

    np.testing.assert_array_equal(
        mtf.to_numpy(four_times(mtf.zeros(variable.mesh, variable.shape))), 4 * ARRAY
    )
    assert dtensor.fetch_layout(variable.sharded.read().value).sharding_specs[0] == "data"
