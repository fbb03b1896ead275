"""Operations, collectives and memory of programs."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.plan.dtensor_programs import (
    constant_array,
    parse_module,
    take_programs,
    varying_axes,
)
from mtfrun.extras.plan.memory import peak_of
from mtfrun.extras.plan.plan import group_collectives, needed_collectives
from mtfrun.extras.plan.profile import DeviceProfile, Hosts, Link
from mtfrun.extras.plan.program import Block, Collective, Operation, Program, Value
from mtfrun.extras.plan.search.search import estimate, product_flops

MESH = "mesh:|data=2,model=2|"

NEEDED = f"""
module attributes {{tf._default_mesh = "|data=4,model=1|0,1,2,3|0,1,2,3|/device:CPU:0"}} {{
  func.func @main(%arg0: tensor<i32>, %arg1: tensor<2x4xbf16> {{tf._layout = "a, b"}}) {{
    %cst = "tf.Const"() <{{value = dense<[[0, 1], [2, 3]]> : tensor<2x2xi32>}}> : () ->\
 tensor<2x2xi32>
    %2 = "tf.DTensorAllReduce"(%arg1, %cst) <{{reduce_op = "Add"}}> \
 {{_layout = ["sharding_specs:data, {MESH}"]}} : (tensor<2xf32>, tensor<2x2xi32>) -> tensor<2xf32>
    %3 = "tf.DTensorAllGather"(%arg1) <{{input_layout = #dtensor.layout<sharding_specs:data,model,\
 {MESH}>, output_layout = #dtensor.layout<sharding_specs:data,unsharded,\
 {MESH}>}}> : (tensor<2x4xbf16>) -> tensor<2x8xbf16>
    return %2 : tensor<2xf32>
  }}
}}
"""

# Two steps in a loop whose limit is an argument; in each of them a loop of three.
LOOPS = f"""
module {{
  func.func @main(%arg0: tensor<i32>, %arg1: tensor<8xf32>) -> tensor<8xf32> {{
    %0 = "tf.StatefulPartitionedCall"(%arg0, %arg1) <{{config = "", f = @_func_1}}> : (tensor<i32>,\
 tensor<8xf32>) -> tensor<8xf32>
    return %0 : tensor<8xf32>
  }}
  func.func private @_func_1(%arg0: tensor<i32>, %arg1: tensor<8xf32>) -> tensor<8xf32> {{
    %cst = "tf.Const"() <{{value = dense<0> : tensor<i32>}}> : () -> tensor<i32>
    %cst_0 = "tf.Const"() <{{value = dense<3> : tensor<i32>}}> : () -> tensor<i32>
    %cst_1 = "tf.Const"() <{{value = dense<1> : tensor<i32>}}> : () -> tensor<i32>
    %keys = "tf.Const"() <{{value = dense<[7, 7, 8, 8]> : tensor<4xi32>}}> : () -> tensor<4xi32>
    %0:2 = "tf.WhileRegion"(%cst, %arg1) <{{is_stateless = false}}> ({{
    ^bb0(%arg2: tensor<i32>, %arg3: tensor<8xf32>):
      %1 = "tf.Less"(%arg2, %arg0) : (tensor<i32>, tensor<i32>) -> tensor<i1>
      "tf.Yield"(%1) : (tensor<i1>) -> ()
    }}, {{
    ^bb0(%arg2: tensor<i32>, %arg3: tensor<8xf32>):
      %1:2 = "tf.WhileRegion"(%cst, %arg3) <{{is_stateless = false}}> ({{
      ^bb0(%arg4: tensor<i32>, %arg5: tensor<8xf32>):
        %3 = "tf.Identity"(%arg4) : (tensor<i32>) -> tensor<i32>
        %4 = "tf.Less"(%3, %cst_0) : (tensor<i32>, tensor<i32>) -> tensor<i1>
        "tf.Yield"(%4) : (tensor<i1>) -> ()
      }}, {{
      ^bb0(%arg4: tensor<i32>, %arg5: tensor<8xf32>):
        %3 = "tf.AddV2"(%arg4, %cst_1) : (tensor<i32>, tensor<i32>) -> tensor<i32>
        %key = "tf.Slice"(%keys, %cst, %cst_1) : (tensor<4xi32>, tensor<i32>, tensor<i32>) ->\
 tensor<1xi32>
        %values, %indices = "tf.TopKV2"(%arg5, %cst_1) : (tensor<8xf32>, tensor<i32>) ->\
 (tensor<8xf32>, tensor<8xi32>)
        %4 = "tf.CollectiveReduceV2"(%values, %cst_1, %key, %cst) <{{merge_op = "Add"}}>\
 {{_layout = ["sharding_specs:unsharded, {MESH}"]}} : (tensor<8xf32>, tensor<i32>, tensor<1xi32>,\
 tensor<i32>) -> tensor<8xf32>
        "tf.Yield"(%3, %4) : (tensor<i32>, tensor<8xf32>) -> ()
      }}) : (tensor<i32>, tensor<8xf32>) -> (tensor<i32>, tensor<8xf32>)
      %2 = "tf.AddV2"(%arg2, %cst_1) : (tensor<i32>, tensor<i32>) -> tensor<i32>
      "tf.Yield"(%2, %1#1) : (tensor<i32>, tensor<8xf32>) -> ()
    }}) : (tensor<i32>, tensor<8xf32>) -> (tensor<i32>, tensor<8xf32>)
    return %0#1 : tensor<8xf32>
  }}
}}
"""


PROFILE = DeviceProfile(
    "made up",
    [(0, 1.0), (1000, 2.0)],
    {"float32": [(0, 0.0), (10, 1.0)], "bfloat16": [(0, 0.0), (20, 1.0)]},
    hosts=Hosts(8, Link(5.0, 100.0), Link(0.0, 1.0)),
)


def _operation(
    name: str, *sizes: tuple[int, ...], attributes: str = "", dtype: str = "f32", **more: object
) -> Operation:
    """Returns an operation; the last sizes are those of its result."""
    *operands, result = (Value(i, s, dtype) for i, s in enumerate(sizes))
    return Operation(name, tuple(operands), (result,), attributes, **more)  # type: ignore[arg-type]


def _program(*operations: Operation) -> Program:
    return Program({"data": 2, "model": 4}, Block((), operations, ()), {})


@pytest.mark.parametrize(
    ("operation", "flops"),
    [
        (
            _operation(
                "Einsum", (2, 3, 5), (5, 7), (2, 3, 7), attributes='equation = "abc,cd->abd"'
            ),
            2 * 2 * 3 * 5 * 7,
        ),
        # Nothing is summed: not a product of matrices.
        (_operation("Einsum", (2,), (3,), (2, 3), attributes='equation = "a,b->ab"'), 0),
        (
            _operation(
                "BatchMatMulV2", (4, 2, 3), (4, 3, 5), (4, 2, 5), attributes="adj_x = false"
            ),
            240,
        ),
        (
            _operation("BatchMatMulV2", (4, 3, 2), (4, 3, 5), (4, 2, 5), attributes="adj_x = true"),
            240,
        ),
        (_operation("Conv2D", (1, 8, 8, 3), (5, 5, 3, 16), (1, 8, 8, 16)), 2 * 64 * 16 * 75),
        (
            _operation("Conv2DBackpropInput", (4,), (5, 5, 3, 16), (1, 8, 8, 16), (1, 8, 8, 3)),
            2 * 64 * 16 * 75,
        ),
        (
            _operation("Conv2DBackpropFilter", (1, 8, 8, 3), (4,), (1, 8, 8, 16), (5, 5, 3, 16)),
            2 * 64 * 16 * 75,
        ),
        (_operation("AddV2", (8,), (8,), (8,)), 0),
    ],
)
def test_the_operations_of_products_are_counted(operation: Operation, flops: int) -> None:
    assert product_flops(operation) == flops


def test_an_operation_takes_as_long_as_its_bytes() -> None:
    parts = estimate(_program(_operation("AddV2", (25,), (25,), (25,))), PROFILE)
    assert parts.operation_secs == pytest.approx(1.3)  # 3 * 25 * 4 bytes
    assert parts.secs == pytest.approx(1.3)
    # A constant costs no more than any operation.
    assert estimate(_program(_operation("Const", (1000,))), PROFILE).secs == pytest.approx(1.0)


@pytest.mark.parametrize(("dtype", "per_sec"), [("f32", 10.0), ("bf16", 20.0)])
def test_a_product_takes_as_long_as_its_operations(dtype: str, per_sec: float) -> None:
    product = _operation(
        "Einsum", (4, 5), (5, 6), (4, 6), attributes='equation = "ab,bc->ac"', dtype=dtype
    )
    parts = estimate(_program(product), PROFILE)
    assert parts.product_secs == pytest.approx(240 / per_sec)
    assert parts.operation_secs == 0


def test_collectives_are_counted_by_axis_and_with_the_rounds_of_loops() -> None:
    gather = _operation(
        "AllGather", (25,), (100,), collective=Collective("all-gather", ("model",), 4, 400)
    )
    body = Block((), (gather,), ())
    loop = Operation("WhileRegion", (), (), regions=(Block((), (), ()), body), trip_count=3)
    parts = estimate(_program(loop, gather), PROFILE)
    once = 3 * (5.0 + 1.0)  # three messages of 100 bytes
    assert parts.collective_secs == {"model": pytest.approx(4 * once)}
    assert parts.secs == pytest.approx(4 * once)


def _needed(
    kind: str, axes: str, sizes: tuple[int, ...], partition: tuple[str, ...], num_bytes: int
) -> tuple[Collective, int]:
    return Collective(kind, (axes,), 2, num_bytes, sizes, partition), 3


def test_a_group_names_the_dimensions_of_shapes_that_match() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;d_ff:model;heads:model")
    mesh.partition("batch:4;d_ff:8")
    mesh.partition("batch:4;heads:2")
    needed = [
        _needed("all-gather", "model", (4, 8), ("data", "model"), 128),
        _needed("all-gather", "model", (4, 8), ("data", "model"), 128),
        _needed("all-reduce", "data", (8,), ("model",), 16),
    ]
    gathers, reductions = group_collectives(needed, mesh)
    assert str(gathers) == "6 all-gather over model (d_ff): 768 bytes on each device"
    assert str(reductions) == "3 all-reduce over data (batch): 48 bytes on each device"
    # Of two devices each sends its half once to gather, and twice to reduce.
    assert (gathers.sent_bytes, reductions.sent_bytes) == (768 // 2, 48)


def test_a_reduce_scatter_sends_all_parts_but_its_own() -> None:
    assert Collective("reduce-scatter", ("data",), 4, 10).sent_bytes == 30
    assert Collective("all-to-all", ("data",), 4, 40).sent_bytes == 30
    assert Collective("all-reduce", ("data",), 4, 40).sent_bytes == 60


def test_the_program_of_the_simplified_text_is_taken_once(tmp_path: pathlib.Path) -> None:
    texts = {"DTensorSPMDExpansion": LOOPS, "CSE": NEEDED, "DTensorFunctionRenaming": LOOPS}
    for number, (phase, text) in enumerate(texts.items()):
        name = f"dtensor.{number:04}.dtensor_mlir.after_{phase}.__inference__trace_7.mlir"
        (tmp_path / name).write_text(text)
    (tmp_path / "dtensor.0003.dtensor_mlir.after_CSE.Relayout.mlir").write_text(NEEDED)
    (step,) = take_programs(tmp_path)
    assert [op.collective.kind for op, _ in step.needed.collectives if op.collective] == [
        "all-reduce",
        "all-gather",
    ]
    assert [times for _, times in step.running.collectives] == [3]
    assert not list(tmp_path.iterdir()) and take_programs(tmp_path) == []


def test_needed_collectives_have_axes_global_sizes_and_bytes() -> None:
    program = parse_module(NEEDED.splitlines())
    assert program.mesh == {"data": 2, "model": 2}
    assert needed_collectives(program) == [
        (Collective("all-reduce", ("model",), 2, 8, (4,), ("data",)), 1),
        (Collective("all-gather", ("model",), 2, 32, (4, 8), ("data", "model")), 1),
    ]


def test_device_ids_are_removed_from_layouts() -> None:
    devices = ",".join(map(str, range(4)))
    program = parse_module(
        NEEDED.replace("|data=2,model=2|", f"|data=2,model=2|{devices}|").splitlines()
    )
    assert needed_collectives(program) == needed_collectives(parse_module(NEEDED.splitlines()))
    assert not any(f"|{devices}|" in operation.layouts for operation, _ in program.body.runs())


def test_a_loop_with_constant_bounds_is_counted_and_the_loop_of_steps_is_one() -> None:
    program = parse_module(LOOPS.splitlines())
    ((reduction, times),) = program.collectives
    assert times == 3
    # Devices 0 and 1 have the same key.
    assert reduction.collective == Collective("all-reduce", ("model",), 2, 32)
    assert [op.name for op, _ in program.body.runs()].count("TopKV2") == 1


def test_results_are_named_each_or_by_a_number() -> None:
    program = parse_module(LOOPS.splitlines())
    (steps,) = (op for op in program.body.operations if op.regions)
    inner = steps.regions[1].operations[0]
    top_k = inner.regions[1].operations[2]
    assert [(x.sizes, x.dtype) for x in top_k.results] == [((8,), "f32"), ((8,), "i32")]
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


NUMBERS = itertools.count()


def _value(elements: int, dtype: str = "f32") -> Value:
    return Value(next(NUMBERS), (elements,), dtype)


def _matrix(*sizes: int) -> Value:
    return Value(next(NUMBERS), sizes, "f32")


def _peak(*operations: Operation, results: tuple[Value, ...] = ()) -> int:
    return peak_of(Program({}, Block((), operations, results), {})).num_bytes


def test_a_tensor_lives_until_its_last_reader() -> None:
    x, y, z = _value(100), _value(50), _value(10)
    made = Operation("Fill", (), (x,))
    reduced = Operation("Sum", (x,), (y,))
    assert _peak(made, reduced, Operation("Sum", (y,), (z,))) == 4 * 150
    assert _peak(made, reduced, Operation("Einsum", (y, x), (z,))) == 4 * 160
    assert _peak(made, reduced, Operation("Sum", (y,), (z,)), results=(x,)) == 4 * 160


def test_an_elementwise_operation_takes_the_memory_of_an_operand_that_ends() -> None:
    x, y, z = _value(100), _value(100), _value(100, "bf16")
    made = Operation("Fill", (), (x,))
    assert _peak(made, Operation("Relu", (x,), (y,))) == 4 * 100
    assert _peak(made, Operation("Relu", (x,), (y,)), results=(x,)) == 4 * 200
    assert _peak(made, Operation("Cast", (x,), (z,))) == 4 * 100 + 2 * 100


def test_an_einsum_copies_what_is_not_in_the_order_of_a_product_of_matrices() -> None:
    x, y, scores = _matrix(8, 3, 5), _matrix(8, 4, 5), _matrix(8, 3, 4)
    made = [Operation("Fill", (), (x,)), Operation("Fill", (), (y,))]
    total = 4 * 8 * (15 + 20 + 12)
    for equation, copied in {
        "bqd,bkd->bqk": 0,
        "bdq,bkd->bqk": 0,
        "qbd,bkd->bqk": 15,
        "bqd,kbd->bqk": 20,
        "qbd,kbd->bqk": 35,
        "bqd,bkd->qbk": 12,
    }.items():
        product = Operation("Einsum", (x, y), (scores,), f'equation = "{equation}"')
        assert _peak(*made, product) == total + 4 * 8 * copied, equation


def test_a_reshape_keeps_its_operand() -> None:
    x, y, z = _value(100), _value(100), _value(10)
    made = Operation("Fill", (), (x,))
    reshaped = Operation("Reshape", (x,), (y,))
    assert _peak(made, reshaped, Operation("Sum", (y,), (z,))) == 4 * 110


def test_a_transpose_that_moves_dimensions_of_size_1_copies_nothing() -> None:
    x, same, moved = _matrix(1, 8, 4), _matrix(8, 1, 4), _matrix(1, 4, 8)
    made = Operation("Fill", (), (x,))
    assert _peak(made, Operation("Transpose", (x,), (same,))) == 4 * 32
    assert _peak(made, Operation("Transpose", (x,), (moved,))) == 4 * 64


def test_values_of_variables_and_constants_do_not_count() -> None:
    handle, x, y = Value(next(NUMBERS), (), "resource"), _value(100), _value(10)
    assert _peak(Operation("ReadVariableOp", (handle,), (x,)), Operation("Sum", (x,), (y,))) == 40


def test_a_loop_needs_its_own_peak_beside_what_lives_around_it() -> None:
    kept, start, result = _value(100), _value(10), _value(10)
    inside, small, carried = _value(1000), _value(10), _value(10)
    body = Block(
        (carried,),
        (Operation("Fill", (), (inside,)), Operation("Sum", (inside,), (small,))),
        (small,),
    )
    loop = Operation("WhileRegion", (start,), (result,), regions=(Block((carried,), (), ()), body))
    before = (Operation("Fill", (), (kept,)), Operation("Fill", (), (start,)))
    after = Operation("Einsum", (kept, result), (_value(1),))
    # Besides the large tensor: what is kept, the loop's value before, and after.
    assert _peak(*before, loop, after) == 4 * (100 + 10 + 1000 + 10)
