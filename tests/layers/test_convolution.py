"""Convolution layers: their variables and functions."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layouts import assert_close


def test_filters_have_named_dimensions_in_the_order_of_tensorflow() -> None:
    mesh = mtf.Mesh()
    a, b = mtf.Dimension("a", 2), mtf.Dimension("b", 3)
    for layer, shape in [
        (layers.Conv1D(mesh, a, b), "filter_width:3;a:2;b:3"),
        (layers.Conv2D(mesh, a, b), "filter_height:3;filter_width:3;a:2;b:3"),
        (layers.Conv3D(mesh, a, b), "filter_depth:3;filter_height:3;filter_width:3;a:2;b:3"),
        (layers.Conv2DTranspose(mesh, a, b), "filter_height:2;filter_width:2;b:3;a:2"),
        (
            layers.Conv3DTranspose(mesh, a, b),
            "filter_depth:2;filter_height:2;filter_width:2;b:3;a:2",
        ),
    ]:
        assert layer.kernel.shape == mtf.convert_to_shape(shape)


def test_layers_of_sequences_and_volumes_call_their_functions() -> None:
    mesh = mtf.Mesh()
    a, b = mtf.Dimension("a", 2), mtf.Dimension("b", 3)
    for layer, x_shape, y_shape in [
        (layers.Conv1D(mesh, a, b, strides=[2]), "batch:2;length:6;a:2", "batch:2;length:3;b:3"),
        (
            layers.Conv3D(mesh, a, b, padding="VALID"),
            "batch:2;d:3;h:4;w:5;a:2",
            "batch:2;d:1;h:2;w:3;b:3",
        ),
        (layers.Conv3DTranspose(mesh, a, b), "d:2;h:2;w:2;a:2", "d:4;h:4;w:4;b:3"),
        (
            layers.SeparableConv1D(mesh, mtf.Dimension("length", 6), a, b),
            "batch:2;length:6;a:2",
            "batch:2;length:6;b:3",
        ),
    ]:
        mtf.initialize(layer)
        x = np.random.default_rng(0).standard_normal(
            mtf.convert_to_shape(x_shape).to_integer_list, np.float32
        )
        y = layer(mtf.import_tf_tensor(mesh, x, x_shape), layers.Call())
        assert y.shape == mtf.convert_to_shape(y_shape)
        # Linear, as the bias is zero: twice the input gives twice the output.
        twice = layer(mtf.import_tf_tensor(mesh, 2 * x, x_shape), layers.Call())
        assert_close(mtf.to_numpy(twice), 2 * mtf.to_numpy(y))
        assert np.abs(mtf.to_numpy(y)).max() > 0.1


def test_a_filter_without_a_size_for_each_dimension_is_an_error() -> None:
    a, b = mtf.Dimension("a", 2), mtf.Dimension("b", 3)
    with pytest.raises(ValueError, match=r"Conv2D: filter_size=\[3\] must be 2 number"):
        layers.Conv2D(mtf.Mesh(), a, b, filter_size=[3])
