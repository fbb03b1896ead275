"""Meshes: what is laid out where, and every error before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf


def test_a_mesh_of_one_device_uses_no_dtensor() -> None:
    mesh = mtf.Mesh("data:1,model:1", "batch:data;heads:model")
    assert not mesh.is_distributed
    x = mtf.import_tf_tensor(mesh, np.ones([4, 2], np.float32), "batch:4;heads:2")
    assert not dtensor.is_dtensor(x.value)


def test_the_partition_follows_the_rules() -> None:
    mesh = mtf.Mesh("data:2,model:4", "batch:data;heads:model")
    shape = mtf.convert_to_shape("length:3;heads:8;batch:6")
    assert mesh.partition(shape) == (None, "model", "data")
    assert mesh.num_splits(mtf.Dimension("heads", 8)) == 4
    assert mesh.num_splits(mtf.Dimension("length", 3)) == 1
    assert mesh.axis_of(mtf.Dimension("length", 3)) is None
    assert mesh.size == 8 and mesh.is_distributed


def test_every_device_holds_its_part() -> None:
    mesh = mtf.Mesh("data:2,model:2", "a:data;b:model")
    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    parts = dtensor.unpack(mtf.import_tf_tensor(mesh, array, "a:4;b:4").value)
    expected = [array[:2, :2], array[:2, 2:], array[2:, :2], array[2:, 2:]]
    for part, wanted in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.numpy(), wanted)


def test_an_axis_of_one_device_splits_nothing() -> None:
    mesh = mtf.Mesh("data:2,model:1", "a:data;b:model")
    assert mesh.dtensor_layout("a:4;b:4").sharding_specs == ["data", dtensor.UNSHARDED]


def test_a_rule_for_an_unknown_axis_is_an_error_with_the_nearest_axis() -> None:
    with pytest.raises(
        mtf.LayoutError,
        match=r"^layout rule heads:modle names a mesh axis that does not exist "
        r"\(the mesh is data:2;model:2\), did you mean 'model'\?$",
    ):
        mtf.Mesh("data:2,model:2", "batch:data;heads:modle")


@pytest.mark.parametrize("mesh_shape", ["data:1,model:1", "data:2,model:2"])
def test_two_dimensions_on_one_axis_are_an_error_on_any_mesh(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;experts:data")
    with pytest.raises(
        mtf.LayoutError,
        match=r"^dimensions 'batch' and 'experts' of Shape\(batch:4;experts:4\) are both on mesh "
        r"axis 'data': drop one of the rules or rename a dimension$",
    ):
        mesh.partition("batch:4;experts:4")


@pytest.mark.parametrize(
    "size, legal",
    [(6, "make its size 4 or 8"), (3, "make its size 4"), (9, "make its size 8 or 12")],
)
def test_an_indivisible_dimension_is_an_error_with_the_nearest_sizes(size: int, legal: str) -> None:
    mesh = mtf.Mesh("data:4,model:1", "heads:data")
    with pytest.raises(
        mtf.LayoutError,
        match=rf"^dimension heads:{size} of .* cannot be split over mesh axis data:4: {legal}, or",
    ):
        mesh.partition([mtf.Dimension("heads", size)])


def test_errors_come_before_anything_runs() -> None:
    mesh = mtf.Mesh("data:2,model:2", "a:data;b:data")
    with pytest.raises(mtf.LayoutError):
        mtf.Variable(mesh, "a:4;b:4")
    with pytest.raises(mtf.LayoutError):
        mtf.zeros(mesh, "a:4;b:4")


def test_more_devices_than_tensorflow_started_with_is_an_error() -> None:
    with pytest.raises(
        mtf.LayoutError, match="^mesh data:16 needs 16 devices, but TensorFlow has started with 8"
    ):
        mtf.Mesh("data:16")


def test_unused_rules_are_those_of_dimensions_never_laid_out() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;haeds:model")
    mesh.partition("batch:4;heads:2")
    assert mesh.unused_rules() == ["haeds"]
    assert mesh.dimension_names_seen == {"batch", "heads"}


def test_constrain_changes_the_layout_and_not_the_values() -> None:
    mesh = mtf.Mesh("data:2,model:2", "a:data;b:model;c:data")
    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    x = mtf.import_tf_tensor(mesh, array, "a:4;b:4")
    y = mtf.function(lambda x: mtf.rename_dimension(mtf.rename_dimension(x, "a", "z"), "b", "c"))(x)
    assert dtensor.fetch_layout(y.value).sharding_specs == [dtensor.UNSHARDED, "data"]
    np.testing.assert_array_equal(mtf.to_numpy(y), array)


def test_a_report_lists_what_every_device_holds_of_variables_without_storage() -> None:
    mesh = mtf.Mesh("data:2,model:4", "batch:data;d_ff:model")
    variables = {
        "wi": mtf.Variable(mesh, "d_model:6;d_ff:8"),
        "step": mtf.Variable(mesh, [], dtype=tf.int64),
    }
    assert mesh.report(variables).splitlines() == [
        "variable  dimensions        layout   on each device  bytes",
        "wi        d_model:6;d_ff:8  -,model  6x2                48",
        "step      scalar                                         8",
    ]
