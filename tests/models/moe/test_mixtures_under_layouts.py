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
from tests.models.moe.mixtures import GATES, LAYOUT, Result, assert_same_result, cached_run

KINDS = ["one level", "two levels"]
DATA_PARALLEL = "batch:data;expert_hidden:model"

ON_MESHES = [
    case
    for case in itertools.product(KINDS, GATES, LAYOUTS[1:], [LAYOUT, DATA_PARALLEL])
    # Of the other gates the widest mesh, and the kinds in turn.
    if case[1] == "top_2"
    or (case[0] == KINDS[[*GATES].index(case[1]) % 2] and case[2:] == ("data:4,model:2", LAYOUT))
]
# The kinds in turn here too.
DISPATCHED = [
    (*(("one level", ONE_DEVICE), ("two levels", "data:4,model:2"))[i % 2], gate)
    for i, gate in enumerate(GATES)
]


def _assert_same_metrics(actual: Result, expected: Result) -> None:
    assert_close(actual.loss, expected.loss, FLOAT32_MODEL_TOLERANCE)
    assert all(np.abs(gradient).max() > 0.0 for gradient in expected.gradients.values())
    assert actual.metrics.keys() == expected.metrics.keys()
    for name, total in expected.metrics.items():
        assert_close(actual.metrics[name], total, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("kind, gate, mesh_shape, layout", ON_MESHES)
def test_a_layout_changes_nothing(kind: str, gate: str, mesh_shape: str, layout: str) -> None:
    expected = cached_run(kind, gate, "gather", ONE_DEVICE, "")
    actual = cached_run(kind, gate, "gather", mesh_shape, layout)
    assert_same_result(actual, expected)
    _assert_same_metrics(actual, expected)


@pytest.mark.parametrize("kind, mesh_shape, gate", DISPATCHED)
def test_gathers_equal_contractions(kind: str, mesh_shape: str, gate: str) -> None:
    expected = cached_run(kind, gate, "einsum", mesh_shape, LAYOUT)
    actual = cached_run(kind, gate, "gather", ONE_DEVICE, "")
    assert_same_result(actual, expected)
    _assert_same_metrics(actual, expected)


def _is_gate(value: Any) -> bool:
    if not isinstance(value, type) or not dataclasses.is_dataclass(value):
        return False
    return typing.get_type_hints(value.__call__).get("return") is moe.Routing


def test_every_public_gate_has_a_case() -> None:
    with_a_case = {type(gate).__name__ for gate in GATES.values()}
    gates = exported(moe, _is_gate)
    assert "Top2" in gates
    require_a_case_of_each(gates, with_a_case, [], "GATES in tests/models/moe/mixtures.py")
