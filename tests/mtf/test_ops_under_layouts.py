"""A layout never changes a value: every operation, forward and gradient, on every mesh.

Values are compared with one device's, and the layouts of results and gradients with the
rules: DTensor silently replicates a value that it cannot split.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from tensorflow.experimental import dtensor

from mtfrun import mtf
from tests.layouts import ONE_DEVICE, assert_close
from tests.mtf import moving_cases, op_cases, spatial_cases
from tests.mtf.op_cases import OpCase

TWO_BY_TWO, FOUR_BY_TWO = "data:2,model:2", "data:4,model:2"
# An axis of a single device splits nothing.
ONE_AXIS = ["data:1,model:4", "data:8,model:1"]
TABLES = [op_cases.CASES, moving_cases.CASES, spatial_cases.CASES]
CASES = {case.name: case for table in TABLES for case in table}

# The first layout of an operation runs on eight devices and on a mesh of one axis in turn, every
# further one on four devices; in the default suite every eighth operation runs on one mesh.
WHERE = [
    (name, layout, shape, i % 8 == 0 and shape == TWO_BY_TWO and layout == case.layouts[0])
    for i, (name, case) in enumerate(CASES.items())
    for j, layout in enumerate(case.layouts)
    for shape in [
        *([FOUR_BY_TWO, ONE_AXIS[i % 2]] if j == 0 else [TWO_BY_TWO]),
        *[TWO_BY_TWO] * (j == 0 and i % 8 == 0),
    ]
]


def outputs_and_gradients(case: OpCase, mesh: mtf.Mesh) -> tuple[Any, Any]:
    """Returns the outputs, and the gradients of their sums weighted with random cotangents."""

    def fn(inputs: list[mtf.Tensor]) -> tuple[Any, Any]:
        outputs = case.outputs(inputs)
        floats = [y for y in outputs if y.dtype.is_floating]
        sources = [x for x in inputs if x.dtype.is_floating]
        if not case.differentiable or not floats or not sources:
            return outputs, []
        # Drawn by numpy: random numbers of the mesh would take most of the time to compile.
        rng = np.random.default_rng(3)
        cotangents = [
            mtf.constant(mesh, rng.normal(size=y.shape.to_integer_list), y.shape, y.dtype)
            for y in floats
        ]
        return outputs, mtf.gradients(floats, sources, cotangents)

    return mtf.function(fn)(case.tensors(mesh))


@functools.cache
def _on_one_device(name: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    outputs, gradients = outputs_and_gradients(CASES[name], mtf.Mesh(ONE_DEVICE))
    return mtf.to_numpy(outputs), mtf.to_numpy(gradients)


def _assert_laid_out(x: mtf.Tensor, name: str) -> None:
    actual, expected = dtensor.fetch_layout(x.value), x.mesh.device_layout(x.shape)
    assert actual.sharding_specs == expected.sharding_specs, f"{name} {x.shape}"


@pytest.mark.parametrize(
    "name, layout, mesh_shape",
    [pytest.param(*where, marks=[] if quick else [pytest.mark.slow]) for *where, quick in WHERE],
)
def test_op_and_gradients_equal_those_of_one_device(
    name: str, layout: str, mesh_shape: str
) -> None:
    case, mesh = CASES[name], mtf.Mesh(mesh_shape, layout)
    outputs, gradients = outputs_and_gradients(case, mesh)
    expected_outputs, expected_gradients = _on_one_device(name)
    for i, (output, expected) in enumerate(zip(outputs, expected_outputs, strict=True)):
        _assert_laid_out(output, f"output {i}")
        assert_close(mtf.to_numpy(output), expected)
    for i, (gradient, expected_gradient) in enumerate(
        zip(gradients, expected_gradients, strict=True)
    ):
        assert (gradient is None) == (expected_gradient is None)
        if expected_gradient is not None:
            _assert_laid_out(gradient, f"gradient {i}")
            assert_close(mtf.to_numpy(gradient), expected_gradient)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if i % 16 else [])
        for i, name in enumerate(CASES)
        if i % 4 == 0
    ],
)
def test_op_runs_eagerly_on_a_mesh(name: str) -> None:
    case = CASES[name]
    mesh = mtf.Mesh(TWO_BY_TWO, case.layouts[0])
    outputs = case.outputs(case.tensors(mesh))
    for output, expected in zip(outputs, _on_one_device(name)[0], strict=True):
        assert_close(mtf.to_numpy(output), expected)


@pytest.mark.slow
def test_every_layout_splits_a_dimension_of_the_op() -> None:
    for case in CASES.values():
        outputs = case.outputs(case.tensors(mtf.Mesh(ONE_DEVICE)))
        shapes = [shape for _, shape in case.arrays()] + [y.shape for y in outputs]
        names = {dim for shape in shapes for dim in shape.dimension_names}
        for layout in case.layouts:
            assert names & set(mtf.convert_to_layout_rules(layout)), (case.name, layout)
