"""Depthwise convolutions are sums of shifted products, on one device and on meshes."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import assert_close

BATCH, LENGTH, CHANNELS = 2, 8, 4


@pytest.mark.parametrize("first, size", [(-1, 3), (-2, 3), (0, 2), (1, 2), (-4, 2)])
@pytest.mark.parametrize(
    "mesh_shape, layout",
    [
        ("data:1,model:1", ""),
        ("data:2,model:2", "batch:data;channels:model"),
        ("data:4,model:2", "length:data;channels:model"),
    ],
)
def test_depthwise_convolution_sums_shifted_products(
    first: int, size: int, mesh_shape: str, layout: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, LENGTH, CHANNELS), np.float32)
    kernel = rng.standard_normal((size, CHANNELS), np.float32)
    cotangent = rng.standard_normal(x.shape, np.float32)
    padded = np.pad(x, [(0, 0), (LENGTH, LENGTH), (0, 0)])
    begins = [LENGTH + first + i for i in range(size)]
    expected = sum(padded[:, b : b + LENGTH] * w for b, w in zip(begins, kernel, strict=True))
    filter_gradient = [(padded[:, b : b + LENGTH] * cotangent).sum((0, 1)) for b in begins]

    def run(x: mtf.Tensor, kernel: mtf.Tensor, cotangent: mtf.Tensor) -> list[mtf.Tensor | None]:
        y = mtf.depthwise_conv1d(x, kernel, x.shape[1], first)
        return [y, *mtf.gradients([y], [kernel], [cotangent])]

    mesh = mtf.Mesh(mesh_shape, layout)
    shape = f"batch:{BATCH};length:{LENGTH};channels:{CHANNELS}"
    y, gradient = mtf.function(run)(
        mtf.import_tf_tensor(mesh, x, shape),
        mtf.import_tf_tensor(mesh, kernel, f"taps:{size};channels:{CHANNELS}"),
        mtf.import_tf_tensor(mesh, cotangent, shape),
    )
    assert_close(mtf.to_numpy(y), expected)
    assert_close(mtf.to_numpy(gradient), np.stack(filter_gradient))


def test_a_filter_of_other_channels_is_an_error() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match="must end in length and channels"):
        mtf.depthwise_conv1d(
            mtf.zeros(mesh, "length:8;channels:4"),
            mtf.zeros(mesh, "taps:3;channels:2"),
            "length:8",
            -1,
        )
