"""Convolutions and pooling equal the original, forward and gradient, on one device and on meshes.

All 31 cases of `conv.npz` run.
"""

from __future__ import annotations

import pytest

from mtfrun import mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE
from tests.oracle.layer_case import (
    Tensors,
    assert_equals_reference,
    inputs_of,
    layouts_of,
    outputs_and_gradients,
    where,
)
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("conv")
FILTER_DIMS = ("fd", "fh", "fw")


def _layouts(case: ReferenceCase) -> list[tuple[str, str]]:
    """Returns the case's layouts, but for errors: a split filter, split positions in blocks."""
    blocked = [d for d in ("h", "w") if case.hparams.get(f"{d}_blocks_dim")]
    return layouts_of(case, (*FILTER_DIMS, *blocked))


def _separable(case: ReferenceCase, tensors: Tensors) -> mtf.Tensor:
    x = tensors["x"]
    length, channels = x.shape.dims[-2:]
    first, last = case.hparams["min_relative_pos"], case.hparams["max_relative_pos"]
    prefix = "sep/depthwise_conv_hack/depthwise_dense_"
    taps = [tensors[f"{prefix}{i}/kernel"] for i in range(last - first + 1)]
    kernel = mtf.stack(taps, "relative_position")
    y = mtf.depthwise_conv1d(x, kernel, length, first) + tensors[f"{prefix}0/bias"]
    y = mtf.einsum([y, tensors["sep/pointwise_dense/kernel"]], reduced_dims=[channels])
    return y + tensors["sep/pointwise_dense/bias"]


def _call(case: ReferenceCase, tensors: Tensors) -> Tensors:
    x, hparams = tensors["x"], case.hparams
    padding = hparams.get("padding", "SAME")
    if case.name.startswith("pool2d"):
        ksize = hparams["ksize"]
        return {"max_pool2d": mtf.max_pool2d(x, ksize), "avg_pool2d": mtf.avg_pool2d(x, ksize)}
    if case.name.startswith("separable"):
        return {"y": _separable(case, tensors)}
    kernel = tensors["conv/kernel"]
    if case.name.startswith("conv1d"):
        height = kernel.shape.get_dim_by_name("fh")
        kernel = mtf.reshape(kernel, kernel.shape - height)
        return {"y": mtf.conv1d(x, kernel, hparams["stride"], padding)}
    strides = hparams["strides"]
    if case.name.startswith("conv2d_with_blocks"):
        names = (hparams["h_blocks_dim"], hparams["w_blocks_dim"])
        blocks = [None if name is None else x.shape.get_dim_by_name(name) for name in names]
        return {"y": mtf.conv2d_with_blocks(x, kernel, strides, padding, *blocks)}
    function = next(
        f
        for name, f in {
            "conv2d_transpose": mtf.conv2d_transpose,
            "conv2d": mtf.conv2d,
            "conv3d": mtf.conv3d,
        }.items()
        if case.name.startswith(name)
    )
    return {"y": function(x, kernel, strides, padding)}


@pytest.mark.parametrize(
    "name, mesh_shape, layout", where({name: _layouts(case) for name, case in CASES.items()})
)
def test_convolution_equals_the_original(name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[name]
    inputs = inputs_of(mtf.Mesh(mesh_shape, layout), case)
    outputs, gradients = outputs_and_gradients(lambda tensors: _call(case, tensors), inputs)
    assert_equals_reference(case, outputs, gradients, FLOAT32_MODEL_TOLERANCE)


def test_all_cases_are_there_and_each_is_split_at_least_twice() -> None:
    assert len(CASES) == 31
    assert [name for name, case in CASES.items() if len(_layouts(case)) < 3] == []
