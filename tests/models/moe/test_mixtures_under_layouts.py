"""No layout and no way to dispatch changes what a mixture of experts computes."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from typing import Any

import numpy as np
import pytest

from mtfrun.models import moe
from tests.case_tables import exported, require_a_case_of_each
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import GATES, LAYOUT, Result, cached_run

KINDS = ["one level", "two levels"]
DATA_PARALLEL = "batch:data;expert_hidden:model"

QUICK = {
    ("one level", "top_2", "gather", "data:4,model:2", LAYOUT),
    ("one level", "top_2", "gather", "data:2,model:2", DATA_PARALLEL),
    ("two levels", "top_2", "gather", "data:2,model:2", LAYOUT),
    ("two levels", "switch", "einsum", "data:4,model:2", LAYOUT),
}
ON_MESHES = [
    (kind, gate, dispatch, mesh_shape, layout)
    for kind, gate, dispatch, mesh_shape, layout in itertools.product(
        KINDS, GATES, ["gather", "einsum"], LAYOUTS[1:], [LAYOUT, DATA_PARALLEL]
    )
    # Of the other gates the widest mesh, and the dispatch of users: the last test compares the two.
    if gate == "top_2" or (mesh_shape, layout) == ("data:4,model:2", LAYOUT)
    if gate in ("top_2", "switch") or dispatch == "gather"
]
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ON_MESHES]


def _assert_equal(actual: Result, expected: Result) -> None:
    assert_close(actual.output, expected.output, FLOAT32_MODEL_TOLERANCE)
    assert_close(actual.loss, expected.loss, FLOAT32_MODEL_TOLERANCE)
    assert actual.gradients.keys() == expected.gradients.keys()
    for path, gradient in expected.gradients.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)
    assert actual.metrics.keys() == expected.metrics.keys()
    for name, total in expected.metrics.items():
        assert_close(actual.metrics[name], total, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("kind, gate, dispatch, mesh_shape, layout", CASES)
def test_a_layout_changes_nothing(
    kind: str, gate: str, dispatch: str, mesh_shape: str, layout: str
) -> None:
    expected = cached_run(kind, gate, dispatch, ONE_DEVICE, "")
    _assert_equal(cached_run(kind, gate, dispatch, mesh_shape, layout), expected)


def test_every_quick_case_is_one_of_all() -> None:
    assert set(ON_MESHES) >= QUICK


@pytest.mark.parametrize(
    "kind, gate",
    [
        pytest.param(
            kind, gate, marks=[] if kind == "one level" or gate == "top_2" else pytest.mark.slow
        )
        for kind, gate in itertools.product(KINDS, GATES)
    ],
)
def test_gathers_equal_contractions(kind: str, gate: str) -> None:
    expected = cached_run(kind, gate, "einsum", ONE_DEVICE, "")
    _assert_equal(cached_run(kind, gate, "gather", ONE_DEVICE, ""), expected)


def _is_gate(value: Any) -> bool:
    if not isinstance(value, type) or not dataclasses.is_dataclass(value):
        return False
    return typing.get_type_hints(value.__call__).get("return") is moe.Routing


def test_every_public_gate_has_a_case() -> None:
    with_a_case = {type(gate).__name__ for gate in GATES.values()}
    gates = exported(moe, _is_gate)
    assert "Top2" in gates
    require_a_case_of_each(gates, with_a_case, [], "GATES in tests/models/moe/mixtures.py")
