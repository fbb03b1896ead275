"""Programs are read from the text that DTensor writes."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.tools.planning.collectives import NeededCollective, needed_collectives
from mtfrun.tools.planning.dtensor_programs import constant_array, parse_module, varying_axes
from mtfrun.tools.planning.program import Collective, TensorType
from tests.tools.planning.programs import LOOPS, NEEDED


def test_needed_collectives_have_axes_global_sizes_and_bytes() -> None:
    program = parse_module(NEEDED.splitlines())
    assert program.mesh == {"data": 2, "model": 2}
    assert needed_collectives(program) == [
        NeededCollective(Collective("all-reduce", ("model",), 2, 8), (4,), ("data",), 1),
        NeededCollective(Collective("all-gather", ("model",), 2, 32), (4, 8), ("data", "model"), 1),
    ]


def test_device_ids_are_removed_from_layouts() -> None:
    devices = ",".join(map(str, range(4)))
    program = parse_module(
        NEEDED.replace("|data=2,model=2|", f"|data=2,model=2|{devices}|").splitlines()
    )
    assert needed_collectives(program) == needed_collectives(parse_module(NEEDED.splitlines()))
    assert not any(
        f"|{devices}|" in operation.layouts for operation, _ in program.operations_of_step()
    )


def test_a_loop_with_constant_bounds_is_counted_and_the_loop_of_steps_is_one() -> None:
    program = parse_module(LOOPS.splitlines())
    ((reduction, times),) = program.collectives
    assert times == 3
    # Devices 0 and 1 have the same key.
    assert reduction.collective == Collective("all-reduce", ("model",), 2, 32)
    assert [op.name for op, _ in program.operations_of_step()].count("TopKV2") == 1


def test_results_are_named_each_or_by_a_number() -> None:
    program = parse_module(LOOPS.splitlines())
    (steps,) = (op for op in program.body.operations if op.regions)
    inner = steps.regions[1].operations[0]
    top_k = inner.regions[1].operations[2]
    assert [value.type for value in top_k.results] == [
        TensorType((8,), "f32"),
        TensorType((8,), "i32"),
    ]
    assert steps.regions[1].results[1] == inner.results[1]
    assert program.body.results == (steps.results[1],)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("value = dense<[[0, 1], [2, 3]]> : tensor<2x2xi32>", [[0, 1], [2, 3]]),
        ("value = dense<-7> : tensor<3xi64>", [-7, -7, -7]),
        ("value = dense<5> : tensor<i32>", 5),
        ('value = dense<"0x0100000002000000"> : tensor<2xi32>', [1, 2]),
    ],
)
def test_constants_are_lists_single_numbers_or_bytes(text: str, expected: object) -> None:
    np.testing.assert_array_equal(constant_array(text), expected)


def test_axes_are_those_along_which_a_group_varies() -> None:
    mesh = {"data": 2, "model": 3}
    assert varying_axes([0, 1, 2], mesh) == ("model",)
    assert varying_axes([0, 3], mesh) == ("data",)
    assert varying_axes([0, 1, 2, 3, 4, 5], mesh) == ("data", "model")
