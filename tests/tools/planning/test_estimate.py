"""The time of a step from its program."""

from __future__ import annotations

import pytest

from mtfrun.tools.planning import (
    Block,
    Collective,
    Curve,
    DeviceProfile,
    HostNetwork,
    Link,
    Operation,
    Program,
    TensorType,
    Value,
    estimate,
)
from mtfrun.tools.planning.estimate import product_flops

PROFILE = DeviceProfile(
    "made up",
    Curve.line(1.0, 1000.0),
    {"float32": Curve.line(0.0, 10.0), "bfloat16": Curve.line(0.0, 20.0)},
    HostNetwork(8, Link(5.0, 100.0), Link(0.0, 1.0)),
)


def _operation(
    name: str, *sizes: tuple[int, ...], attributes: str = "", dtype: str = "f32", **more: object
) -> Operation:
    """Returns an operation; the last sizes are those of its result."""
    *operands, result = (Value(i, TensorType(s, dtype)) for i, s in enumerate(sizes))
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


def test_a_constant_costs_no_more_than_any_operation() -> None:
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
