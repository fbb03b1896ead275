"""Convolution layers: their variables, and results under layouts."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

WHERE = [
    ("data:2,model:2", "batch:data;filters:model"),
    pytest.param("data:2,model:2", "row_blocks:data;batch:model", marks=pytest.mark.slow),
    pytest.param("data:4,model:1", "batch:data", marks=pytest.mark.slow),
]


class Network(mtf.Module):
    """Convolutions from 3 colours to `filters`, then strided and transposed ones."""

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        colours, filters = mtf.Dimension("colours", 3), mtf.Dimension("filters", 4)
        rows = mtf.Dimension("row_blocks", 2)
        self.layers = [
            layers.Conv2D(mesh, colours, filters, blocks=[rows]),
            layers.Conv2D(mesh, filters, filters, strides=(2, 2), blocks=[rows]),
            layers.Conv2DTranspose(mesh, filters, filters, blocks=[rows]),
        ]

    def __call__(self, x: mtf.Tensor, call: layers.Call) -> mtf.Tensor:
        for layer in self.layers:
            x = mtf.tanh(layer(x, call))
        return x


def _loss_and_gradients(mesh_shape: str, layout: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    mesh = mtf.Mesh(mesh_shape, layout)
    network = Network(mesh)
    mtf.initialize(network, seed=3)
    shape = mtf.convert_to_shape("batch:4;row_blocks:2;rows:4;columns:8;colours:3")
    x = np.random.default_rng(0).standard_normal(shape.to_integer_list, np.float32)

    def run(x: mtf.Tensor) -> tuple[mtf.Tensor, dict[str, mtf.Tensor | None]]:
        return mtf.value_and_gradients(
            lambda: mtf.reduce_sum(mtf.square(network(x, layers.Call()))), network.named_variables()
        )

    return mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, x, shape)))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape, layout", WHERE)
def test_a_layout_does_not_change_loss_or_gradients(mesh_shape: str, layout: str) -> None:
    loss, gradients = _loss_and_gradients(mesh_shape, layout)
    expected_loss, expected = _loss_and_gradients("data:1,model:1", "")
    assert_close(loss, expected_loss, FLOAT32_MODEL_TOLERANCE)
    assert gradients.keys() == expected.keys() == {f"layers/{i}/kernel" for i in range(3)}
    for path, gradient in gradients.items():
        assert_close(gradient, expected[path], FLOAT32_MODEL_TOLERANCE)


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
