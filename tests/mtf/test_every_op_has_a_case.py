"""Every public operation is called by a case that runs under all layouts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from mtfrun import mtf
from tests.case_tables import exported, recorded_calls, require_a_case_of_each
from tests.layouts import ONE_DEVICE
from tests.mtf.test_ops_under_layouts import CASES

# Functions that are not operations on tensors, by kind.
NO_OPERATIONS = {
    "of dimensions, shapes and layouts": [
        "anonymous_shape",
        "combined_dimension",
        "convert_to_dimension",
        "convert_to_layout_rules",
        "convert_to_shape",
        "is_subsequence",
        "plain_name",
        "smallest_sizes",
        "tensor_dim_to_mesh_dim_size",
        "tensor_dim_to_size_per_split",
        "verify_no_new_dims",
    ],
    "of ensembles: tests/models/test_ensemble.py": ["stack_variables"],
    "of variables and modules; test_variables.py runs them under all layouts": [
        "assign",
        "assign_add",
        "assign_paths",
        "assign_sub",
        "initialize",
        "read_once",
        "read_variable",
        "shard_variables",
        "sharded_names",
        "with_values",
    ],
    "of checkpoints; tests/rundir/checkpoints/test_snapshot.py has it": ["owned_shards"],
    "of meshes without devices; tests/tools/planning has them": ["planned_meshes"],
    "of what programs report; test_reports.py runs them": [
        "Print",
        "collect_reports",
        "curves_of",
        "print_reports",
        "scalar_summary",
    ],
    "of programs and their gradients; every case is run by them, or test_gradients.py does": [
        "function",
        "gradients",
        "to_numpy",
        "value_and_gradients",
    ],
    "of meshes with batch parts; tests/training/test_reproducible.py has it": ["sum_over_parts"],
    "of other functions; test_cond_and_products.py runs them": ["cond", "count_flops"],
    "the names of operations": ["binary_reduction_fn", "reduction_fn"],
    "a key, which every random operation takes, from its entries, and the number of its text": [
        "keys_of",
        "random_key",
        "text_number",
    ],
}
EXEMPT = [name for names in NO_OPERATIONS.values() for name in names]


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


@pytest.mark.parametrize(
    ("exempt", "message"),
    [
        ("cube", r"\['cube'\] are exempt but not exported"),
        ("softmax", r"\['softmax'\] have cases"),
    ],
)
def test_an_exemption_that_is_not_needed_is_noticed(
    called: set[str], exempt: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        require_a_case_of_each(exported(mtf, _is_function), called, [*EXEMPT, exempt], "")


def test_recording_leaves_the_package_as_it_was() -> None:
    softmax = mtf.softmax
    with recorded_calls(mtf, ["softmax", "log"]) as called:
        mtf.softmax(mtf.ones(mtf.Mesh(ONE_DEVICE), "a:2"), "a:2")
    assert called == {"softmax"}
    assert mtf.softmax is softmax
