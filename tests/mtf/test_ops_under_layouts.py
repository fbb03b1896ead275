"""A layout never changes a value: every operation, forward and gradient, on every mesh.

Values are compared with one device's, and the layouts of results and gradients with the
rules: DTensor silently replicates a value that it cannot split.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorflow.experimental import dtensor

from mtfrun import mtf
from tests.case_tables import exported, recorded_calls, require_a_case_of_each
from tests.layouts import ONE_DEVICE, assert_close
from tests.mtf import moving_cases, op_cases, spatial_cases
from tests.mtf.op_cases import OpCase

TWO_BY_TWO, FOUR_BY_TWO = "data:2,model:2", "data:4,model:2"
TABLES = [op_cases.CASES, moving_cases.CASES, spatial_cases.CASES]
CASES = {case.name: case for table in TABLES for case in table}

# The first layout of an operation runs on eight devices, every further one on four; in the default
# suite every eighth operation runs on one mesh. test_random_layouts.py has other meshes.
WHERE = [
    (name, layout, shape, i % 8 == 0 and shape == TWO_BY_TWO and layout == case.layouts[0])
    for i, (name, case) in enumerate(CASES.items())
    for j, layout in enumerate(case.layouts)
    for shape in [
        *([FOUR_BY_TWO] if j == 0 else [TWO_BY_TWO]),
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
    assert_equals_one_device(name, mtf.Mesh(mesh_shape, layout))


def assert_equals_one_device(name: str, mesh: mtf.Mesh) -> None:
    """Raises unless outputs and gradients have the values of one device, and their layouts."""
    outputs, gradients = outputs_and_gradients(CASES[name], mesh)
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


# Functions that are not operations on tensors, after the tests that run them.
_NO_OPERATIONS = """
    anonymous_shape combined_dimension convert_to_dimension convert_to_layout_rules convert_to_shape
    is_subsequence plain_name smallest_sizes tensor_dim_to_mesh_dim_size verify_no_new_dims
    tensor_dim_to_size_per_split binary_reduction_fn reduction_fn keys_of random_key text_number

    test_variables.py: assign assign_add assign_paths assign_sub initialize read_once read_variable
    shard_variables sharded_names with_values
    tests/layers/test_lora.py: find_paths
    tests/extras/mesh_tensorflow/test_ensemble.py: stack_variables
    tests/checkpoints/test_retention.py: owned_shards
    tests/extras/plan: planned_meshes
    tests/training/test_loop.py: sum_over_parts
    test_reports.py: Print collect_reports curves_of print_reports scalar_summary
    test_function.py: cond count_flops
    test_gradients.py: function gradients to_numpy value_and_gradients
"""
EXEMPT = [name for name in _NO_OPERATIONS.split() if not name.endswith(":")]


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _functions_called_by_cases(package: ModuleType) -> set[str]:
    functions = exported(package, _is_function)
    mesh = mtf.Mesh(ONE_DEVICE)
    inputs = {name: case.tensors(mesh) for name, case in CASES.items()}
    with recorded_calls(package, functions) as called:
        for name, case in CASES.items():
            case.outputs(inputs[name])
    # Of a case that is a function of the package itself, there is no call to be seen.
    called.update(name for name, fn in functions.items() if any(c.fn is fn for c in CASES.values()))
    return called


@pytest.fixture(scope="module")
def called() -> set[str]:
    """The public functions that cases call."""
    return _functions_called_by_cases(mtf)


def test_every_public_operation_has_a_case(called: set[str]) -> None:
    where = "tests/mtf/op_cases.py, moving_cases.py or spatial_cases.py"
    require_a_case_of_each(exported(mtf, _is_function), called, EXEMPT, where)


def test_a_new_operation_without_a_case_is_noticed(
    called: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mtf, "cube", lambda x: x * x * x, raising=False)
    with pytest.raises(AssertionError, match=r"add cases of \['cube'\] to op_cases.py"):
        require_a_case_of_each(exported(mtf, _is_function), called, EXEMPT, "op_cases.py")
